"""Accelerators that programs can be compiled for while they are not attached."""

import importlib.util
import os
import re
from typing import NamedTuple

import jax

from jaxdiff.errors import unknown
from jaxdiff.train import speed


class Chip(NamedTuple):
    """A jax device of a kind of chip, from the maker's data sheet (https://cloud.google.com/tpu/docs/system-architecture).

    Attributes:
      memory: bytes; a program may use a little less.
      bandwidth: bytes per second between it and its memory.
      interconnect: bytes per second that it sends to its neighbours, over all links; to other slices it is slower.
      flops: bfloat16 operations per second.
    """

    memory: float
    bandwidth: float | None
    interconnect: float | None
    flops: float | None


# A device of tpu7x is half a chip.
CHIPS = {
    "v4": Chip(32 * 2**30, 1228e9, 300e9, 275e12),
    "v5e": Chip(16 * 2**30, 819e9, 200e9, 197e12),
    "v5p": Chip(95 * 2**30, 2765e9, 600e9, 459e12),
    "v6e": Chip(32 * 2**30, 1638e9, 448e9, 918e12),
    "tpu7x": Chip(96 * 2**30, 7380e9 / 2, 600e9 / 2, 2307e12 / 2),
}
HERE = "here"  # in place of a topology: the devices that are attached


def check(topology: str, slices: int = 1) -> None:
    """Raises an error for a topology that cannot be compiled for, as far as its text shows it; see `devices`."""
    if topology == HERE:
        if slices != 1:
            raise ValueError(f"`slices`={slices} is of topologies that are not attached: leave it out")
        return
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS:
        raise unknown("chip", kind, (*CHIPS, HERE))
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape):
        raise ValueError(f"a topology is {kind}:4x4 or {kind}:2x2x2, not {topology!r}")
    if slices < 1:
        raise ValueError(f"`slices`={slices} must be at least 1")


def devices(topology: str, slices: int = 1) -> tuple[Chip, tuple]:
    """The chip of a topology, and its devices, which can be compiled for.

    Args:
      topology: such as "v5e:16x16"; "here" are the devices that are attached.
      slices: pods of that topology that are joined by a slower network.

    Raises:
      ValueError: an unknown chip or topology.
      ImportError: the package libtpu is missing.
    """
    check(topology, slices)
    if topology == HERE:
        return attached()
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError("compiling for TPUs needs the package libtpu: pip install 'jaxdiff[plan]'")
    kind = topology.partition(":")[0]
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # the machine that asks is no TPU host
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # two plans at once
    from jax.experimental import topologies

    more = {"num_slices": slices} if slices > 1 else {}
    more |= {"chip_config_name": "megacore"} if kind == "v4" else {}  # a chip is one device
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **more).devices
    except Exception as error:  # of several types
        said = " ".join(str(error).split())[:160]
        raise ValueError(f"there is no topology {topology!r} ({said}): such as {kind}:2x2 or {kind}:4x4") from None
    return CHIPS[kind], tuple(found)


def attached() -> tuple[Chip, tuple]:
    """The devices of this machine."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    memory = (
        stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()
    )
    return Chip(float(memory), None, None, speed.peak(device.device_kind)), tuple(jax.local_devices())
