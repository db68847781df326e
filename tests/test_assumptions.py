"""What jaxdiff takes for granted of other libraries without their promise; each test names the code that relies on it."""

import contextlib
import dataclasses
import io

import pytest
import tyro

from jaxdiff import config
from jaxdiff.cli import flags
from jaxdiff.config import Config

TYPED = {
    "int": (["--train.steps", "many"], "Error parsing --train.steps: 'many' is not a whole number"),
    "float": (["--optim.b1", "x"], "Error parsing --optim.b1: 'x' is not a number"),
    "choice": (
        ["--diffusion.schedule", "cosinus"],
        "invalid choice 'cosinus' for argument '--diffusion.schedule'. Expected one of ('linear', 'scaled_linear', "
        "'cosine', 'sigmoid')",
    ),
    "no value": (["--train.steps"], "Missing value for argument '--train.steps'. Expected 1 values"),
}


@pytest.mark.parametrize("args, expected", TYPED.values(), ids=TYPED)
def test_tyro_complains_in_the_second_part_of_a_box(args, expected):
    """`cli.flags.complaint` reads it there."""
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as box:
        tyro.cli(Config, default=config.load("digits"), args=args)
    assert flags.complaint(box.getvalue()) == expected, f"tyro's box has changed:\n{box.getvalue()}"


def test_tyro_lists_each_flag_in_lines_of_its_help_that_begin_with_one():
    """`cli.flags.known_flags` reads them there."""
    default = config.load("digits")
    found = flags.known_flags(Config, default)
    assert {f"--{name}" for name in leaves(default)} <= set(found)
    for flag in found:
        assert flag.startswith("--") and not flag.endswith((",", ".", "-")), flag


def leaves(values, prefix=""):
    """Names as in train.batch-size."""
    for field in dataclasses.fields(values):
        value, name = getattr(values, field.name), f"{prefix}{field.name.replace('_', '-')}"
        yield from leaves(value, f"{name}.") if dataclasses.is_dataclass(value) else (name,)
