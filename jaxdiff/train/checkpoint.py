"""Checkpoints of runs, written: Orbax, asynchronous, the newest few kept, each with a checksum of every array."""

import functools
from collections.abc import Mapping

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxdiff import disk, hosts
from jaxdiff.model import checkpoints as reader
from jaxdiff.model import checksums
from jaxdiff.model.checkpoints import Restored
from jaxdiff.train.state import TrainState


def manager(directory: epath.PathLike, keep: int = 3, everyone: bool = False) -> ocp.CheckpointManager:
    """An Orbax manager that writes in the background and keeps the newest `keep` steps.

    What an earlier process left half written is removed.

    Args:
      directory: directory of checkpoints.
      keep: number of steps.
      everyone: all processes write, each its own parts of arrays on a mesh. Otherwise the state is the same on every
        process, so that process 0 writes alone and nobody waits for it, and the managers of the others write nothing.
    """
    path = reader.absolute(directory)
    path.mkdir(parents=True, exist_ok=True)
    policy = ocp.checkpoint_managers.preservation_policy.LatestN(keep)
    writes = everyone or hosts.is_main()
    return reader.manager_of(
        path, "write", everyone, read_only=not writes, cleanup_tmp_directories=writes, preservation_policy=policy
    )


def save(checkpoints: ocp.CheckpointManager, state: TrainState, about: Mapping) -> None:
    """Starts to write one (not replicated) state under its step; `wait_until_finished` or `close` completes it.

    Args:
      checkpoints: from `manager`.
      state: what to save, its leaves NumPy arrays, or arrays on a mesh, of which every process writes its parts.
      about: JSON values to keep beside it: the config, the position in the data.

    Raises:
      FileExistsError: there is a checkpoint of this step or a later one, which Orbax would keep in place of this.
      OSError: there is too little room; what was saved before stays.
    """
    trees = _items(state)
    about = dict(about) | {"arrays": {name: checksums.describe(tree, name) for name, tree in trees.items()}}
    about |= {"crc32": checksums.of_json(about)}
    items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    # Together, or the others would wait for one that has no room.
    room = functools.partial(disk.check_room, checkpoints.directory, sum(x.nbytes for x in jax.tree.leaves(trees)))
    hosts.together(room, "there is room") if on_mesh(state) else room()
    if not checkpoints.save(int(state.step), args=ocp.args.Composite(**items, about=ocp.args.JsonSave(about))):
        raise FileExistsError(f"{checkpoints.directory} holds a checkpoint of step {int(state.step)} or later already")


def on_mesh(state: TrainState) -> bool:
    """Returns True for a state whose arrays are on a mesh."""
    return isinstance(state.step, jax.Array)


def restore(directory: epath.PathLike, like: TrainState) -> Restored:
    """The newest state that can be read; of several processes all read the same.

    Args:
      directory: directory of checkpoints.
      like: a state of the same structure, shapes and dtypes; arrays or `jax.ShapeDtypeStruct`, with shardings to be read
        onto a mesh.

    Raises:
      As `model.checkpoints.restore`.
    """
    found = reader.restore(directory, _items(like))
    return found._replace(tree=TrainState(**found.tree["rest"], ema=found.tree["ema"]))


def set_aside(directory: epath.PathLike, step: int, name: str = "corrupt") -> epath.Path:
    """Moves a checkpoint out of the way, into a directory `name` beside that of the checkpoints; nothing is deleted."""
    aside = epath.Path(directory).parent / name
    aside.mkdir(parents=True, exist_ok=True)
    target, again = aside / str(step), 1
    while target.exists():
        again += 1
        target = aside / f"{step}_{again}"
    return (epath.Path(directory) / str(step)).rename(target)


def _items(state):
    """The averaged parameters are an item of their own, so that sampling reads nothing else."""
    rest = state._asdict()
    return {"ema": rest.pop("ema"), "rest": rest}
