"""From what a person typed to dataclasses, and errors of one line."""

import contextlib
import difflib
import io
import re

import tyro

FLAG = r"--[a-z][\w.-]*"


def parse(flags: type, default, args: list[str], prog: str):
    """The flags that a person typed, over the defaults.

    Raises:
      ValueError: what tyro has to say about them, in one line with the nearest flag.
    """
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return tyro.cli(flags, default=default, args=args, prog=prog)
    except SystemExit as stop:
        if not stop.code:
            print(out.getvalue())
            raise
        raise ValueError(one_line(err.getvalue(), prog)) from None


def one_line(message: str, prog: str) -> str:
    """Condenses tyro's box: its complaint, the nearest of the flags that it proposes, and where help is."""
    sections = [" ".join(part.split()) for part in re.split(r"[-─│╭╮╰╯]{6,}", message)]
    complaint = sections[1] if len(sections) > 1 else sections[0]
    before, _, proposed = message.partition("Perhaps you meant:")
    typed, flags = re.search(FLAG, before), re.findall(FLAG, proposed)
    near = difflib.get_close_matches(typed[0], flags, 1, cutoff=0.0) if typed else flags[:1]
    complaint = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", complaint)
    complaint = re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", complaint)
    return complaint.rstrip(".") + (f": did you mean {near[0]}?" if near else "") + f" ({prog} --help lists all flags)"
