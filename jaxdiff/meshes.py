"""Meshes of devices, and rules by which arrays are split over them.

An axis of a mesh says what is split over its devices: `data` the examples; `fsdp` the examples, and every large array
(Rajbhandari et al. 2020, stage 3); `tensor` the channels and heads inside of a layer (Shoeybi et al. 2019, section 3). A
rule is a pattern of paths with tactics; of an ordered list the first whose pattern matches counts, as in big_vision.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdiff.errors import check_known, unknown

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # axes over which examples are split
MIN_SIZE = 2**16  # elements from which on an array is worth splitting


def mesh(data: int | None = None, fsdp: int = 1, tensor: int = 1, devices: Sequence | None = None) -> Mesh:
    """A mesh of devices, neighbours in their network beside each other.

    Args:
      data: devices that examples alone are split over; None is as many as the other axes leave.
      fsdp: devices that examples and large arrays are split over.
      tensor: devices that the inside of layers is split over.
      devices: all of them in all processes by default.

    Returns:
      `jax.sharding.Mesh` with the axes data, fsdp and tensor.

    Raises:
      ValueError: the numbers of devices do not multiply to those that there are.

    Example::

        >>> import jax, jaxdiff
        >>> jaxdiff.mesh(fsdp=jax.device_count()).shape["data"]
        1
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = sizes({"data": data, "fsdp": fsdp, "tensor": tensor}, len(devices))
    return Mesh(_arranged(tuple(shape.values()), devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arranged(shape, devices):
    """The devices as an array, so that those of an axis are near; several slices of a pod are of the data axis."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        if shape[0] % slices:
            raise ValueError(f"a mesh of data={shape[0]} does not divide by {slices} slices: choose a multiple")
        inside, between = (shape[0] // slices, *shape[1:]), (slices, 1, 1)
        return mesh_utils.create_hybrid_device_mesh(inside, between, devices, allow_split_physical_axes=True)
    if shape[2] > 1:  # each group of `tensor` in one process, which reads the examples of its rows
        devices = sorted(devices, key=lambda device: (device.process_index, device.id))
        groups = np.asarray(devices).reshape(-1, shape[2])
        if any(len({device.process_index for device in group}) > 1 for group in groups):
            raise ValueError(f"tensor={shape[2]} would split layers over processes: it must divide the devices of each")
        return groups.reshape(shape)
    if len({(device.process_index, tuple(getattr(device, "coords", [device.id]))) for device in devices}) < len(
        devices
    ):
        return np.asarray(devices).reshape(shape)  # several cores of a chip, of which jax knows no order
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def parse(text: str) -> dict[str, int]:
    """Sizes of axes from text such as "data=32,fsdp=8".

    Raises:
      ValueError: another form, or an unknown axis.
    """
    found = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, size = part.partition("=")
        check_known("axis of a mesh", name, AXES)
        if not size.isdecimal() or not int(size) or name in found:
            raise ValueError(f"a mesh is given as data=32,fsdp=8, each axis once and at least 1, not {text!r}")
        found[name] = int(size)
    return found


def sizes(asked: Mapping[str, int | None], devices: int) -> dict[str, int]:
    """The size of each axis, where `data` takes the devices that the others leave.

    Raises:
      ValueError: they do not multiply to the number of devices.
    """
    for name, size in asked.items():
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(f"`{name}` must be a number of devices of at least 1, not {size}")
    fsdp, tensor = asked.get("fsdp") or 1, asked.get("tensor") or 1
    data = asked.get("data") or max(1, devices // (fsdp * tensor))
    if data * fsdp * tensor != devices:
        raise ValueError(
            f"a mesh of data={data}, fsdp={fsdp}, tensor={tensor} is of {data * fsdp * tensor} devices, and there are "
            f"{devices}: choose sizes whose product is {devices}"
        )
    return {"data": data, "fsdp": fsdp, "tensor": tensor}


def is_ours(mesh: Mesh) -> bool:
    """Returns True for a mesh with the axes data, fsdp and tensor."""
    return tuple(mesh.axis_names) == AXES


def check_local(mesh: Mesh) -> None:
    """Raises ValueError for a mesh from elsewhere, or of other processes' devices, too."""
    if not is_ours(mesh):
        raise ValueError(
            f"`mesh` must have the axes {', '.join(AXES)}, not {', '.join(mesh.axis_names)}: see jaxdiff.mesh"
        )
    if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError("`mesh` must be of this process's devices: jaxdiff.mesh(devices=jax.local_devices())")


def row_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Sharding of arrays whose axis `axis` counts the examples."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, ROWS))


@dataclasses.dataclass(frozen=True)
class Replicate:
    """A copy on each device."""

    def __call__(self, spec: list, shape: Sequence[int], mesh: Mesh) -> list:
        return spec


@dataclasses.dataclass(frozen=True)
class Fsdp:
    """The largest axis that is not split yet, and that the devices divide, over `fsdp`; the last of several.

    Attributes:
      min_size: arrays of fewer elements are not split.
    """

    min_size: int = MIN_SIZE

    def __call__(self, spec: list, shape: Sequence[int], mesh: Mesh) -> list:
        n = mesh.shape["fsdp"]
        fitting = [(size, axis) for axis, size in enumerate(shape) if spec[axis] is None and size % n == 0]
        if n == 1 or np.prod(shape, dtype=np.int64) < self.min_size or not fitting:
            return spec
        return [*spec[: max(fitting)[1]], "fsdp", *spec[max(fitting)[1] + 1 :]]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One axis over `tensor`, if its devices divide it.

    Attributes:
      axis: which, counted from the end where it is negative.
    """

    axis: int = -1

    def __call__(self, spec: list, shape: Sequence[int], mesh: Mesh) -> list:
        n, rank = mesh.shape["tensor"], len(shape)
        if n == 1 or not -rank <= self.axis < rank or shape[self.axis] % n:
            return spec
        axis = self.axis % rank
        return [*spec[:axis], "tensor", *spec[axis + 1 :]]


TACTICS = {"replicate": Replicate, "fsdp": Fsdp, "tensor": Tensor}


@dataclasses.dataclass(frozen=True)
class Rule:
    """Tactics that split the arrays whose paths match.

    Attributes:
      pattern: regular expression that is searched for in a path, such as params/mid_block/resnets_0/conv1/kernel.
      tactics: (spec, shape, mesh) -> spec, one after the other.
    """

    pattern: str
    tactics: tuple[Callable, ...]


# Megatron's pairs: the first layer is split by what it makes, the second by what it takes, with one sum behind it.
MAKES = r"(to_[qkv]|to_[kv]_ip|[qkv]_proj|fc1|conv1|linear_1|net_0/proj)/(kernel|bias)$"
TAKES = r"(to_out_0|to_add_out|out_proj|fc2|conv2|linear_2|net_2)/kernel$"
RULES = (Rule(MAKES, (Tensor(-1), Fsdp())), Rule(TAKES, (Tensor(-2), Fsdp())), Rule("", (Fsdp(),)))


def parse_rule(text: str) -> Rule:
    """A rule from text: PATTERN=TACTIC, of several tactics with + between them.

    Tactics are replicate, fsdp or fsdp(MIN_SIZE), and tensor or tensor(AXIS).

    Raises:
      ValueError: another form, an unknown tactic, or a pattern that is no regular expression.

    Example::

        >>> from jaxdiff import meshes
        >>> meshes.parse_rule("attn1=tensor(-2)+fsdp")
        Rule(pattern='attn1', tactics=(Tensor(axis=-2), Fsdp(min_size=65536)))
    """
    pattern, equals, named = text.rpartition("=")
    if not equals or not pattern:
        raise ValueError(f"a rule is PATTERN=TACTIC, such as attn1=replicate, not {text!r}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the pattern of the rule {text!r} is no regular expression: {error}") from None
    tactics = []
    for one in named.split("+"):
        found = re.fullmatch(r"(\w+)(?:\((-?\d+)\))?", one)
        if not found or found[1] not in TACTICS:
            raise unknown("tactic", one, TACTICS)
        options = () if found[2] is None else (int(found[2]),)
        if options and found[1] == "replicate":
            raise ValueError(f"replicate takes no number: {text!r}")
        tactics.append(TACTICS[found[1]](*options))
    return Rule(pattern, tuple(tactics))


def shardings(tree, mesh: Mesh, rules: Sequence[Rule] = RULES):
    """The sharding of each array of a tree by the first rule that its path matches; of none, a copy on each device.

    Args:
      tree: pytree of arrays or of their shapes.
      mesh: mesh with the axes data, fsdp and tensor.
      rules: ordered.

    Returns:
      The same tree of `NamedSharding`.

    Example::

        >>> import jax, jax.numpy as jnp, jaxdiff
        >>> from jaxdiff import meshes
        >>> mesh = jaxdiff.mesh(fsdp=jax.device_count())
        >>> split = meshes.shardings({"kernel": jnp.zeros([3, 3, 256, 128])}, mesh)["kernel"]
        >>> split.spec == (jax.sharding.PartitionSpec(None, None, "fsdp") if mesh.size > 1 else split.spec)
        True
    """
    of_leaf = lambda path, leaf: sharding_of(path_of(path), np.shape(leaf), mesh, rules)
    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def check_rules(tree, rules: Sequence[Rule]) -> None:
    """Raises ValueError for a rule, other than those of `RULES`, whose pattern is in no path of a tree."""
    paths = [path_of(path) for path, _ in jax.tree.leaves_with_path(tree)]
    for rule in rules:
        if rule not in RULES and not any(re.search(rule.pattern, path) for path in paths):
            raise ValueError(f"no array has the pattern {rule.pattern!r} of a rule in its path, such as {paths[0]}")


def sharding_of(path: str, shape: Sequence[int], mesh: Mesh, rules: Sequence[Rule] = RULES) -> NamedSharding:
    """The sharding of one array, see `shardings`."""
    spec = [None] * len(shape)
    rule = next((rule for rule in rules if re.search(rule.pattern, path)), None)
    for tactic in rule.tactics if rule else ():
        spec = tactic(spec, shape, mesh)
    while spec and spec[-1] is None:
        spec = spec[:-1]
    return NamedSharding(mesh, PartitionSpec(*spec))


def path_of(path: tuple) -> str:
    """The text of a path in a pytree, such as params/mid_block/kernel."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def placed(tree, mesh: Mesh, rules: Sequence[Rule] = RULES):
    """A tree whose arrays are split over a mesh by rules; every process gives the same arrays, and keeps its own parts."""

    def put(leaf, sharding):
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree, shardings(tree, mesh, rules))


def on_host(tree):
    """A tree of global arrays as whole NumPy arrays, one after the other; every process must call it."""
    return jax.tree.map(_on_host, tree)


def _on_host(x):
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    if x.is_fully_replicated:
        return np.asarray(x.addressable_data(0))
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
