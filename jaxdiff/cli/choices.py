"""Choices on the command line: a flag that names one selects the dataclass whose fields become flags, too.

`--sampler heun` is read first, and tyro then makes flags such as `--churn` of the options of `heun`.
"""

import argparse
import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxdiff.registry import Choice


class Place(NamedTuple):
    """A field of a dataclass that holds a choice.

    Attributes:
      flag: the flag that names the choice, such as "--sample.sampler".
      options: prefix of the flags of its options.
      value: the choice.
    """

    flag: str
    options: str
    value: Choice


def places(default, prefix: str = "--") -> Iterator[Place]:
    """The choices in a dataclass, and in the dataclasses in it; those that choices hold follow them."""
    hints = typing.get_type_hints(type(default), include_extras=True)
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        name = field.name.replace("_", "-")
        inside = prefix if _without_name(hints[field.name]) else f"{prefix}{name}."
        if isinstance(value, Choice):
            yield Place(f"{prefix}{name}", inside, value)
        if dataclasses.is_dataclass(value):
            yield from places(value, inside)


def _without_name(hint) -> bool:
    """Whether tyro leaves a field's name out of the flags of its fields."""
    return any(getattr(note, "name", None) == "" for note in getattr(hint, "__metadata__", ()))


def select(default, args: list[str]) -> tuple[Any, list[str]]:
    """The dataclass with the choices that the arguments name, and the other arguments.

    Where the named choice is the default one, it keeps that one's options.

    Raises:
      ValueError: an unknown name.
    """
    for flag in [place.flag for place in places(default)]:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument(flag, flag.replace("-", "_").replace("__", "--", 1), dest="name", nargs="?")
        known, rest = parser.parse_known_args(args)
        if known.name is not None:
            default, args = _with(default, flag, known.name), rest
    return default, args


def _with(default, flag, name, prefix="--"):
    """The dataclass with a choice at the place of a flag."""
    hints, changes = typing.get_type_hints(type(default), include_extras=True), {}
    for field in dataclasses.fields(default):
        value, dashed = getattr(default, field.name), field.name.replace("_", "-")
        inside = prefix if _without_name(hints[field.name]) else f"{prefix}{dashed}."
        if isinstance(value, Choice) and f"{prefix}{dashed}" == flag:
            new = value.registry.parse(name)
            changes[field.name] = value if name == value.kind else new
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _with(value, flag, name, inside)
    return dataclasses.replace(default, **changes) if changes else default


def owners(default, flag: str) -> list[str]:
    """Choices that would have an option of this flag, as the arguments that select them."""
    found = []
    for place in places(default):
        for kind, cls in place.value.registry.items():
            names = {f"{place.options}{field.name.replace('_', '-')}" for field in dataclasses.fields(cls)}
            if flag in names:
                found.append(f"{place.flag} {kind}")
    return found


def described(default) -> str:
    """The choices of a dataclass, for its help."""
    lines = [f"  {place.flag} {{{','.join(place.value.registry)}}}: {place.value.kind}" for place in places(default)]
    return "Choices, with the present one; its own options are below:\n" + "\n".join(lines) if lines else ""


def flags_of(default, prefix: str = "--") -> Iterator[str]:
    """All flags of a dataclass, with the options of every choice."""
    hints = typing.get_type_hints(type(default), include_extras=True)
    for field in dataclasses.fields(default):
        value, name = getattr(default, field.name), field.name.replace("_", "-")
        inside = prefix if _without_name(hints[field.name]) else f"{prefix}{name}."
        yield f"{prefix}{name}"
        for one in [cls() for cls in value.registry.values()] if isinstance(value, Choice) else [value]:
            if dataclasses.is_dataclass(one):
                yield from flags_of(one, inside)
