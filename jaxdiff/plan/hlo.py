"""Collectives, and kernels without a cost, in the text of a compiled program."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1} | {f"{kind}{bits}": bits // 8 for kind in "suf" for bits in (8, 16, 32, 64)} | {"bf16": 2}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
ARRAY = re.compile(r"\b(" + "|".join(BYTES) + r")\[([\d,]*)\]")


class Collective(NamedTuple):
    """Exchanges of one kind between devices, of one step and device.

    Attributes:
      kind: such as "all-gather".
      count: how many.
      bytes: of the whole arrays that they make, or take where they make less.
      sent: bytes that a device sends.
    """

    kind: str
    count: int
    bytes: float
    sent: float


def collectives(text: str, devices: int) -> list[Collective]:
    """The exchanges in a program, by kind; those inside of a loop are counted once.

    An exchange that goes on while the device computes stands several times in the text, always with the same channel.

    Args:
      text: text of a compiled program.
      devices: number of devices, of which a group is where the program does not say.
    """
    found, channels = {kind: [0, 0.0, 0.0] for kind in KINDS}, set()
    for line in text.splitlines():
        match = re.match(rf"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(KINDS)})(?:-start)?\((.*)", line)
        if not match:
            continue
        made, kind, rest = match.groups()
        if channel := re.search(r"channel_id=(\d+)", rest):
            if channel[1] in channels:
                continue
            channels.add(channel[1])
        n = _group_size(rest, devices)
        if n < 2:
            continue
        sizes = [_size(*array) for array in ARRAY.findall(made) if array[1]]
        if "-start(" in line and kind != "all-reduce":  # what it takes, and then what it makes
            sizes = sizes[len(sizes) // 2 :]
        size = sum(sizes)
        size *= n if kind == "reduce-scatter" else 1
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1}.get(kind, (n - 1) / n)
        entry = found[kind]
        entry[0], entry[1], entry[2] = entry[0] + 1, entry[1] + size, entry[2] + share * size
    return [Collective(kind, *entry) for kind, entry in found.items() if entry[0]]


def _group_size(rest, devices):
    """Devices that exchange with one another: as a list, as counts, or as axes of a mesh, of which some may be split."""
    if axes := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", rest):
        sizes = dict(re.findall(r"('\w+')=(\d+)", axes[1]))
        parts = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", axes[2])
        return math.prod(int(part or sizes[name]) for name, part in parts)
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(counted[2])
    return devices


def _size(dtype, dims):
    return BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)


def flash_backward(text: str) -> tuple[float, float]:
    """FLOPs and bytes of the backward kernels of jax's flash attention, for which it gives no cost.

    With scores S of [B, H, Q, K] and heads of D, each product of matrices takes 2 B H Q K D: S, dP and dQ are the three of
    the kernel for the queries; S, dP, dV and dK the four of that for keys and values. Bytes are those of each array once.
    """
    flops = size = 0.0
    for made, taken, products in _kernels(text):
        arrays = [tuple(map(int, dims.split(","))) for _, dims in ARRAY.findall(taken) if dims.count(",") == 3]
        if len(arrays) < 2:
            continue
        (B, H, Q, D), (_, _, K, _) = arrays[:2]
        flops += products * 2.0 * B * H * Q * K * D
        size += sum(_size(*array) for array in ARRAY.findall(made) + ARRAY.findall(taken))
    return flops, size


def _kernels(text) -> Iterator[tuple[str, str, int]]:
    shapes = dict(re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) [\w\-]+\(", text, re.MULTILINE))
    for line in text.splitlines():
        match = re.match(r"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) custom-call\((.*?)\)", line)
        if not match or "tpu_custom_call" not in line or "bwd" not in line:
            continue
        products = 4 if "dkv" in line else 3
        taken = " ".join(shapes.get(name.lstrip("%"), "") for name in re.findall(r"%?[\w.\-]+", match[2]))
        yield match[1], taken, products
