"""Checksums of checkpoints, for tensorstore notices a file that is cut short, but not a changed bit.

Of arrays in memory CRC-32. Of arrays on a mesh, whose parts are in many processes, a sum that does not depend on how they
are split, so that they can be read back onto any other mesh:

(1)  sum_i w(i) m(x_i) mod 2^32,   w(i) = 2 h(i) + 1,   h(i) = (i xor (i >> 15)) c mod 2^31

with x_i the bits of element i in C order as an unsigned number, m a permutation of these numbers that spreads each bit over
all (the end of MurmurHash3, Appleby 2011), and c odd. One changed element always changes it, since w is odd.
"""

import concurrent.futures
import functools
import json
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdiff import meshes

MIX = 0x9E3779B1  # 2^32 / golden ratio
CHUNK = 2**20  # elements of an array in memory that are summed at a time


def of_json(values: Mapping) -> int:
    """CRC-32 of JSON values."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def describe(tree, item: str) -> dict[str, list]:
    """Shape, dtype and checksum of every array of an item, by path: a number is CRC-32, a text is equation (1)."""
    paths, leaves = by_path(tree, item)
    sums = _sums(leaves, [isinstance(x, jax.Array) for x in leaves])
    return {path: [list(x.shape), x.dtype.name, found] for path, x, found in zip(paths, leaves, sums)}


def damaged(trees: Mapping, saved: Mapping[str, Mapping]) -> str:
    """Names the first array that is not what was saved, or says ""; of arrays on a mesh every process must call it.

    Args:
      trees: items that were read.
      saved: what `describe` said of each.
    """
    reasons = []
    for name, tree in trees.items():  # to the end: other processes take part in each of them
        paths, leaves = by_path(tree, name)
        by_sum = [isinstance(saved[name][path][2], str) for path in paths]
        leaves = [x if summed else meshes.on_host(x) for x, summed in zip(leaves, by_sum)]
        for path, found in zip(paths, _sums(leaves, by_sum)):
            if found != saved[name][path][2]:
                reasons.append(f"the checksum of {path} is not what was saved")
    return reasons[0] if reasons else ""


def by_path(tree, item: str) -> tuple[list[str], list]:
    """Paths such as ema/mid_block/kernel, and the arrays."""
    flat = [(path, x if hasattr(x, "dtype") else np.asarray(x)) for path, x in jax.tree.leaves_with_path(tree)]
    names = [meshes.path_of(path) for path, _ in flat]
    return [name if item == "rest" else f"{item}/{name}" for name in names], [x for _, x in flat]


def _crc32(x):
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8))


def _sums(leaves, by_sum):
    """The checksum of each array, by equation (1) or CRC-32.

    On a mesh one after the other: on simulated devices programs that exchange something must not overtake one another.
    """
    on_mesh = [summed and isinstance(x, jax.Array) for x, summed in zip(leaves, by_sum)]
    in_memory = lambda x, summed, skip: None if skip else (_sum_in_memory if summed else _crc32)(x)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        found = list(threads.map(in_memory, leaves, by_sum, on_mesh))
    found = [int(_sum_on_mesh(x)) if there else one for x, one, there in zip(leaves, found, on_mesh)]
    return [f"sum {one}" if summed else one for one, summed in zip(found, by_sum)]


@jax.jit
def _sum_on_mesh(x):
    """Equation (1); the compiler sums the parts of each device, and then over devices."""
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    words = lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(4, x.dtype.itemsize)}")).astype(jnp.uint32)
    strides = np.cumprod([1, *words.shape[:0:-1]])[::-1] if words.ndim else []
    index = functools.reduce(
        jnp.add,
        (lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(n % 2**32) for axis, n in enumerate(strides)),
        jnp.zeros(words.shape, jnp.uint32),
    )
    return jnp.sum(_weights(index) * _mixed(words), dtype=jnp.uint32)


def _sum_in_memory(x):
    x = np.ascontiguousarray(x).reshape(-1)
    words, total = x.view(f"uint{8 * min(4, x.dtype.itemsize)}"), 0
    for start in range(0, words.size, CHUNK):
        part = words[start : start + CHUNK].astype(np.uint32)
        index = np.arange(start, start + part.size, dtype=np.uint64).astype(np.uint32)
        total += int(np.sum(_weights(index) * _mixed(part), dtype=np.uint32))
    return total % 2**32


def _mixed(words):
    of = words.dtype.type
    words = (words ^ (words >> 16)) * of(0x85EBCA6B)
    words = (words ^ (words >> 13)) * of(0xC2B2AE35)
    return words ^ (words >> 16)


def _weights(index):
    return (index ^ (index >> 15)) * index.dtype.type(MIX) * index.dtype.type(2) + index.dtype.type(1)
