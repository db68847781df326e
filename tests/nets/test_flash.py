"""Flash attention of TPUs beside the plain form, in an interpreter of their kernels, and where "auto" takes it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY
from jax.experimental.pallas import tpu as pltpu

from jaxdiff.nets import flash
from jaxdiff.nets.attention import attend, attention, fastest


@pytest.mark.parametrize("Q, K, heads, dim", [(256, 256, 2, 40), (200, 130, 1, 160)])
def test_values_and_gradients_are_those_of_the_plain_form(Q, K, heads, dim):
    """Also of lengths and heads that are padded."""
    q = jax.random.normal(jax.random.key(0), (1, Q, heads, dim))
    k, v = jax.random.normal(jax.random.key(1), (2, 1, K, heads, dim))
    g = jax.random.normal(jax.random.key(2), q.shape)
    want, plain = jax.vjp(attention, q, k, v)
    with pltpu.force_tpu_interpret_mode():
        got, pullback = jax.vjp(flash.flash_attention, q, k, v)
        gradients = pullback(g)
    np.testing.assert_allclose(got, want, atol=1e-5)
    for one, other in zip(gradients, plain(g), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_on_a_mesh_each_device_has_its_own_examples_and_heads():
    mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    q, k, v = jax.random.normal(jax.random.key(0), (3, 4, 128, 2, 8))
    with jax.set_mesh(mesh), pltpu.force_tpu_interpret_mode():
        got = jax.jit(flash.flash_attention)(q, k, v)
    assert got.sharding.spec == jax.sharding.PartitionSpec("fsdp", None, "tensor")
    np.testing.assert_allclose(got, attention(q, k, v), atol=1e-5)


def test_few_pixels_and_masks_take_the_plain_form(monkeypatch):
    monkeypatch.setattr(flash, "flash_attention", lambda *args: pytest.fail("the kernel was taken"))
    q = jax.random.normal(jax.random.key(0), (1, 64, 2, 8))
    np.testing.assert_array_equal(attend(q, q, q, "flash"), attention(q, q, q))
    monkeypatch.setattr(flash, "FEWEST", 1)
    mask = jnp.ones([1, 1, 64, 64], bool)
    np.testing.assert_array_equal(attend(q, q, q, "flash", mask), attention(q, q, q, mask))
    with pytest.raises(pytest.fail.Exception):
        attend(q, q, q, "flash")


def test_auto_takes_what_the_devices_have(monkeypatch):
    assert fastest("cpu", jnp.float32, 40) == "plain"
    assert fastest("cuda", jnp.bfloat16, 64) == "cudnn" and fastest("cuda", jnp.float32, 64) == "plain"
    assert fastest("cuda", jnp.bfloat16, 160) == "plain"
    assert fastest("tpu", jnp.bfloat16, 40) == "plain"  # of eight devices, and no mesh is known
    with jax.set_mesh(jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert fastest("tpu", jnp.bfloat16, 40) == "flash"
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    assert fastest("tpu", jnp.bfloat16, 40) == "flash"


def test_under_pmap_the_mesh_is_known():
    step = jax.pmap(lambda x: x + (fastest("tpu", jnp.bfloat16, 40) == "flash"), axis_name="batch")
    assert step(jnp.zeros(8)).tolist() == [1.0] * 8


def test_a_network_for_tpus_is_refused_elsewhere():
    with pytest.raises(ValueError, match="attention_kernel='flash' runs on TPUs only and this is a CPU: choose 'auto'"):
        dataclasses.replace(TINY, attention_kernel="flash").check_platform("cpu")
    dataclasses.replace(TINY, attention_kernel="flash").check_platform("tpu")
