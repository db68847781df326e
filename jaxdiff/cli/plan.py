"""`jaxdiff plan`."""

import dataclasses
import json
import logging
import os
import shlex
import subprocess
import sys
from typing import Annotated, Literal

import tyro

from jaxdiff import config as configs
from jaxdiff import model as models
from jaxdiff import progress
from jaxdiff.arguments import AT_LEAST_0, check_fields, check_number
from jaxdiff.cli.environment import is_on, prepare_jax
from jaxdiff.cli.files import check_no_input, located, writable
from jaxdiff.cli.flags import parse
from jaxdiff.cli.train import with_base
from jaxdiff.config import Config
from jaxdiff.errors import unknown
from jaxdiff.plan import chips

CHILD = "JAXDIFF_PLAN_CHILD"  # set in the process that compiles


@dataclasses.dataclass(frozen=True)
class PlanFlags:
    """Says what a training or sampling would take on devices that are not attached, as the compiler counts it.

    Attributes:
      config: the fields of the config.
      topology: such as v5e:16x16, of TPU v4, v5e, v5p, v6e and tpu7x; "here" are the devices that are attached.
      use: the training step, or an evaluation of the network for a batch of images and the decoder.
      slices: pods of that topology that are joined by a slower network.
      dtype: of the weights, of --for sample.
      sweep: a field and its values, such as train.batch_size=256,512: a report for each.
      largest_batch: search the largest batch that fits, by compiling for several.
      price: of an hour of one device, for the cost of a million images.
      quick: compile with less optimization, in a tenth of the time: sizes and times are then estimates.
      save: file for the compiled training step, for `jaxdiff train --compiled-step`.
      overwrite: replace it where it is there.
      json: print the report as JSON.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    topology: str = "v5e:4x4"
    use: Annotated[Literal["train", "sample"], tyro.conf.arg(name="for")] = "train"
    slices: int = 1
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    sweep: str = ""
    largest_batch: bool = False
    price: float | None = None
    quick: bool = False
    save: str | None = None
    overwrite: bool = False
    json: bool = False


DEFAULT = PlanFlags(Config())


def main(name: str, args: list[str]) -> None:
    """`jaxdiff plan CONFIG|MODEL --topology v5e:16x16 ...`."""
    default = configs.load(name) if name in configs.names() or name.endswith(".py") else models.load_config(name)
    flags = parse(PlanFlags(with_base(default, args)), args, f"jaxdiff plan {name}")
    chips.check(flags.topology, flags.slices)
    asked = variants(flags)
    if flags.price is not None:
        check_number("price", flags.price, *AT_LEAST_0)
    if flags.use == "train" and flags.dtype != DEFAULT.dtype:
        raise ValueError(
            f"`dtype`={flags.dtype} is of --for sample: training keeps float32, and computes in --net.dtype"
        )
    if flags.quick and flags.topology == "here":
        raise ValueError("`quick` is for devices that are not attached: leave it out")
    save = ""
    if flags.save is not None:
        if flags.sweep or flags.largest_batch or flags.quick:
            raise ValueError("`save` keeps one step, fully optimized: leave out --sweep, --largest-batch and --quick")
        path = located(flags.save, "save")
        check_no_input([path], [name])
        save = os.fspath(writable(path, None, flags.overwrite))
        if flags.use != "train" or flags.config.train.parallel != "sharded":
            raise ValueError("`save` keeps the training step of `train.parallel` sharded: leave it out")
    elif flags.overwrite:
        raise ValueError("`overwrite` is of --save: leave it out")
    if flags.topology == "here":
        prepare_jax()
    if not is_on(CHILD) and flags.topology != "here":
        print(in_child([*imports(sys.argv), "plan", name, *args], flags.quick), end="")
        return
    from jaxdiff.plan import reports

    found = [largest(flags, config) if flags.largest_batch else made(flags, config, save) for config in asked]
    if flags.json:
        values = [reports.to_values(one, flags.price) for one in found]
        print(json.dumps(values if flags.sweep else values[0], indent=2))
    else:
        print("\n\n".join(reports.text(one, flags.price) for one in found))
        if save and found[0].programs[0].too_large:
            print("compiled step   none is written, for it does not fit")
        elif save:
            print(f"compiled step   {save}: jaxdiff train {name} ... --compiled-step {shlex.quote(save)}")


def imports(argv: list[str]) -> list[str]:
    """The --import MODULE in front of the command."""
    count = 1
    while argv[count : count + 1] == ["--import"]:
        count += 2
    return argv[1:count]


def in_child(args: list[str], quick: bool) -> str:
    """Output of the command in a process of its own, where libtpu, which writes much on standard error, is loaded.

    Raises:
      ValueError: its error.
    """
    environment = os.environ | {CHILD: "1", "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    if quick:
        environment["JAX_OPTIMIZATION_LEVEL"] = "O1"
    command = [sys.executable, "-m", "jaxdiff", *args]
    with progress.bar("compiling", None, "seconds") as tick:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        while True:
            try:
                out, errors = child.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                tick(1)
            except BaseException:
                child.kill()
                raise
    if child.returncode:
        lines = [line for line in errors.splitlines() if line.startswith("jaxdiff: error: ")]
        if not lines:
            raise RuntimeError(f"compiling ended with {child.returncode}: {errors[-2000:]}")
        raise ValueError(lines[-1].removeprefix("jaxdiff: error: "))
    return out


def variants(flags: PlanFlags) -> list[Config]:
    """The config, or those of a sweep.

    Raises:
      ValueError: a sweep of another form, or of an unknown field.
    """
    if not flags.sweep:
        return [flags.config]
    path, equals, values = flags.sweep.partition("=")
    section, _, field = path.replace("-", "_").partition(".")
    if not equals or not values or not field:
        raise ValueError(f"`sweep`={flags.sweep} must be a field and its values, such as train.batch_size=256,512")
    sections = {one.name: getattr(flags.config, one.name) for one in dataclasses.fields(Config)}
    if section not in sections or not dataclasses.is_dataclass(sections[section]):
        raise unknown("section of the config", section, sections)
    fields = {one.name for one in dataclasses.fields(sections[section])}
    if field not in fields:
        raise unknown("field", path, [f"{section}.{one}" for one in fields])
    kind = type(getattr(sections[section], field))
    separator = ";" if kind is str else ","  # a mesh has commas of its own
    if kind not in (int, float, str):
        raise ValueError(f"`sweep`={flags.sweep} must be of a field that is a number or a text")
    changed = [
        dataclasses.replace(sections[section], **{field: _as(kind, value, flags.sweep)})
        for value in values.split(separator)
    ]
    return [check_fields(dataclasses.replace(flags.config, **{section: one})) for one in changed]


def _as(kind, text, sweep):
    try:
        return kind(text)
    except ValueError:
        wanted = "whole number" if kind is int else "number"
        raise ValueError(f"`sweep`={sweep}: {text!r} is not a {wanted}") from None


def made(flags: PlanFlags, config: Config, save: str = ""):
    """The report of a config."""
    from jaxdiff.plan import reports

    logging.getLogger("jaxdiff").setLevel(logging.WARNING)
    return reports.report(config, flags.topology, flags.use, flags.slices, flags.dtype, save)


def largest(flags: PlanFlags, config: Config):
    """The report of the largest batch that fits: doubled until it does not, then by bisection.

    Raises:
      ValueError: not even the smallest batch fits.
    """
    from jaxdiff.plan import reports

    section = "train" if flags.use == "train" else "sample"
    one = made(flags, config)
    unit = max(1, one.devices // one.mesh.get("tensor", 1))
    unit *= config.train.accumulate if flags.use == "train" else 1

    def at(size):
        changed = dataclasses.replace(getattr(config, section), batch_size=size * unit)
        found = made(flags, dataclasses.replace(config, **{section: changed}))
        return found if reports.fits(found) else None

    low, high, best = 0, max(1, one.batch // unit), None
    while found := at(high):
        low, high, best = high, 2 * high, found
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        if found := at(middle):
            low, best = middle, found
        else:
            high = middle
    if best is None:
        raise ValueError(f"{config.name} does not fit on {flags.topology}, even with a batch of {unit}")
    return best
