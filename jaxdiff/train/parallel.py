"""Data parallelism over all devices of all hosts."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


def data_parallel(train_step: Callable, frozen: bool = False) -> Callable:
    """`jax.pmap` of a training step: the state replicated, the batch split, gradients averaged.

    Args:
      train_step: (state, key, batch, axis_name) -> (state, metrics).
      frozen: whether it also takes `frozen`, what is needed and not trained.

    Returns:
      The same of (replicated state, key, batch with one row per local device in front, and the replicated frozen); metrics
      come back with one (equal) row per device. The old state's buffers are donated: use the new one.

    Example::

        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxdiff.train import parallel, state
        >>> from jaxdiff.train.step import make_train_step
        >>> def loss_fn(params, extra, keys, batch):
        ...     loss = jnp.square(params - batch["image"])
        ...     return loss, (extra, {"loss": loss})
        >>> optimizer, n = optax.sgd(0.5), 2 * jax.local_device_count()
        >>> step = parallel.data_parallel(make_train_step(loss_fn, optimizer))
        >>> batch = parallel.split({"image": jnp.arange(float(n)), "index": jnp.arange(n)})
        >>> new, _ = step(parallel.replicate(state.init(jnp.zeros(()), optimizer)), jax.random.key(0), batch)
        >>> float(parallel.first(new).params) == (n - 1) / 2  # the mean over the examples of all devices
        True
    """
    if not frozen:
        return jax.pmap(functools.partial(train_step, axis_name=AXIS), AXIS, in_axes=(0, None, 0), donate_argnums=0)
    step = lambda state, key, batch, frozen: train_step(state, key, batch, AXIS, frozen=frozen)
    return jax.pmap(step, AXIS, in_axes=(0, None, 0, 0), donate_argnums=0)


def replicate(tree):
    """Copies a tree to every local device.

    Args:
      tree: pytree of arrays or numbers.

    Returns:
      The same tree with leaves [D, ...], one equal row on each of D local devices.

    Example::

        >>> import jax
        >>> from jaxdiff.train import parallel
        >>> parallel.replicate(3.0).tolist() == [3.0] * jax.local_device_count()
        True
    """
    devices = jax.local_devices()
    # Named as in `data_parallel`, or the step would be compiled twice: for this state, and for its own.
    rows = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.device_put(np.broadcast_to(x, (len(devices), *np.shape(x))), rows), tree)


def first(tree):
    """The first local device's copy of a replicated tree, on the host.

    Args:
      tree: pytree of leaves [D, ...], one row per local device, as `replicate` and `data_parallel` give them.

    Returns:
      The same tree with NumPy leaves [...].

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.train import parallel
        >>> parallel.first(parallel.replicate(jnp.arange(3))).tolist()
        [0, 1, 2]
    """
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


def split(batch, axis: int = 0):
    """Splits the examples, on `axis` of every leaf, over the local devices: one row per device in front.

    Args:
      batch: pytree of arrays [..., B, ...].
      axis: which axis counts the examples, 0 or more.

    Returns:
      The same tree with leaves [D, ..., B / D, ...] for D local devices; each has neighbouring examples, in order.

    Raises:
      ValueError: the batch does not divide by the number of devices.

    Example::

        >>> import jax, numpy as np
        >>> from jaxdiff.train import parallel
        >>> parts = parallel.split(np.arange(2 * jax.local_device_count()))
        >>> parts[0].tolist(), parts.shape == (jax.local_device_count(), 2)
        ([0, 1], True)
    """
    n = jax.local_device_count()

    def one(x):
        if x.shape[axis] % n:
            raise ValueError(f"a batch of {x.shape[axis]} does not divide by {n} devices")
        x = x.reshape(*x.shape[:axis], n, x.shape[axis] // n, *x.shape[axis + 1 :])
        return np.moveaxis(x, axis, 0)

    return jax.tree.map(one, batch)
