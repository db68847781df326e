"""From arguments to dataclasses, and errors of one line."""

import contextlib
import difflib
import io
import re
from collections.abc import Iterable

import tyro

from jaxdiff.cli import choices

FLAG = r"--[a-z][\w.-]*"
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
      ValueError: tyro's complaint about them, in one line with the nearest flag.
    """
    default, rest = choices.select(default, args)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return tyro.cli(type(default), default=default, args=rest, prog=prog, description=_description(default))
    except SystemExit as stop:
        if not stop.code:
            print(out.getvalue())
            raise
        raise ValueError(one_line(err.getvalue(), prog, default)) from None


def _description(default):
    return "\n\n".join(
        filter(None, [type(default).__doc__.split("\n\n    Attributes:")[0], choices.described(default)])
    )


def one_line(message: str, prog: str, default=None) -> str:
    """Condenses tyro's box: its complaint, the nearest of the flags that it proposes, and where help is."""
    sections = [" ".join(part.split()) for part in re.split(r"[-─│╭╮╰╯]{6,}", message)]
    complaint = sections[1] if len(sections) > 1 else sections[0]
    before, _, proposed = message.partition("Perhaps you meant:")
    typed, flags = re.search(FLAG, before), re.findall(FLAG, proposed)
    if typed and default is not None and (owners := choices.owners(default, typed[0])):
        return f"{typed[0]} is an option of {' or '.join(owners)}: choose that, or leave it out"
    near = difflib.get_close_matches(typed[0], flags, 1, cutoff=0.0) if typed else flags[:1]
    complaint = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", complaint)
    complaint = re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", complaint)
    return complaint.rstrip(".") + (f": did you mean {near[0]}?" if near else "") + f" ({prog} --help lists all flags)"


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
