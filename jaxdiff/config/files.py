"""Configs in files: those that ship, those that people write, and those that runs keep as JSON."""

import dataclasses
import importlib.util
import json
import re
import typing
from pathlib import Path

import typeguard
from etils import epath

from jaxdiff.config.fields import Config
from jaxdiff.config.upgrade import upgraded
from jaxdiff.errors import unknown


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
      ValueError: there is none of that name, or its get_config() does not return a `Config` of fields that there are and
        of the right types.
      FileNotFoundError: there is no such file.
    """
    path = Path(name) if name.endswith(".py") else config_dir() / f"{name}.py"
    if not path.is_file():
        if name.endswith(".py"):
            raise FileNotFoundError(f"there is no config {path}")
        raise unknown("config", name, names())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        config = module.get_config() if hasattr(module, "get_config") else None
    except TypeError as error:
        field = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        parts = {part.__name__: part for part in _parts(Config)}
        if not field or field[1] not in parts:
            raise
        raise unknown(f"field of {field[1]} in {path}:", field[2], typing.get_type_hints(parts[field[1]])) from None
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() that returns a jaxdiff.config.Config")
    return from_json(to_json(config), where=path.stem)  # which checks the types


def read_run(run: epath.PathLike) -> Config:
    """The config of a run that was trained.

    Raises:
      FileNotFoundError: the directory holds no run.
      ValueError: its `config.json` has a field that no config has.
    """
    path = epath.Path(run) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{run} holds no run (there is no {path}): give a directory that jaxdiff train has written"
        )
    try:
        return from_json(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON any more ({error}): put it right, or train in another --run-dir"
        ) from None


def to_json(config: Config) -> str:
    """The config as JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, where: str = "config") -> Config:
    """Inverse of `to_json`; errors call the config `where`.

    Raises:
      ValueError: a field that no config has, or a value of another type than the field's.
    """
    values = json.loads(text)
    return _build(Config, upgraded(values) if isinstance(values, dict) else values, where)


def _parts(cls):
    """A dataclass and those that its fields are of, and theirs."""
    yield cls
    for kind in typing.get_type_hints(cls).values():
        for one in typing.get_args(kind) or [kind]:
            if dataclasses.is_dataclass(one):
                yield from _parts(one)


def _build(cls, values, where):
    if not isinstance(values, dict):
        raise ValueError(f"{where} must hold fields, not {values!r}")
    types, fields = typing.get_type_hints(cls), {}  # without what is noted beside a type
    for name, value in values.items():
        if name not in types:
            raise unknown(f"field of {where}:", name, types)
        kinds = [kind for kind in (typing.get_args(types[name]) or [types[name]]) if dataclasses.is_dataclass(kind)]
        if kinds and not isinstance(value, dict):
            raise ValueError(f"{where}.{name} must hold fields, not {value!r}")
        if kinds:  # of several, such as networks, the one that has the most of these fields
            kind = max(kinds, key=lambda kind: len(set(value) & set(typing.get_type_hints(kind))))
            value = _build(kind, value, f"{where}.{name}")
        fields[name] = _checked(tuple(value) if isinstance(value, list) else value, types[name], f"{where}.{name}")
    return cls(**fields)


def _checked(value, kind, where):
    """The value, if it is of that type; bool is no int here."""
    try:
        if isinstance(value, bool) and kind is not bool:
            raise typeguard.TypeCheckError("is a bool")
        return typeguard.check_type(value, kind, collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS)
    except typeguard.TypeCheckError:
        kind = getattr(kind, "__name__", kind) if isinstance(kind, type) else str(kind).replace("typing.", "")
        raise ValueError(f"{where}={value!r} must be of type {kind}") from None
