"""Checkpoints: Orbax, asynchronous, the newest few kept."""

import contextlib
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from jaxdiff.train.state import TrainState


def manager(directory: Path, keep: int = 3) -> ocp.CheckpointManager:
    """An Orbax manager that writes in the background and keeps the newest `keep` steps."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
    return ocp.CheckpointManager(Path(directory).absolute(), options=options)


def _args(args, state):
    """The averaged parameters are an item of their own, so that sampling reads nothing else."""
    return ocp.args.Composite(ema=args(state.ema), rest=args(state._replace(ema=None)._asdict()))


def save(checkpoints: ocp.CheckpointManager, state: TrainState) -> None:
    """Starts to write one (not replicated) state under its step; `wait_until_finished` or `close` completes it.

    Raises:
      FileExistsError: there is a checkpoint of this step or a later one, which Orbax would keep in place of this.
    """
    if not checkpoints.save(int(state.step), args=_args(ocp.args.StandardSave, state)):
        raise FileExistsError(f"{checkpoints.directory} holds a checkpoint of step {int(state.step)} or later already")


def restore(checkpoints: ocp.CheckpointManager, like: TrainState) -> TrainState:
    """The newest state.

    Args:
      checkpoints: from `manager`.
      like: a state of the same structure, shapes and dtypes; arrays or `jax.ShapeDtypeStruct`.

    Raises:
      FileNotFoundError: there is no checkpoint.
    """
    items = checkpoints.restore(_newest(checkpoints), args=_args(ocp.args.StandardRestore, _here(like)))
    return TrainState(**items.rest)._replace(ema=items.ema)


def restore_ema(directory: Path, like):
    """The newest averaged parameters alone; `like` gives their structure, shapes and dtypes.

    Raises:
      FileNotFoundError: there is no checkpoint.
    """
    if not Path(directory).is_dir():
        raise FileNotFoundError(f"there is no checkpoint in {directory}: has the run been trained?")
    with contextlib.closing(manager(directory)) as checkpoints:
        args = ocp.args.Composite(ema=ocp.args.StandardRestore(_here(like)))
        return checkpoints.restore(_newest(checkpoints), args=args).ema


def _newest(checkpoints):
    step = checkpoints.latest_step()
    if step is None:
        raise FileNotFoundError(f"there is no checkpoint in {checkpoints.directory}: has the run been trained?")
    return step


def _here(like):
    """Shapes to restore into, on this process's first device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
