"""Parallelism over all devices of all hosts: a copy of the state on each, or its arrays split over a mesh."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff import meshes
from jaxdiff.config import Train
from jaxdiff.train import kept_step

AXIS = "batch"


def data_parallel(train_step: Callable, frozen: bool = False, devices: Sequence | None = None) -> Callable:
    """`jax.pmap` of a training step: the state replicated, the batch split, gradients averaged.

    Args:
      train_step: (state, key, batch, axis_name) -> (state, metrics).
      frozen: whether it also takes `frozen`, what is needed and not trained.
      devices: all devices by default; others to compile for.

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
    step, in_axes = functools.partial(train_step, axis_name=AXIS), (0, None, 0)
    if frozen:
        step = lambda state, key, batch, frozen: train_step(state, key, batch, AXIS, frozen=frozen)
        in_axes = 0, None, 0, 0
    return jax.pmap(step, AXIS, in_axes=in_axes, donate_argnums=0, devices=devices)


def sharded(train_step: Callable, mesh: Mesh, rules: tuple[meshes.Rule, ...] = meshes.RULES) -> Callable:
    """`jax.jit` of a training step on a mesh: the state's arrays split by rules, the batch by examples.

    The same numbers as `data_parallel` up to rounding: the mean over a batch is that of all devices, for arrays are whole
    in the program, and the compiler adds what has to travel.

    Args:
      train_step: (state, key, batch, axis_name) -> (state, metrics).
      mesh: mesh with the axes data, fsdp and tensor, see `jaxdiff.mesh`.
      rules: how the state's arrays are split, by their paths, see `jaxdiff.meshes`.

    Returns:
      The same of (state placed by `meshes.placed`, key, batch split by `meshes.row_sharding`, and, where it is needed,
      `frozen` placed as the state); to be lowered or called under `jax.set_mesh(mesh)`. The old state's buffers are
      donated: use the new one.

    Example::

        >>> import jax, jax.numpy as jnp, jaxdiff, optax
        >>> from jaxdiff import meshes
        >>> from jaxdiff.train import parallel, state
        >>> from jaxdiff.train.step import make_train_step
        >>> def loss_fn(params, extra, keys, batch):
        ...     loss = jnp.square(params - batch["image"])
        ...     return loss, (extra, {"loss": loss})
        >>> optimizer, n = optax.sgd(0.5), 2 * jax.device_count()
        >>> mesh = jaxdiff.mesh(fsdp=jax.device_count())
        >>> step = parallel.sharded(make_train_step(loss_fn, optimizer), mesh)
        >>> rows = meshes.row_sharding(mesh)
        >>> batch = jax.device_put({"image": jnp.arange(float(n)), "index": jnp.arange(n)}, rows)
        >>> with jax.set_mesh(mesh):
        ...     first = meshes.placed(state.init(jnp.zeros(()), optimizer), mesh)
        ...     new, _ = step(first, jax.random.key(0), batch)
        >>> float(new.params) == (n - 1) / 2  # the mean over the examples of all devices
        True
    """
    copies = NamedSharding(mesh, PartitionSpec())

    def step(state, key, batch, *rest):
        new, metrics = train_step(state, key, batch, None, **({"frozen": rest[0]} if rest else {}))
        metrics = jax.tree.map(lambda x: lax.with_sharding_constraint(x, copies), metrics)
        return lax.with_sharding_constraint(new, meshes.shardings(new, mesh, rules)), metrics

    return jax.jit(step, donate_argnums=0)


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


@dataclasses.dataclass(frozen=True)
class Pmap:
    """Each device has the whole state and a part of the examples, by `jax.pmap`.

    Attributes:
      devices: devices to compile for; None is all that there are.
      sharing: number of devices among which a lowered step's FLOPs are shared.
    """

    devices: tuple | None = None
    sharing: ClassVar[int] = 1

    def step(self, train_steps: Callable, frozen: bool) -> Callable:
        """The training step on all devices, see `data_parallel`."""
        return data_parallel(train_steps, frozen, self.devices)

    def lower(self, step: Callable, *args) -> jax.stages.Lowered:
        """The step lowered for such arguments."""
        return step.lower(*args)

    def compiled(self, step: Callable, lowered: jax.stages.Lowered, kept: str = "") -> Callable:
        """The step, compiled.

        Raises:
          ValueError: one is kept, which steps of `jax.pmap` cannot be.
        """
        if kept:
            raise ValueError("`compiled_step` is for `train.parallel` sharded: leave it out")
        lowered.compile()  # kept where the call of `step` finds it; to be called itself it would want global arrays
        return step

    def made(self, function: Callable, key, *trees):
        """Result of a function of a key and of trees of NumPy arrays, as NumPy arrays."""
        return jax.device_get(function(key, *trees))

    def like(self, shapes):
        """Targets of a checkpoint that is read: NumPy arrays of such shapes."""
        return shapes

    def placed_shapes(self, shapes):
        """The shapes of what `place` gives."""
        D = len(self.devices or jax.local_devices())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((D, *x.shape), x.dtype), shapes)

    def row_shapes(self, shapes, axis: int = 0):
        """The shapes of what `rows` gives, of those of examples."""
        D = len(self.devices or jax.local_devices())
        one = lambda s: (D, *s[:axis], s[axis] // D, *s[axis + 1 :])
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(one(x.shape), x.dtype), shapes)

    def place(self, tree):
        """A copy of a tree on each device, see `replicate`."""
        return replicate(tree)

    def rows(self, batch, axis: int = 0):
        """This process's examples, split over its devices, see `split`."""
        return split(batch, axis)

    def on_host(self, tree):
        """Placed arrays as NumPy arrays, see `first`."""
        return first(tree)

    def finished(self, state):
        """The last state as `fit` returns it: NumPy arrays."""
        return first(state)


