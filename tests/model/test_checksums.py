"""Checksums of arrays in memory and on meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff import meshes
from jaxdiff.model import checksums

RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.standard_normal((512, 8, 17)).astype(np.float32),
    "bfloat16": RNG.standard_normal((128, 24)).astype(jnp.bfloat16),
    "uint32": RNG.integers(0, 2**32, (64, 3), np.uint32),
    "int8": RNG.integers(-128, 128, (72,), np.int8),
    "bool": RNG.integers(0, 2, (16, 5)).astype(bool),
    "scalar": np.int32(7),
    "empty": np.zeros((0, 3), np.float32),
}


def by_definition(x) -> int:
    """The equation, in Python's own integers."""
    total = 0
    for i, element in enumerate(x.reshape(-1)):
        h = ((i ^ (i >> 15)) * checksums.MIX) % 2**31
        m = int.from_bytes(element.tobytes(), "little")
        m = ((m ^ (m >> 16)) * 0x85EBCA6B) % 2**32
        m = ((m ^ (m >> 13)) * 0xC2B2AE35) % 2**32
        total += (2 * h + 1) * (m ^ (m >> 16))
    return total % 2**32


@pytest.mark.parametrize("name", ARRAYS)
def test_is_the_same_in_memory_and_on_any_mesh(name):
    x = np.asarray(ARRAYS[name])
    wanted = f"sum {by_definition(x)}"
    rules = (meshes.parse_rule("=".join((".", "fsdp(1)"))),)
    for mesh in (jaxdiff.mesh(), jaxdiff.mesh(fsdp=8), jaxdiff.mesh(data=4, fsdp=2)):
        placed = meshes.placed({"x": x}, mesh, rules)
        assert checksums.describe(placed, "ema") == {"ema/x": [list(x.shape), x.dtype.name, wanted]}
        assert not checksums.damaged({"ema": {"x": x}}, {"ema": checksums.describe(placed, "ema")})  # read into memory
        assert not checksums.damaged({"ema": placed}, {"ema": checksums.describe({"x": x}, "ema")})  # by its CRC-32


def test_chunks_change_nothing(monkeypatch):
    x = ARRAYS["float32"]
    whole = checksums._sum_in_memory(x)
    monkeypatch.setattr(checksums, "CHUNK", 1000)
    assert checksums._sum_in_memory(x) == whole


def test_notices_each_changed_bit_and_each_exchange():
    mesh = jaxdiff.mesh(fsdp=8)
    x = ARRAYS["uint32"]
    sum_of = lambda x: checksums.describe({"x": jax.device_put(x, meshes.row_sharding(mesh))}, "x")["x/x"][2]
    before = sum_of(x)
    for bit in range(32):
        changed = x.copy()
        changed[RNG.integers(64), RNG.integers(3)] ^= np.uint32(1 << bit)
        assert sum_of(changed) != before
        twice = changed.copy()
        twice[RNG.integers(64), RNG.integers(3)] ^= np.uint32(1 << bit)
        assert (twice == x).all() or sum_of(twice) not in (before, sum_of(changed))
    assert sum_of(x ^ np.uint32(1 << 31)) != before  # all signs
    exchanged = x.copy()
    exchanged[[3, 60]] = exchanged[[60, 3]]
    assert sum_of(exchanged) != before


def test_names_what_is_damaged():
    tree = {"a": np.arange(3.0), "b": np.arange(4.0)}
    saved = {"ema": checksums.describe(tree, "ema")}
    tree["b"][2] = 7
    assert checksums.damaged({"ema": tree}, saved) == "the checksum of ema/b is not what was saved"
