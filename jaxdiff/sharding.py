"""Arrays over the local devices: replicated, or split by rows; work on many examples, a batch at a time."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from jaxdiff import meshes
from jaxdiff.seeds import key_of
from jaxdiff.types import Static


def over_batches(of_batch: Callable, num: int, batch_size: int, seed: int, examples):
    """A function's results for each of many examples; the last batch is filled up with the first examples, then cut.

    Args:
      of_batch: (keys [B], examples of B rows) -> pytree of [B].
      num: number of examples.
      batch_size: B, divisible by the number of local devices.
      seed: example i has the i-th key of it, whatever the batch size.
      examples: pytree of arrays of `num` rows.

    Returns:
      The same pytree, of NumPy arrays [num].

    Example::

        >>> import numpy as np
        >>> from jaxdiff import sharding
        >>> sharding.over_batches(lambda keys, x: 2 * x, num=3, batch_size=8, seed=0, examples=np.arange(3)).tolist()
        [0, 2, 4]
    """
    results, key = [], key_of(seed)
    for start in range(0, num, batch_size):
        rows = np.arange(start, start + batch_size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        batch = jax.tree.map(lambda x: x[rows % num], examples)  # noqa: B023
        result = of_batch(*split((keys, batch)))
        results.append(jax.tree.map(lambda x: np.asarray(x)[: num - start], result))  # noqa: B023
    return jax.tree.map(lambda *rows: np.concatenate(rows), *results)


def check_batch_size(name: str, batch_size: int, devices: int) -> None:
    """Raises ValueError, with the nearest size that would do, unless a batch of at least 1 divides by the devices."""
    if batch_size < 1:
        raise ValueError(f"{name}={batch_size} must be at least 1")
    if batch_size % devices:
        nearest = devices * max(1, round(batch_size / devices))
        raise ValueError(f"{name}={batch_size} does not divide by the {devices} devices: {nearest} would do")


def fitting(batch_size: int, num: int) -> int:
    """The batch size for `num` examples: no larger than they need, and divisible by the number of local devices."""
    devices = jax.local_device_count()
    return min(batch_size, -(-num // devices) * devices)


def replication() -> NamedSharding:
    """Sharding with a copy on each of this process's devices."""
    return NamedSharding(_mesh(), PartitionSpec())


def host():
    """The device of this machine's own memory; None where jax was told to use others alone."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def replicated(tree):
    """Returns the arrays with a copy on each of this process's devices; those that have one are not copied."""
    return jax.device_put(tree, replication())


def as_placed(tree, like):
    """Returns the arrays where those of another tree are: split by the same rules, or replicated over its devices."""
    leaf = jax.tree.leaves(like)[0]
    if not isinstance(leaf, jax.Array):
        return tree
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):
        if meshes.is_ours(sharding.mesh):
            return jax.device_put(tree, meshes.shardings(tree, sharding.mesh))
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.device_put(tree, sharding)


def placed(path: str, array, placement=None):
    """Returns an array of parameters on the devices.

    Args:
      path: its path in the parameters.
      array: the array, in memory.
      placement: device, `jax.sharding.Sharding`, or a mesh, over which it is split by the rules of `jaxdiff.meshes`; by
        default a copy on each of this process's devices.
    """
    if isinstance(placement, Mesh):
        placement = meshes.sharding_of(path, array.shape, placement)
    return jax.device_put(array, replication() if placement is None else placement)


def split(tree, like=None):
    """Returns the arrays split by rows over this process's devices, or over the mesh that another tree's arrays are on."""
    mesh = mesh_of(like)
    if mesh is not None and meshes.is_ours(mesh):
        return jax.device_put(tree, meshes.row_sharding(mesh))
    return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec("batch")))


def mesh_of(tree) -> Mesh | None:
    """The mesh that the arrays of a tree are on; None without."""
    leaf = next(iter(jax.tree.leaves(tree)), None)
    sharding = getattr(leaf, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def knowing_mesh(function: Callable, like) -> Callable:
    """The same function, inside of which jax knows the mesh that a tree's arrays are on: kernels are split over it.

    Args:
      function: pytree, such as a `Denoiser`, called with arrays on that mesh.
      like: tree of arrays.
    """
    mesh = mesh_of(like)
    return function if mesh is None or mesh.size == 1 else Partial(_on_mesh, Static(mesh.abstract_mesh), function)


def _on_mesh(mesh, function, *args):
    with jax.sharding.use_abstract_mesh(mesh.value):
        return function(*args)


def _mesh():
    return jax.sharding.Mesh(jax.local_devices(), ("batch",))
