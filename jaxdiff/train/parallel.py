"""Data parallelism over all devices of all hosts."""

import functools
from collections.abc import Callable

import jax
import numpy as np

AXIS = "batch"


def data_parallel(train_step: Callable) -> Callable:
    """`jax.pmap` of a training step: the state replicated, the batch split, gradients averaged.

    Args:
      train_step: (state, key, batch, axis_name) -> (state, metrics).

    Returns:
      The same of (replicated state, key, batch with one row per local device in front); metrics come back with one
      (equal) row per device. The old state's buffers are donated: use the new one.
    """
    return jax.pmap(functools.partial(train_step, axis_name=AXIS), AXIS, in_axes=(0, None, 0), donate_argnums=0)


def replicate(tree):
    """One copy per local device, in front of every leaf."""
    n = jax.local_device_count()
    return jax.pmap(lambda _, tree: tree, in_axes=(0, None))(np.arange(n), tree)


def first(tree):
    """The first local device's copy of a replicated tree, as NumPy arrays on the host."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


def split(batch, axis: int = 0):
    """Splits the examples, on `axis` of every leaf, over the local devices: one row per device in front.

    Raises:
      ValueError: the batch does not divide by the number of devices.
    """
    n = jax.local_device_count()

    def one(x):
        if x.shape[axis] % n:
            raise ValueError(f"a batch of {x.shape[axis]} does not divide by {n} devices")
        x = x.reshape(*x.shape[:axis], n, x.shape[axis] // n, *x.shape[axis + 1 :])
        return np.moveaxis(x, axis, 0)

    return jax.tree.map(one, batch)
