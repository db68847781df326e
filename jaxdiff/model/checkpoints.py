"""Checkpoints of runs, read: the newest that is whole, each array compared with its checksum.

Of Orbax only documented names are used. Beyond its documentation it is taken for granted, and tested in
tests/test_assumptions.py, that a manager asks for preemptions by its own method `reached_preemption`, and that an error of
tensorstore, which reads and writes the arrays, holds the name of its kind (`PASSING`).
"""

import concurrent.futures
import contextlib
import errno
import json
import logging
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxdiff import disk, hosts

log = logging.getLogger("jaxdiff")

NAMES = ocp.path.step.standard_name_format()  # a checkpoint is a directory that is called by its step
# What tensorstore says of a storage that cannot be reached, which says nothing of the checkpoint.
PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED", "CANCELLED")


class Restored(NamedTuple):
    """Checkpoint that was read.

    Attributes:
      tree: the arrays, as NumPy.
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


def manager_of(path, prefix, **options):
    """A manager of this process alone."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"{prefix}{me}"
    )
    options = {"step_name_format": NAMES, "multiprocessing_options": alone, "create": False} | options
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
        reason = next((said for said in hosts.gather(reason, "whether it is whole") if said), None)
        if reason is None:
            return Restored(*found, step, tuple(reasons))
        reasons[step] = reason
        log.warning("the checkpoint of step %d in %s is corrupt (%s)", step, directory, reason)
    said = "; ".join(f"step {step}: {reason}" for step, reason in reasons.items())
    raise OSError(f"none of the checkpoints in {directory} can be read: {said}")


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
    """The arrays and what stands beside them, if the arrays are those that were saved."""
    with contextlib.closing(manager_of(absolute(directory), "read", read_only=True)) as reader:
        about = reader.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        if about.pop("crc32") != crc32(about):
            raise OSError("the checksum of what stands beside the arrays is not what was saved")
        items = {}
        for name, tree in like.items():
            if tree is None:  # of any structure
                items[name] = ocp.args.StandardRestore()
                continue
            _same_structure(about["arrays"][name], tree, name, f"the checkpoint of step {step} in {directory}")
            empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), tree)  # to be read into NumPy, not onto a device
            items[name] = ocp.args.StandardRestore(empty)
        trees = reader.restore(step, args=ocp.args.Composite(**items))
    trees, arrays = {name: trees[name] for name in like}, about.pop("arrays")
    for name, tree in trees.items():
        for path, now in describe(tree, name).items():
            if now != arrays[name][path]:
                raise OSError(f"the checksum of {path} is not what was saved")
    return trees, about


def crc32(values: Mapping) -> int:
    """Checksum of JSON values."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def describe(tree, item: str) -> dict:
    """Shape, dtype and CRC-32 of every array, by path. tensorstore notices a file cut short, but not a changed bit."""
    paths, leaves = _flat(tree, item)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        sums = threads.map(lambda x: zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8)), leaves)
        return {path: [list(x.shape), x.dtype.name, crc] for path, x, crc in zip(paths, leaves, sums)}


def _flat(tree, item):
    """Paths such as ema/mid_block/kernel, and the arrays."""
    flat = [(path, x if hasattr(x, "dtype") else np.asarray(x)) for path, x in jax.tree.leaves_with_path(tree)]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    return [name if item == "rest" else f"{item}/{name}" for name in names], [x for _, x in flat]


def _same_structure(saved: Mapping, like, item: str, where: str) -> None:
    """Names the first array that differs."""
    paths, leaves = _flat(like, item)
    for path, leaf in zip(paths, leaves):
        here = f"{leaf.dtype.name}{list(leaf.shape)}"
        there = f"{saved[path][1]}{saved[path][0]}" if path in saved else "missing"
        if here != there:
            raise OtherStructure(f"{where} is of another network or optimizer: {path} is {there} there and {here} here")
    for path in saved:
        if path not in paths:
            raise OtherStructure(f"{where} is of another network or optimizer: it has {path}, which is not asked for")
