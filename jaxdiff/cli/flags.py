"""Parsing of arguments into dataclasses, with errors of one line."""

import contextlib
import inspect
import io
import os
import re
import shutil
from collections.abc import Iterable

import tyro

from jaxdiff.cli import choices
from jaxdiff.errors import nearest

RULE = r"[-\u2500-\u257f]{6,}"  # dashes, or the signs that boxes are drawn with
# Arguments whose flags have other names.
SYNONYMS = {
    "adapters": "lora",
    "inversion": "from_inversion",
    "num_steps": "steps",
    "factor": "shift",
    "adapt.base": "base",
}


def parse(default, args: list[str], prog: str):
    """The flags that a person typed, over a dataclass of defaults.

    Raises:
      ValueError: an unknown flag, with the nearest known one, or a value that a flag does not take; one line.
    """
    if dashed := next((arg for arg in args if arg.startswith("-") and " " in arg.partition("=")[0]), None):
        shown = dashed if len(dashed) < 40 else f"{dashed[:40]}..."
        raise ValueError(
            f"{shown!r} begins as flags do: give such a text behind an equals sign, as --prompts='-a word'"
        )
    default, rest = choices.select(default, args)
    box, options = io.StringIO(), {"args": rest, "prog": prog, "description": _description(default)}
    try:
        with contextlib.redirect_stderr(box), _wide_enough():
            typed, unknown = tyro.cli(type(default), default=default, return_unknown_args=True, **options)
    except SystemExit as stop:
        if not stop.code:  # of --help
            raise
        raise ValueError(
            f"{complaint(box.getvalue()) or 'the flags cannot be read'} ({prog} --help lists all flags)"
        ) from None
    if unknown:
        raise _unknown(unknown, default, prog)
    return typed


@contextlib.contextmanager
def _wide_enough(least=40):
    """A terminal that is not too narrow for tyro, which below some columns never ends."""
    before = os.environ.get("COLUMNS")
    if shutil.get_terminal_size().columns >= least:
        yield
        return
    os.environ["COLUMNS"] = str(least)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)


def _unknown(words, default, prog):
    """The error for words that are no flags of the command."""
    first = next((word for word in words if word.startswith("-")), None)
    if first is None:
        prompts = ": prompts stand right behind the model" if "--prompts" in choices.flags_of(default) else ""
        shown = words[0] if len(words[0]) < 40 else f"{words[0][:40]}..."
        return ValueError(f"{shown!r} belongs to no flag{prompts} ({prog} --help lists all flags)")
    first = first.partition("=")[0]
    if owners := choices.owners(default, first):
        return ValueError(f"{first} is an option of {' or '.join(owners)}: choose that, or leave it out")
    near = _nearest_flag(first, [*choices.flags_of(default)])
    near = f": did you mean {near}?" if near else ""
    return ValueError(f"unknown flag {first}{near} ({prog} --help lists all flags)")


def _nearest_flag(flag, known):
    """The flags that one names without their section, or the most similar one; None if none is similar."""
    ends = [one for one in known if one.endswith(f".{flag.lstrip('-').lower().replace('_', '-')}")]
    return " or ".join(sorted(ends)) if 0 < len(ends) < 4 else nearest(flag, known, cutoff=0.7)


def _description(default):
    about = inspect.cleandoc(type(default).__doc__).split("\n\nAttributes:")[0]
    return "\n\n".join(filter(None, [about, choices.described(default)]))


def complaint(box: str) -> str:
    """The complaint in the box that tyro prints, which is the only way in which tyro gives it.

    The box is taken to hold a title, a rule, the complaint, a rule, and help. Of one that does not, the line has all words.
    """
    parts = [" ".join(re.sub(r"[\u2500-\u257f]", " ", part).split()) for part in re.split(RULE, box)]
    words = parts[1] if len(parts) > 2 and parts[1] else " ".join(part for part in parts if part)
    words = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", words)
    words = re.sub(
        r"(Error parsing )?--?([\w.-]+).*could be instantiated from (\[.*?\])\..*", r"--\2 does not take \3", words
    )
    words = re.sub(r"\[/?bold\]", "", words)
    words = re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", words)
    return words.rstrip(".")


def as_flags(message: str, known: Iterable[str] = ()) -> str:
    """A message of the library, with the arguments that it names in backticks as flags.

    Args:
      message: text such as "`batch_size`=3 does not divide by 8 devices".
      known: flags of the command; an argument is the one that it ends, of sampling where there are several.

    Example::

        >>> from jaxdiff.cli.flags import as_flags
        >>> as_flags("`batch_size`=3 does not divide by 8 devices, nor does `train.batch_size`")
        '--batch-size=3 does not divide by 8 devices, nor does --train.batch-size'
        >>> as_flags("`num_steps`=3000 must be from 1 to 1000", ["--train.steps", "--sample.steps"])
        '--sample.steps=3000 must be from 1 to 1000'
    """
    known = set(known)

    def flag(match):
        name = SYNONYMS.get(match[1], match[1]).replace("_", "-")
        ends = sorted(one for one in known if one.endswith(f".{name}"))
        fitting = [one for one in (f"--{name}", f"--sample.{name}", *ends[:1]) if one in known]
        return fitting[0] if fitting else f"--{name}"

    return re.sub(r"`([a-z_][a-z_.0-9]*)`", flag, message)
