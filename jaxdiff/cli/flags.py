"""From what a person typed to dataclasses, and errors of one line."""

import contextlib
import difflib
import io
import re

import tyro

FLAG = r"--[a-z][\w.-]*"
RULE = r"[-\u2500-\u257f]{6,}"  # dashes, or the signs that boxes are drawn with


def parse(flags: type, default, args: list[str], prog: str):
    """The flags that a person typed, over the defaults.

    Raises:
      ValueError: a flag that there is not, with the nearest that there is, or a value that it does not take; one line.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            typed, unknown = tyro.cli(flags, default=default, args=args, prog=prog, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:  # of --help
            raise
        raise ValueError(
            f"{complaint(box.getvalue()) or 'the flags cannot be read'} ({prog} --help lists all flags)"
        ) from None
    if unknown:
        first = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        near = difflib.get_close_matches(first, known_flags(flags, default), 1)
        near = f": did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown flag {first}{near} ({prog} --help lists all flags)")
    return typed


def known_flags(flags: type, default) -> list[str]:
    """All flags, from those lines of tyro's help that begin with one."""
    text = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
        tyro.cli(flags, default=default, args=["--help"])
    lines = [line for line in text.getvalue().splitlines() if re.match(r"[\s\u2500-\u257f]*-", line)]
    return re.findall(FLAG, " ".join(lines))


def complaint(box: str) -> str:
    """The complaint in the box that tyro prints, which is the only way in which tyro gives it.

    The box is taken to hold a title, a rule, the complaint, a rule, and help. Of one that does not, the line has all words.
    """
    parts = [" ".join(re.sub(r"[\u2500-\u257f]", " ", part).split()) for part in re.split(RULE, box)]
    words = parts[1] if len(parts) > 2 and parts[1] else " ".join(part for part in parts if part)
    words = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", words)
    words = re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", words)
    return words.rstrip(".")
