"""The command line: `jaxdiff train`, `jaxdiff sample` and `jaxdiff eval`."""

import argparse
import contextlib
import dataclasses
import difflib
import io
import json
import logging
import os
import re
import shlex
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from etils import epath

from jaxdiff import config as configs
from jaxdiff import progress, xla
from jaxdiff.config import Config, Sample
from jaxdiff.errors import unknown
from jaxdiff.eval import draw, images, report
from jaxdiff.eval.report import Measure
from jaxdiff.nets.unet import UNetConfig
from jaxdiff.train import checkpoint, hosts, loop, rundir, setup
from jaxdiff.train.stop import Stopped
from jaxdiff.train.watch import NotFinite

USAGE = """jaxdiff: diffusion models in JAX

  jaxdiff train CONFIG [--run-dir DIR] [--resume] [--train.steps N] ...   train a model
  jaxdiff sample RUN [--sampler ddim] [--steps 50] [--num 64] ...         draw images from a trained model
  jaxdiff eval RUN [--metrics nll] [--source digits:test] ...             measure it on data that it has not seen

CONFIG is one of {configs}, or the path of a Python file that defines get_config().
RUN is a directory that 'jaxdiff train' has written, such as runs/digits.
'jaxdiff train CONFIG --help' lists all flags of training, and so do the others.
Set JAXDIFF_TRACEBACK=1 to see where an error came from.
"""


FLAG = r"--[a-z][\w.-]*"


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """Trains a diffusion model. What is not given is as in the config.

    Attributes:
      config: the fields of the config.
      run_dir: where everything is written, also gs://bucket/run; runs/NAME by default.
      resume: go on from the newest checkpoint of the run that is there.
      auto_resume: as --resume where there is a run, and start one where there is none; for jobs that are started again.
      profile: trace so many steps into RUN/profile, for TensorBoard's profile plugin or Perfetto.
      coordinator: host:port of process 0, where several processes train together outside of a TPU pod or SLURM.
      num_processes: how many processes train together.
      process_id: which of them this is, from 0.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: str | None = None
    resume: bool = False
    auto_resume: bool = False
    profile: int = 0
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


@dataclasses.dataclass(frozen=True)
class SampleFlags:
    """Draws images from a trained model. What is not given is as in the run's config.

    Attributes:
      sample: how to draw.
      out: the grid (.png) to write; by default a new file in RUN/samples.
      individual: also write each image as a PNG of its own, in a directory named as the grid.
      npz: also write all images as one uint8 array `images`, in an .npz named as the grid.
      animation: also show how the images came to be, in a .gif or .webp at this path.
      overwrite: replace files that are there.
    """

    sample: Annotated[Sample, tyro.conf.arg(name="")]
    out: Path | None = None
    individual: bool = False
    npz: bool = False
    animation: Path | None = None
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Measures a trained model on data that it has not seen.

    Attributes:
      measure: what, and on what.
      out: the report (.json) to write; by default a new file in RUN/eval.
      overwrite: replace a report that is there.
    """

    measure: Annotated[Measure, tyro.conf.arg(name="")] = Measure()
    out: Path | None = None
    overwrite: bool = False


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `jaxdiff` command, whose errors are one line on standard error and an exit code.

    2 is a mistake of the user's or a machine that cannot do it, 3 a loss that is not finite, 128 + n the end by signal n.
    """
    args = sys.argv[1:] if argv is None else argv
    try:
        with logged():
            dispatch(args)
    except (ValueError, OSError) as error:
        end(f"error: {said(error)}", 2)
    except NotFinite as error:
        end(f"error: {error}", 3)
    except Stopped as error:
        end(str(error), 128 + error.signum)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        end(f"error: out of memory: try --train.accumulate, --net.remat or a smaller batch ({error})", 2)
    except KeyboardInterrupt:
        end("stopped without saving", 128 + signal.SIGINT)


def said(error: Exception) -> str:
    """The text of an error, without the number that the system gives it."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


