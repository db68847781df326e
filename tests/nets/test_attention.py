"""Attention by blocks is attention: values, both modes of differentiation, dtypes, and what it keeps in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets import attention

SHAPES = [((2, 1024, 2, 8), 1024), ((1, 576, 3, 4), 700)]  # 700 keys, and queries that 512 does not divide


def arrays(shape, keys, dtype="float32"):
    B, _, H, D = shape
    rng = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(2 * rng.standard_normal(shape, np.float32), dtype)
    return make(*shape), make(B, keys, H, D), make(B, keys, H, D)


@pytest.mark.parametrize("shape, keys", SHAPES)
def test_blocks_are_softmax_of_the_scores_times_the_values(shape, keys):
    q, k, v = arrays(shape, keys)
    found = jax.jit(attention.blocked_attention)(q, k, v)
    scores = np.einsum("bqhd,bkhd->bhqk", *(np.asarray(x, np.float64) for x in (q, k))) * shape[-1] ** -0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, np.einsum("bhqk,bkhd->bqhd", weights, np.asarray(v, np.float64)), atol=1e-5)


def test_derivatives_in_both_modes_are_those_of_plain_attention():
    q, k, v = arrays(*SHAPES[1])
    loss = lambda of: lambda q, k, v: jnp.sin(of(q, k, v)).sum()
    found, wanted = (
        jax.jit(jax.grad(loss(of), argnums=(0, 1, 2)))(q, k, v)
        for of in (attention.blocked_attention, attention.attention)
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), found, wanted)
    found, wanted = (
        jax.jit(lambda *x, of=of: jax.jvp(of, x, x))(q, k, v)
        for of in (attention.blocked_attention, attention.attention)
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), found, wanted)


def test_in_bfloat16_scores_and_sums_are_float32():
    q, k, v = arrays(*SHAPES[0], "bfloat16")
    found, wanted = (jax.jit(of)(q, k, v) for of in (attention.blocked_attention, attention.attention))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (found, wanted)), atol=0.02, rtol=2**-6)


def test_no_scores_of_all_queries_are_in_memory():
    q, k, v = arrays((2, 2048, 2, 8), 2048)
    size = lambda of: jax.jit(of).lower(q, k, v).compile().memory_analysis().temp_size_in_bytes
    assert size(attention.attend) < 2**23 < 2 * 2 * 2048 * 2048 * 4 <= size(attention.attention)


def test_few_pixels_and_masks_take_the_plain_form():
    q, k, v = arrays((1, 64, 2, 8), 64)
    text = str(jax.make_jaxpr(attention.attend)(q, k, v))
    assert "custom_jvp" not in text
    q, k, v = arrays(*SHAPES[0])
    assert "custom_jvp" in str(jax.make_jaxpr(attention.attend)(q, k, v))
    mask = jnp.ones([1, 1, 1, 1024], bool)
    assert "custom_jvp" not in str(jax.make_jaxpr(lambda *x: attention.attend(*x, mask=mask))(q, k, v))
