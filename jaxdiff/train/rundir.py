"""A run's directory: who may write into it, and what may go on in it. Local, or remote as in gs://bucket/run."""

import contextlib
import dataclasses
import functools

import filelock
from etils import epath

from jaxdiff import disk
from jaxdiff.config import Config, Train, to_json
from jaxdiff.config.fields import FREE_OF_DATA
from jaxdiff.files import make_output_dir, read_text, write_whole
from jaxdiff.model import checkpoints, runs


def write_config(run: epath.PathLike, config: Config) -> None:
    """Writes `config.json`, whole or not at all."""
    path, text = epath.Path(run) / "config.json", to_json(config)
    if path.exists() and read_text(path) == text:
        return
    write_whole(path, text)


def holds_run(run: epath.PathLike) -> bool:
    """Whether there is something to resume."""
    return (epath.Path(run) / "config.json").exists() and bool(checkpoints.steps(runs.checkpoint_dir(run)))


def claim(run: epath.PathLike, resume: bool) -> None:
    """Makes the run's directory, or checks that there is one to resume; never overwrites a run.

    A start that ended before its first checkpoint, which is saved before the first step, has left nothing to lose.

    Raises:
      FileExistsError: something of a run is there, and `resume` is False.
      FileNotFoundError: `resume` is True, and there is no run, or one without a checkpoint.
      NotADirectoryError: a file is in the way.
    """
    run = epath.Path(run)
    if run.exists() and not run.is_dir():
        raise NotADirectoryError(f"{run} is a file: choose another directory")
    saved = checkpoints.steps(runs.checkpoint_dir(run))
    if not resume and saved:
        raise FileExistsError(f"{run} already holds a run: add `resume` to go on with it, or choose another directory")
    found = [name for name in ("samples", "corrupt", "not_finite") if (run / name).exists()]
    if not resume and found:
        raise FileExistsError(
            f"{run} already holds a run that saved no checkpoint ({', '.join(found)}): remove it, or choose another "
            "directory"
        )
    if resume and not (run / "config.json").exists():
        raise FileNotFoundError(f"{run} holds no run to resume: leave `resume` out to start one")
    if resume and not saved:
        raise FileNotFoundError(f"{run} saved no checkpoint to resume from: remove it and leave `resume` out")
    try:
        make_output_dir(run)
    except OSError as error:
        raise type(error)(f"{run} cannot be made ({error.strerror}): choose another directory") from error


@contextlib.contextmanager
def locked(run: epath.PathLike):
    """Keeps a second training out of a local directory, until this process ends by whatever means.

    Raises:
      FileExistsError: another process is training there.
    """
    if disk.is_remote(run):  # no locks in buckets
        yield
        return
    epath.Path(run).mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(epath.Path(run) / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise FileExistsError(
            f"another process is training in {run}: wait for it, or choose another directory"
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_same(before: Config, now: Config) -> None:
    """Refuses to resume with a config that would make another run of it.

    Raises:
      ValueError: the first field that may not change.
    """
    fixed = [
        ("data",),
        ("net",),
        ("diffusion",),
        ("latent",),
        ("reconstruction",),
        ("adapt",),
        ("optim", "method"),
        ("optim", "moment_dtype"),
        ("train", "seed"),
        ("train", "batch_size"),
        *([("train", "steps_per_call")] if now.data.buckets else []),  # all in a call are of one bucket
    ]
    before = with_source_moved(before, now)
    free = {name: getattr(now.data, name) for name in FREE_OF_DATA}
    before = dataclasses.replace(before, data=dataclasses.replace(before.data, **free))
    old, new = before.data.source, now.data.source
    for field in dataclasses.fields(old) if old.kind == new.kind else ():
        if (was := getattr(old, field.name)) != (asked := getattr(new, field.name)):
            raise ValueError(
                f"`resume` cannot change `data.source.{field.name}` from {was} to {asked}: leave it, and say where files "
                "have moved by `data.source.path` alone"
            )
    for path in fixed:
        old, new = (functools.reduce(getattr, path, config) for config in (before, now))
        if old != new:
            path, old, new = _difference(path, old, new)
            raise ValueError(f"`resume` cannot change {'.'.join(path)} from {old} to {new}: start another run")


def _difference(path, old, new):
    """The first field in which two values differ, as its path and both of its values."""
    if type(old) is type(new) and dataclasses.is_dataclass(old):
        for name in (field.name for field in dataclasses.fields(old)):
            if getattr(old, name) != getattr(new, name):
                return _difference((*path, name), getattr(old, name), getattr(new, name))
    return path, old, new


def with_source_moved(before: Config, now: Config) -> Config:
    """The earlier config with the path of the later one's data, where nothing else of the source differs.

    Whether it holds the same files is checked by `run.check_examples`.
    """
    old, new = before.data.source, now.data.source
    if old.kind != new.kind or not hasattr(old, "path"):
        return before
    return dataclasses.replace(
        before, data=dataclasses.replace(before.data, source=dataclasses.replace(old, path=new.path))
    )


def check_rest(start: int, train: Train) -> None:
    """Refuses to go on from step `start` to an end that the calls do not meet.

    Raises:
      ValueError: the end is not ahead, or not a whole number of calls away.
    """
    if start >= train.steps:
        raise ValueError(f"the run is at step {start} already: ask for more than `train.steps`={train.steps}")
    if (train.steps - start) % train.steps_per_call:
        raise ValueError(
            f"from step {start} to `train.steps`={train.steps} is not a multiple of "
            f"`train.steps_per_call`={train.steps_per_call}"
        )
