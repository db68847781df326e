"""Configs in files: those that ship, those that people write, and those that runs keep as JSON."""

import contextlib
import dataclasses
import importlib.util
import json
import re
import typing
from pathlib import Path

from etils import epath

from jaxdiff.arguments import check_type
from jaxdiff.config.fields import Config
from jaxdiff.config.upgrade import upgraded
from jaxdiff.errors import of_code, unknown
from jaxdiff.files import check_regular, read_json
from jaxdiff.paths import as_path
from jaxdiff.registry import Choice


def config_dir() -> Path:
    """The configs that ship: beside the package in a clone, inside it when installed."""
    package = Path(__file__).parents[1]
    clone = package.parent / "configs"
    return clone if clone.is_dir() and (package.parent / "pyproject.toml").is_file() else package / "configs"


def names() -> list[str]:
    """The configs that ship, by name."""
    return sorted(path.stem for path in config_dir().glob("*.py"))


def load(name: str) -> Config:
    """The config of that name, or of a Python file that defines get_config().

    Raises:
      TypeError: no text.
      ValueError: there is none of that name, its code fails, or its get_config() does not return a `Config` of fields
        that there are and of the right types.
      FileNotFoundError: there is no such file.
      OSError: it is a pipe or a device.
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be the name of a config, or of its file, not {type(name).__name__}")
    path = Path(as_path(name)) if name.endswith(".py") else config_dir() / f"{name}.py"
    check_regular(path)
    if not path.is_file():
        if name.endswith(".py"):
            raise FileNotFoundError(f"there is no config {path}")
        raise unknown("config", name, names())
    config = _config_in(path)
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() that returns a jaxdiff.config.Config")
    with of_code(str(path), str(path)):  # values that JSON cannot hold
        text = to_json(config)
    return from_json(text, where=path.stem)  # which checks the types


def _config_in(path):
    """The result of get_config() in a Python file; None where it defines none."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        with of_code(str(path), spec.origin):
            spec.loader.exec_module(module)
            return module.get_config() if callable(getattr(module, "get_config", None)) else None
    except ValueError as error:
        field = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        parts = {part.__name__: part for part in _dataclasses(Config)}
        if not field or field[1] not in parts:
            raise
        raise unknown(f"field of {field[1]} in {path}:", field[2], typing.get_type_hints(parts[field[1]])) from None


def read_run(run: epath.PathLike) -> Config:
    """The config of a run that was trained.

    Raises:
      FileNotFoundError: the directory holds no run.
      OSError: its `config.json` is a pipe, or cannot be read.
      ValueError: its `config.json` is not JSON, or has a field that no config has; the message names the file.
    """
    path = as_path(run) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{run} holds no run (there is no {path}): give a directory that jaxdiff train has written"
        )
    try:
        values = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}: repair it, or choose another directory") from None
    return _from_values(values, str(path))


def to_json(config: Config) -> str:
    """The config as JSON; choices have a field "kind"."""
    return json.dumps(to_values(config), indent=2) + "\n"


def to_values(config) -> dict:
    """A dataclass as JSON values, as in `to_json`."""
    kind = {"kind": config.kind} if isinstance(config, Choice) else {}
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return kind | {name: to_values(v) if dataclasses.is_dataclass(v) else v for name, v in values.items()}


def from_json(text: str, where: str = "config") -> Config:
    """Inverse of `to_json`; errors call the config `where`.

    Raises:
      ValueError: a field that no config has, a value of another type than the field's, or an unknown choice.
    """
    return _from_values(json.loads(text), where)


def _from_values(values, where):
    return _build(Config, upgraded(values) if isinstance(values, dict) else values, where)


def _dataclasses(cls):
    """A dataclass, those of its fields, and those of their fields in turn; of choices all that there are."""
    found, rest = [], [cls]
    while rest:
        found.append(cls := rest.pop())
        for default in (field.default for field in dataclasses.fields(cls)):
            classes = default.registry.values() if isinstance(default, Choice) else [type(default)]
            rest += [one for one in classes if dataclasses.is_dataclass(one) and one not in (*found, *rest)]
    return found


def _build(cls, values, where):
    """A dataclass from JSON values; its defaults say which of its fields hold dataclasses and choices."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must hold fields, not {values!r}")
    types, default, built = typing.get_type_hints(cls), cls(), {}
    fields = [field.name for field in dataclasses.fields(cls)]
    for name, value in values.items():
        if name not in fields:
            raise unknown(f"field of {where}:", name, fields)
        built[name] = _value(getattr(default, name), types[name], value, f"{where}.{name}")
    with _named(where):
        return cls(**built)


def _value(default, kind, value, where):
    if isinstance(default, Choice):
        return check_type(where, _choice(default.registry, value, where), kind)
    if dataclasses.is_dataclass(default):
        return _build(type(default), value, where)
    return check_type(where, _tupled(value), kind)


def _tupled(value):
    """Lists, also those in lists, as tuples."""
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _choice(registry, value, where):
    """A choice from its fields, among which is its "kind", or from its text form."""
    if isinstance(value, str):
        with _named(where):
            return registry.parse(value)
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise ValueError(f'{where} must name its "kind", one of {", ".join(registry)}, not {value!r}')
    with _named(where):
        cls = registry[value["kind"]]
    return _build(cls, {name: option for name, option in value.items() if name != "kind"}, where)


@contextlib.contextmanager
def _named(where):
    """Errors inside begin with the place in the config."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