@contextlib.contextmanager
def logged():
    """Shows on standard error what jaxdiff logs."""
    logger, handler = logging.getLogger("jaxdiff"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("jaxdiff: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some libraries make the root logger repeat it
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax and tensorflow-datasets have much to say
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def end(message: str, code: int) -> None:
    """Ends the process with one line; inside of an `except`, and with the traceback where that was asked for."""
    if os.environ.get("JAXDIFF_TRACEBACK"):
        traceback.print_exc()
    print(f"jaxdiff: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def dispatch(args: list[str]) -> None:
    """Runs the command that the arguments name.

    Raises:
      ValueError: there is no such command, or it lacks what it works on.
    """
    if not args or args[0] in ("-h", "--help"):
        print(USAGE.format(configs=", ".join(configs.names())), end="")
        return
    commands = {
        "train": (train, "a config, such as digits"),
        "sample": (sample, "a run directory, such as runs/digits"),
        "eval": (evaluate, "a run directory, such as runs/digits"),
    }
    command, *rest = args
    if command not in commands:
        raise unknown("command", command, commands)
    run, what = commands[command]
    if not rest or rest[0].startswith("-"):
        raise ValueError(f"jaxdiff {command} needs {what}: see jaxdiff --help")
    xla.tune_cpu()
    use_compilation_cache()
    run(rest[0], rest[1:])


def train(name: str, args: list[str]) -> None:
    """`jaxdiff train CONFIG ...`."""
    default, prog = configs.load(name), f"jaxdiff train {name}"
    run, resume = where(args, default.name)
    if resume:  # with what the run was made with, and not with what the config has become since
        default = configs.read_run(run)
    flags = parse(TrainFlags, TrainFlags(default), args, prog)
    made, steps = (checkpoint.steps(rundir.checkpoints(run)) or [0])[0], flags.config.train.steps
    if resume and flags.auto_resume and made >= steps:
        print(f"{run} is complete: it has made its {steps} steps")
        return
    hosts.initialize(flags.coordinator, flags.num_processes, flags.process_id)
    if not hosts.is_main():
        logging.getLogger("jaxdiff").setLevel(logging.WARNING)
    try:
        loop.train(flags.config, run, resume, flags.profile)
    except Stopped as stopped:
        again = shlex.join(["jaxdiff", "train", name, "--run-dir", run, "--resume"])
        again += " (on every host, as before)" if jax.process_count() > 1 else ""
        raise Stopped(f"{stopped}; to go on: {again}", stopped.signum) from None
    if not hosts.is_main():
        return
    for drawn in sorted(epath.Path(run).glob("samples/step_*.png"))[-1:]:
        print(f"samples      {drawn}")
    print(f"checkpoints  {rundir.checkpoints(run)}")
    print(f"curves       tensorboard --logdir {run}")
    if flags.profile:
        print(f"profile      {epath.Path(run) / 'profile'}")
    print(f"more images  jaxdiff sample {run}")


def where(args: list[str], name: str) -> tuple[str, bool]:
    """The run's directory, and whether it is to be resumed: known before the flags are, whose defaults depend on it.

    Decided before this process joins the others, none of which has then written anything.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--run-dir", "--run_dir", nargs="?")  # tyro takes both spellings
    first.add_argument("--resume", action="store_true")
    first.add_argument("--auto-resume", "--auto_resume", action="store_true")
    known, _ = first.parse_known_args(args)
    run = known.run_dir or f"runs/{name}"
    return run, known.resume or (known.auto_resume and rundir.holds_run(run))


def sample(run: str, args: list[str]) -> None:
    """`jaxdiff sample RUN ...`."""
    config = configs.read_run(run)
    flags = parse_sample(config.sample, args, f"jaxdiff sample {run}")
    config = dataclasses.replace(config, sample=flags.sample, net=runs_here(config.net))
    draw.check(config)
    paths = output_paths(flags, epath.Path(run) / "samples")
    params = checkpoint.restore_ema(rundir.checkpoints(run), setup.param_shapes(config)).tree
    with progress.bar("sampling", draw.num_steps(config), "steps") as tick:
        parts = list(draw.batches(config, params, tick, frames="animation" in paths))
    drawn = np.concatenate([part for part, _ in parts])
    images.save_grid(paths["grid"], drawn)
    if "individual" in paths:
        images.save_each(paths["individual"], drawn)
    if "npz" in paths:
        np.savez_compressed(paths["npz"], images=drawn)
    if "animation" in paths:
        images.save_animation(paths["animation"], np.concatenate([frames for _, frames in parts], axis=1))
    for what, path in paths.items():
        print(f"{what:<12} {path}")


def evaluate(run: str, args: list[str]) -> None:
    """`jaxdiff eval RUN ...`."""
    config = configs.read_run(run)
    flags = parse(EvalFlags, EvalFlags(), args, f"jaxdiff eval {run}")
    config = dataclasses.replace(config, net=runs_here(config.net))
    measure = report.complete(flags.measure, config)
    path = report_path(flags, measure, epath.Path(run) / "eval")
    restored = checkpoint.restore_ema(rundir.checkpoints(run), setup.param_shapes(config))
    with progress.bar("measuring", report.work(measure), "steps") as tick:
        found = report.measured(config, restored.tree, measure, tick)
    about = {"run": str(run), "step": restored.step, "weights": "EMA", "trained_on": config.data.source}
    about |= {"source": measure.source, "num": measure.num, "seed": measure.seed}
    about |= {"labels_given": bool(config.net.num_classes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | {"metrics": found}, indent=2) + "\n")
    for name, numbers in found.items():
        for what, value in numbers.items():
            print(f"{name:<9} {what:<15} {f'{value:.5g}' if isinstance(value, float) else value}")
    print(f"of {measure.num} examples of {measure.source}, EMA weights of step {restored.step}")
    print(f"report    {path}")


def report_path(flags: EvalFlags, measure: Measure, directory: epath.Path) -> epath.Path:
    """Where the report goes.

    Raises:
      FileExistsError: something is there already and is not to be overwritten.
      ValueError: a file name that does not end in .json, or whose directory is missing.
    """
    if flags.out is None:
        return unused(directory / f"{measure.metrics.replace(',', '_')}_seed{measure.seed}.json", flags.overwrite)
    return writable(epath.Path(flags.out), (".json",), flags.overwrite)


def runs_here(net: UNetConfig) -> UNetConfig:
    """The same network with a program for attention that these devices have; its parameters know nothing of that."""
    try:
        net.check_platform(jax.default_backend())
    except ValueError:
        logging.getLogger("jaxdiff").info("attention is 'plain' here, and was %r in training", net.attention_kernel)
        return dataclasses.replace(net, attention_kernel="plain")
    return net


def parse_sample(default: Sample, args: list[str], prog: str) -> SampleFlags:
    """The flags of `jaxdiff sample`; what belongs to the run's sampler is kept only where that sampler is."""
    options = {name: getattr(default, name) for name in draw.OPTIONS}
    flags = parse(SampleFlags, SampleFlags(dataclasses.replace(default, **dict.fromkeys(options))), args, prog)
    if flags.sample.sampler != default.sampler:
        return flags
    typed = {name: getattr(flags.sample, name) for name in options}
    kept = {name: options[name] if value is None else value for name, value in typed.items()}
    return dataclasses.replace(flags, sample=dataclasses.replace(flags.sample, **kept))


def output_paths(flags: SampleFlags, directory: epath.Path) -> dict[str, epath.Path]:
    """What will be written where.

    Raises:
      FileExistsError: something is there already and is not to be overwritten.
      ValueError: a file name whose ending is not a kind of file that is written, or whose directory is missing.
    """
    s = flags.sample
    default = directory / f"{s.sampler}_{s.spacing}_{s.steps}_seed{s.seed}.png"
    grid = epath.Path(flags.out) if flags.out else unused(default, flags.overwrite)
    paths = {"grid": grid}
    if flags.individual:
        paths["individual"] = grid.with_suffix("")
    if flags.npz:
        paths["npz"] = grid.with_suffix(".npz")
    if flags.animation:
        paths["animation"] = flags.animation
    endings = {"grid": (".png",), "animation": (".gif", ".webp")}
    return {what: writable(path, endings.get(what), flags.overwrite) for what, path in paths.items()}


def unused(path: epath.Path, overwrite: bool) -> epath.Path:
    """The path, or with a number behind it the first that is not there yet."""
    free, again = path, 1
    while free.exists() and not overwrite:
        again += 1
        free = path.with_stem(f"{path.stem}_{again}")
    return free


def writable(path: epath.Path, endings: tuple[str, ...] | None, overwrite: bool) -> epath.Path:
    """The path, if it may be written.

    Raises:
      FileExistsError: something is there already and is not to be overwritten.
      FileNotFoundError: its directory is missing.
      ValueError: it has none of the endings.
    """
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{path} must end in {' or '.join(endings)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent}: make it first")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already: add --overwrite to replace it, or choose another name")
    return path


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


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs: in JAX_COMPILATION_CACHE_DIR, or in the user's cache directory."""
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxdiff" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
