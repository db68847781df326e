"""`jaxdiff train`."""

import argparse
import dataclasses
import logging
import os
import shlex
from typing import Annotated

import jax
import tyro
from etils import epath

from jaxdiff import config as configs
from jaxdiff import hosts
from jaxdiff import model as models
from jaxdiff.cli import choices
from jaxdiff.cli.files import located
from jaxdiff.cli.flags import parse
from jaxdiff.config import ADAPTATIONS, Config
from jaxdiff.model import checkpoints, runs
from jaxdiff.train import base_model, loop, rundir
from jaxdiff.train.stop import Stopped


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """Trains a diffusion model. The defaults are those of the config.

    Attributes:
      config: the fields of the config.
      run_dir: directory of everything that is written, also gs://bucket/run; runs/NAME by default.
      resume: go on from the newest checkpoint of the run that is there.
      auto_resume: as --resume where there is a run, and start one where there is none; for jobs that are started again.
      profile: trace so many steps into RUN/profile, for TensorBoard's profile plugin or Perfetto.
      compiled_step: file of `jaxdiff plan --save`, with which --train.parallel sharded need not compile; it is executed.
      coordinator: host:port of process 0, where several processes train together outside of a TPU pod or SLURM.
      num_processes: how many processes train together.
      process_id: index of this process, from 0.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: str | None = None
    resume: bool = False
    auto_resume: bool = False
    profile: int = 0
    compiled_step: str | None = None
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


DEFAULT = TrainFlags(Config())


def main(name: str, args: list[str]) -> None:
    """`jaxdiff train CONFIG ...`."""
    default, prog = configs.load(name), f"jaxdiff train {name}"
    run, resume = where(args, default.name)
    if resume:  # with the config that the run was made with, and not with what the file has become since
        default = configs.read_run(run)
    else:
        default = with_base(default, args)
    flags = parse(TrainFlags(default), args, prog)
    done, steps = (checkpoints.steps(runs.checkpoint_dir(run)) or [0])[0], flags.config.train.steps
    if resume and flags.auto_resume and done >= steps:
        print(f"{run} is complete: it has made its {steps} steps")
        return
    hosts.initialize(flags.coordinator, flags.num_processes, flags.process_id)
    if not hosts.is_main():
        logging.getLogger("jaxdiff").setLevel(logging.WARNING)
    try:
        kept = None if flags.compiled_step is None else os.fspath(located(flags.compiled_step, "compiled_step"))
        loop.fit(flags.config, None, run, resume, flags.profile, kept)
    except Stopped as stopped:
        resuming = ["--resume"] if rundir.holds_run(run) else []
        again = shlex.join(["jaxdiff", "train", name, "--run-dir", run, *resuming])
        again += " (on every host, as before)" if jax.process_count() > 1 else ""
        raise Stopped(f"{stopped}; to go on: {again}", stopped.signum) from None
    if hosts.is_main():
        report(flags, run)


def report(flags: TrainFlags, run: str) -> None:
    """Prints where everything is."""
    for sheet in sorted(epath.Path(run).glob("samples/step_*.png"))[-1:]:
        print(f"samples      {sheet}")
    print(f"checkpoints  {runs.checkpoint_dir(run)}")
    print(f"curves       tensorboard --logdir {shlex.quote(run)}")
    if flags.profile:
        print(f"profile      {epath.Path(run) / 'profile'}")
    more = "more images  jaxdiff sample" if flags.config.samples else "its numbers  jaxdiff eval"
    print(f"{more} {shlex.quote(run)}")


def with_base(config: Config, args: list[str]) -> Config:
    """The config with the network and process of its base model, so that a flag which says otherwise is seen."""
    config = choices.select(TrainFlags(config), args)[0].config
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--base", "--adapt.base", nargs="?", dest="base")
    base = parser.parse_known_args(args)[0].base or config.adapt.base
    if not base:
        return config
    if config.adapt.kind == "none":
        raise ValueError(
            f"--base is the model of an adaptation: add --adapt and one of {', '.join(list(ADAPTATIONS)[1:])}"
        )
    theirs = models.load_config(base)
    shaped = dataclasses.replace(config.data, image_shape=theirs.data.image_shape)
    adapt = dataclasses.replace(config.adapt, base=base)
    return base_model.with_base(dataclasses.replace(config, adapt=adapt, data=shaped), theirs)


def checked_name(name: str) -> str:
    """The name of a run, whose directory is of that name in runs; it may have "/" inside.

    Raises:
      ValueError: a name that is that of no directory below runs, such as "..".
    """
    path = os.path.normpath(name)
    if os.path.isabs(name) or path.split(os.sep)[0] in (os.curdir, os.pardir):
        raise ValueError(f"`name`={name} is no directory below runs: choose another, or give the place by --run-dir")
    return name


def where(args: list[str], name: str) -> tuple[str, bool]:
    """The run's directory, and whether it is to be resumed: known before the flags are, whose defaults depend on it.

    Decided before this process joins the others, none of which has then written anything.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--run-dir", "--run_dir", nargs="?")  # tyro takes both spellings
    first.add_argument("--name", nargs="?")
    first.add_argument("--resume", action="store_true")
    first.add_argument("--auto-resume", "--auto_resume", action="store_true")
    known, _ = first.parse_known_args(args)
    if known.name == "":
        raise ValueError("`name` is empty: name the run, or leave it out")
    if known.run_dir is None:
        run = f"runs/{checked_name(known.name or name)}"
    else:
        run = os.fspath(located(known.run_dir, "run_dir"))
    return run, known.resume or (known.auto_resume and rundir.holds_run(run))
