"""Checkpoints of runs, read: the newest that is whole, each array compared with its checksum.

Of Orbax only documented names are used. Beyond its documentation it is taken for granted, and tested in
tests/test_assumptions.py, that a manager asks for preemptions by its own method `reached_preemption`, and that an error of
tensorstore, which reads and writes the arrays, holds the name of its kind (`PASSING`).
"""

import contextlib
import errno
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxdiff import disk, hosts
from jaxdiff.files import check_regular
from jaxdiff.model import checksums

log = logging.getLogger("jaxdiff")

NAMES = ocp.path.step.standard_name_format()  # a checkpoint is a directory that is called by its step
# What tensorstore says of a storage that cannot be reached, which says nothing of the checkpoint.
PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED", "CANCELLED")


class Restored(NamedTuple):
    """Checkpoint that was read.

    Attributes:
      tree: the arrays: NumPy, or on the mesh that was asked for.
      about: what was saved beside them, a dict of JSON values.
      step: of the checkpoint.
      corrupt: newer steps that could not be read.
    """

    tree: Any
    about: dict
    step: int
    corrupt: tuple[int, ...]


class OtherStructure(ValueError):
    """A checkpoint that is sound, but of other arrays than those asked for."""


class Manager(ocp.CheckpointManager):
    """Orbax's manager without its questions for preemptions.

    jax's service stops all processes at the next number after the largest that any has asked with, and these are numbers of
    calls (`stop.Stop.asked`), of which Orbax knows nothing: it would ask with numbers of steps.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


def manager_of(path, prefix, everyone=False, **options):
    """A manager of this process alone, or of all processes together."""
    options = {"step_name_format": NAMES, "create": False} | options
    if not everyone:
        me = jax.process_index()
        options["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"{prefix}{me}"
        )
    return Manager(path, options=ocp.CheckpointManagerOptions(**options))


def steps(directory: epath.PathLike) -> list[int]:
    """The steps of which there are whole checkpoints, newest first."""
    directory = absolute(directory)
    names = {path.name for path in directory.iterdir()} if directory.exists() else ()
    return sorted((int(name) for name in names if name.isdecimal() and _is_whole(directory, int(name))), reverse=True)


def _is_whole(directory, step):
    # Not by `find_all`, which lists a bucket by Google's own client.
    try:
        return NAMES.find_step(directory, step) is not None
    except ValueError:
        return False


def restore(directory: epath.PathLike, like: Mapping[str, Any]) -> Restored:
    """The newest checkpoint that can be read; of several processes all read the same.

    Args:
      directory: directory of checkpoints.
      like: items, such as "ema", as trees of the same structure, shapes and dtypes; arrays or `jax.ShapeDtypeStruct`.
        Where these have shardings, every process reads its own parts, however the arrays were split when they were saved.

    Returns:
      The items as `tree`, what was saved beside them, and which newer checkpoints are corrupt.

    Raises:
      FileNotFoundError: there is no checkpoint.
      OtherStructure: the newest sound one is of another network or optimizer; it names the first array that differs.
      OSError: there are checkpoints, and all of them are corrupt.
    """
    return _newest(directory, like)


def restore_ema(directory: epath.PathLike, like) -> Restored:
    """The newest averaged parameters that can be read; `like` gives their structure, shapes and dtypes.

    Raises:
      As `restore`.
    """
    found = _newest(directory, {"ema": like})
    return found._replace(tree=found.tree["ema"])


def restore_raw(directory: epath.PathLike, like) -> Restored:
    """Reads as `restore_ema` does, with the rest of the state as "rest", nested dicts and lists of any structure.

    Raises:
      As `restore`.
    """
    return _newest(directory, {"ema": like, "rest": None})


def absolute(directory):
    """The absolute path, which Orbax asks for; a remote path is absolute."""
    return epath.Path(directory) if disk.is_remote(directory) else epath.Path(directory).absolute()


def _newest(directory, like):
    """Goes through the checkpoints from the newest on until every process can read one."""
    listed = hosts.gather(" ".join(map(str, steps(directory))), "checkpoints are listed")
    candidates, reasons = listed[0].split(), {}
    if not candidates:
        raise FileNotFoundError(f"there is no checkpoint in {directory}: has the run been trained?")
    for step in map(int, candidates):
        found, reason = hosts.together(
            lambda step=step: _try(directory, step, like), f"the checkpoint of step {step} is read"
        )
        reason = _first_of_all(reason)
        if reason is None:  # of arrays on a mesh by all processes together, which all have them now
            trees, about = found
            reason = _first_of_all(checksums.damaged(trees, about.pop("arrays")))
        if reason is None:
            return Restored(trees, about, step, tuple(reasons))
        reasons[step] = reason
        log.warning("the checkpoint of step %d in %s is corrupt (%s)", step, directory, reason)
    said = "; ".join(f"step {step}: {reason}" for step, reason in reasons.items())
    raise OSError(f"none of the checkpoints in {directory} can be read: {said}")


def _first_of_all(reason: str) -> str | None:
    """The first process's reason against a checkpoint; None if there is none."""
    return next((said for said in hosts.gather(reason, "whether it is whole") if said), None)


