"""Choices on the command line: a flag that names one selects the dataclass whose fields become flags, too.

`--sampler heun` is read first, and tyro then makes flags such as `--churn` of the options of `heun`.
"""

import argparse
import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxdiff.registry import Choice


class Field(NamedTuple):
    """A field of a dataclass on the command line.

    Attributes:
      name: name of the field.
      flag: its flag.
      inside: prefix of the flags of the fields of its value.
      value: its value.
      kinds: dataclasses that can be chosen in place of the value; () where it is not a choice.
    """

    name: str
    flag: str
    inside: str
    value: Any
    kinds: tuple[type[Choice], ...]


def fields_of(default, prefix: str = "--", above: tuple = ()) -> Iterator[Field]:
    """The fields of a dataclass; a choice within one of the same registry, such as a CLIP's text transformer, is fixed."""
    hints = typing.get_type_hints(type(default), include_extras=True)
    for field in dataclasses.fields(default):
        value, name = getattr(default, field.name), field.name.replace("_", "-")
        inside = prefix if _without_name(hints[field.name]) else f"{prefix}{name}."
        chosen = isinstance(value, Choice) and value.registry not in above
        yield Field(field.name, f"{prefix}{name}", inside, value, tuple(value.registry.values()) if chosen else ())


def _without_name(hint) -> bool:
    """Whether tyro leaves a field's name out of the flags of its fields."""
    return any(getattr(note, "name", None) == "" for note in getattr(hint, "__metadata__", ()))


def _below(field, above):
    """The registries above the fields of a field's value."""
    return (*above, field.value.registry) if isinstance(field.value, Choice) else above


def places(default, prefix: str = "--", above: tuple = ()) -> Iterator[Field]:
    """The fields of a dataclass that are choices, and those of the dataclasses in it."""
    for field in fields_of(default, prefix, above):
        if field.kinds:
            yield field
        if dataclasses.is_dataclass(field.value):
            yield from places(field.value, field.inside, _below(field, above))


def flags_of(default, prefix: str = "--", above: tuple = ()) -> Iterator[str]:
    """All flags of a dataclass, with the options of every choice."""
    for field in fields_of(default, prefix, above):
        yield field.flag
        for value in [cls() for cls in field.kinds] or [field.value]:
            if dataclasses.is_dataclass(value):
                yield from flags_of(value, field.inside, _below(field, above))


def select(default, args: list[str]) -> tuple[Any, list[str]]:
    """The dataclass with the choices that the arguments name, and the other arguments.

    Where the named choice is the default one, it keeps that one's options.

    Raises:
      ValueError: an unknown name.
    """
    for flag in [field.flag for field in places(default)]:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument(flag, f"--{flag[2:].replace('-', '_')}", dest="name", nargs="?")
        known, rest = parser.parse_known_args(args)
        if known.name is not None:
            default, args = _with(default, flag, known.name), rest
    return default, args


def _with(default, flag, name, prefix="--"):
    """The dataclass with a choice at the place of a flag."""
    changes = {}
    for field in fields_of(default, prefix):
        if field.flag == flag:
            value = field.value
            changes[field.name] = value if name == value.kind else value.registry.parse(name)
        elif dataclasses.is_dataclass(field.value):
            changes[field.name] = _with(field.value, flag, name, field.inside)
    return dataclasses.replace(default, **changes) if changes else default


def owners(default, flag: str) -> list[str]:
    """Choices that would have an option of this flag, as the arguments that select them."""
    return [
        f"{field.flag} {cls.kind}"
        for field in places(default)
        for cls in field.kinds
        if flag in {option.flag for option in fields_of(cls(), field.inside)}
    ]


def described(default) -> str:
    """The choices of a dataclass, for its help."""
    lines = [f"  {field.flag} {{{','.join(field.value.registry)}}}: {field.value.kind}" for field in places(default)]
    return "Choices, with the present one; its own options are below:\n" + "\n".join(lines) if lines else ""
