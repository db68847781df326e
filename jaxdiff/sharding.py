"""Work on many examples, a batch at a time, spread over this process's devices."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def over_batches(of_batch: Callable, num: int, batch_size: int, seed: int, examples):
    """What a function says of each example; the last batch is filled up with the first examples, then cut.

    Args:
      of_batch: (keys [B], examples of B rows) -> pytree of [B].
      num: how many examples there are.
      batch_size: B, divisible by the number of local devices.
      seed: example i has the i-th key of it, whatever the batch size.
      examples: pytree of arrays of `num` rows.

    Returns:
      The same pytree, of NumPy arrays [num].

    Example::

        >>> import numpy as np
        >>> from jaxdiff.eval import spread
        >>> spread.over_batches(lambda keys, x: 2 * x, num=3, batch_size=8, seed=0, examples=np.arange(3)).tolist()
        [0, 2, 4]
    """
    parts, key = [], jax.random.key(seed)
    for start in range(0, num, batch_size):
        rows = np.arange(start, start + batch_size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        batch = jax.tree.map(lambda x: x[rows % num], examples)  # noqa: B023
        said = of_batch(*split((keys, batch)))
        parts.append(jax.tree.map(lambda x: np.asarray(x)[: num - start], said))  # noqa: B023
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def replicated(tree):
    """Arrays, all of them on each of this process's devices."""
    return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))


def split(tree):
    """Arrays, each of this process's devices having its share of their rows."""
    return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec("batch")))


def _mesh():
    return jax.sharding.Mesh(jax.local_devices(), ("batch",))