def _try(directory, step, like):
    """Result of `_read` and "", or None and the reason why the checkpoint is corrupt.

    Raises:
      OtherStructure: it is sound.
      OSError: it may be sound, but cannot be read now.
    """
    try:
        return _read(directory, step, like), ""
    except OtherStructure:
        raise
    except (ValueError, OSError, KeyError, TypeError) as error:  # what Orbax, tensorstore and JSON say of broken files
        said = " ".join(str(error).split())[:200] or type(error).__name__
        passing = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EINVAL, errno.ENOTDIR)
        if passing or any(word in said for word in PASSING):
            raise OSError(f"the checkpoint of step {step} in {directory} cannot be read now ({said})") from error
        return None, said


def _read(directory, step, like):
    """The arrays and what stands beside them."""
    if not disk.is_remote(directory):
        for path in Path(absolute(directory), str(step)).rglob("*"):  # Orbax would wait for a pipe
            check_regular(path)
    with contextlib.closing(manager_of(absolute(directory), "read", read_only=True)) as reader:
        about = reader.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        if about.pop("crc32") != checksums.of_json(about):
            raise OSError("the checksum of what stands beside the arrays is not what was saved")
        items = {}
        for name, tree in like.items():
            if tree is None:  # of any structure, and not onto the devices that it was saved on
                items[name] = ocp.args.StandardRestore(jax.tree.map(_target, _structure(directory, step, name)))
                continue
            _same_structure(about["arrays"][name], tree, name, f"the checkpoint of step {step} in {directory}")
            items[name] = ocp.args.StandardRestore(jax.tree.map(_target, tree))
        trees = reader.restore(step, args=ocp.args.Composite(**items))
    return {name: trees[name] for name in like}, about


def _structure(directory, step, name):
    """Shapes and dtypes of an item that was saved, as a tree."""
    handler = ocp.StandardCheckpointHandler()
    saved = handler.metadata(absolute(directory) / str(step) / name)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), getattr(saved, "tree", saved))


def _target(x):
    """Target of an array that is read: NumPy memory, or this process's part of an array on a mesh."""
    return x if getattr(x, "sharding", None) is not None else np.empty(x.shape, x.dtype)


def _same_structure(saved: Mapping, like, item: str, where: str) -> None:
    """Names the first array that differs."""
    paths, leaves = checksums.by_path(like, item)
    for path, leaf in zip(paths, leaves):
        here = f"{leaf.dtype.name}{list(leaf.shape)}"
        there = f"{saved[path][1]}{saved[path][0]}" if path in saved else "missing"
        if here != there:
            raise OtherStructure(f"{where} is of another network or optimizer: {path} is {there} there and {here} here")
    for path in saved:
        if path not in paths:
            raise OtherStructure(f"{where} is of another network or optimizer: it has {path}, which is not asked for")