@dataclasses.dataclass(frozen=True)
class Sharded:
    """Arrays of the state are split over a mesh by rules, by `jax.jit`.

    Attributes:
      mesh: mesh over all devices of all processes.
      rules: how arrays are split, see `jaxdiff.meshes`.
    """

    mesh: Mesh
    rules: tuple[meshes.Rule, ...] = meshes.RULES

    @property
    def sharing(self) -> int:
        """Number of devices among which a lowered step's FLOPs are shared."""
        return self.mesh.size

    def step(self, train_steps: Callable, frozen: bool) -> Callable:
        """The training step on the mesh, see `sharded`."""
        return sharded(train_steps, self.mesh, self.rules)

    def lower(self, step: Callable, *args) -> jax.stages.Lowered:
        """The step lowered for such arguments."""
        with jax.set_mesh(self.mesh):
            return step.lower(*args)

    def compiled(self, step: Callable, lowered: jax.stages.Lowered, kept: str = "") -> Callable:
        """The step, compiled, or taken from the file `kept` if it is of the same program, see `kept_step`."""
        return (kept and kept_step.read(kept, lowered, self.mesh)) or lowered.compile()

    def made(self, function: Callable, key, *trees):
        """Result of a function of a key and of trees of NumPy arrays, made in parts on the mesh."""
        shardings = meshes.shardings(jax.eval_shape(function, key, *trees), self.mesh, self.rules)
        return jax.jit(function, out_shardings=shardings)(key, *map(self.place, trees))

    def like(self, shapes):
        """Targets of a checkpoint that is read: arrays of such shapes on the mesh."""
        to = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        return jax.tree.map(to, shapes, meshes.shardings(shapes, self.mesh, self.rules))

    placed_shapes = like

    def row_shapes(self, shapes, axis: int = 0):
        """The shapes of what `rows` gives, of those of all examples."""
        sharding = meshes.row_sharding(self.mesh, axis)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)

    def place(self, tree):
        """A tree with its arrays split, see `meshes.placed`; parameters of frozen models are split likewise."""
        return meshes.placed(tree, self.mesh, self.rules)

    def rows(self, batch, axis: int = 0):
        """This process's examples as its part of global arrays."""
        sharding = meshes.row_sharding(self.mesh, axis)

        def one(x):
            whole = (*x.shape[:axis], x.shape[axis] * jax.process_count(), *x.shape[axis + 1 :])
            return jax.make_array_from_process_local_data(sharding, x, whole)

        return jax.tree.map(one, batch)

    def on_host(self, tree):
        """Whole NumPy arrays; every process must call it."""
        return meshes.on_host(tree)

    def finished(self, state):
        """The last state as `fit` returns it: arrays on the mesh, which a host may be too small for."""
        return state


@functools.lru_cache
def of(train: Train, devices: tuple | None = None) -> Pmap | Sharded:
    """The parallelism that a config asks for.

    Args:
      train: section of the config.
      devices: all devices by default; others to compile for.

    Raises:
      ValueError: a mesh that does not fit the devices, or a rule that cannot be read.
    """
    if train.parallel == "pmap":
        return Pmap(devices)
    rules = tuple(map(meshes.parse_rule, train.rules))
    return Sharded(meshes.mesh(**meshes.parse(train.mesh), devices=devices), rules + meshes.RULES)


def axis_name(train: Train) -> str | None:
    """The mapped axis over which devices exchange what an objective needs of all; None where arrays are whole."""
    return AXIS if train.parallel == "pmap" else None
