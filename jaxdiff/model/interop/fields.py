"""Fields of published configs: an absent one has the default of its class, and one that cannot be honoured is refused."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from jaxdiff.files import read_json

# What files say beside the fields of their class.
BOOKKEEPING = {"_class_name", "_diffusers_version", "_name_or_path", "architectures", "model_type", "torch_dtype", "dtype",
               "transformers_version", "sample_size", "split_head_dim", "use_memory_efficient_attention"}  # fmt: skip


def fields_of(path: epath.Path) -> dict[str, Any]:
    """Fields of a JSON file.

    Raises:
      FileNotFoundError: there is none.
      OSError: it is a pipe, or cannot be read.
      ValueError: it is not JSON, or no object.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold fields")
    if (kind := fields.get("_class_name")) is not None and not isinstance(kind, str):
        raise ValueError(f"{path}: _class_name={kind!r} must be a name")
    return fields | ({"_class_name": kind.removeprefix("Flax")} if kind else {})  # once there were the same in Flax


def peeked(path: epath.Path) -> dict[str, Any]:
    """Fields of a JSON file, to tell what it is; none of a file that is not there, or is no JSON."""
    try:
        return fields_of(path)
    except (OSError, ValueError):
        return {}


class Fields(NamedTuple):
    """Fields of one published class.

    Attributes:
      read: defaults of the fields that are honoured.
      fixed: the only values that the others may have.
      unused: fields that change nothing that is computed here.
      nullable: those of `read` that may be null.
      several: those of `read` that may have one value for each resolution.
    """

    read: Mapping[str, Any]
    fixed: Mapping[str, Any] = {}
    unused: tuple[str, ...] = ()
    nullable: tuple[str, ...] = ()
    several: tuple[str, ...] = ()

    def values(self, config: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Values of the fields that are honoured, lists as tuples.

        Args:
          config: published config.
          where: name of its file, for errors.

        Raises:
          ValueError: a field that is not known, or a value that is not supported; the field is named.
        """
        config = {name: _frozen(value) for name, value in config.items() if name not in BOOKKEEPING.union(self.unused)}
        for name, value in config.items():
            if name in self.fixed and value != self.fixed[name]:
                raise ValueError(f"{where}: {name}={value!r} is not supported, only {self.fixed[name]!r}")
            if name not in self.fixed and name not in self.read:
                raise ValueError(f"{where}: the field {name}={value!r} is not known")
            if isinstance(value, tuple) and name in self.read and name not in (*self.several, *_lists(self.read)):
                raise ValueError(f"{where}: {name}={list(value)} must be one value, not several")
            if (
                name in self.read
                and not _fits(value, self.read[name])
                and (value is not None or name not in self.nullable)
            ):
                raise ValueError(f"{where}: {name}={value!r} must be of the type of {self.read[name]!r}")
        return {name: config.get(name, default) for name, default in self.read.items()}


def one_of(choices: Mapping[str, Any], fields: Mapping[str, Any], name: str, where: str) -> Any:
    """The choice that a field names.

    Args:
      choices: by the values that the field may have.
      fields: by name.
      name: of the field.
      where: name of the file, for errors.

    Raises:
      ValueError: the field has another value.
    """
    if fields.get(name) not in choices:
        raise ValueError(f"{where}: {name}={fields.get(name)!r} is not supported, only {', '.join(map(str, choices))}")
    return choices[fields[name]]


def _lists(read):
    """Fields that are lists, or that have no default by which that is known."""
    return [name for name, default in read.items() if isinstance(default, tuple) or default is None]


def _fits(value, default):
    """Whether a value has the type of a default; several numbers may stand for one."""
    if default is None:
        return True
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_fits(one, default[0] if default else 0) for one in value)
    numbers = value if isinstance(value, tuple) and value else (value,)
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
        return False
    return isinstance(default, float) or all(float(one).is_integer() for one in numbers)


def _frozen(value):
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
