"""Every layer that is written in another form, against its plain form: values and gradients."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import lax

from jaxdiff.nets import layers, winograd
from jaxdiff.nets.attention import attend, attention
from jaxdiff.nets.conv import conv2d

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def plain_conv(x, kernel, stride=1, padding=((1, 1), (1, 1))):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def assert_same(ours, plain, *args, tolerance=1e-5):
    """Equal values, and equal gradients in every argument, of a random combination of the outputs."""
    out, pull = jax.vjp(jax.jit(plain), *args)
    mine, mine_pull = jax.vjp(jax.jit(ours), *args)
    scale = lambda x: max(1.0, float(jnp.abs(x).max()))
    chex.assert_trees_all_close(mine, out, atol=tolerance * scale(out))
    g = normal(*out.shape)
    for got, wanted in zip(jax.tree.leaves(mine_pull(g)), jax.tree.leaves(pull(g)), strict=True):
        chex.assert_trees_all_close(got, wanted, atol=tolerance * scale(wanted))


CONVS = {
    "3x3": (5, 4, 3, 1, ((1, 1), (1, 1))),
    "fewer channels out": (6, 2, 3, 1, ((1, 1), (1, 1))),
    "more channels out": (2, 6, 3, 1, ((1, 1), (1, 1))),
    "strided": (4, 6, 3, 2, ((1, 1), (1, 1))),
    "strided, DDPM's padding": (6, 4, 3, 2, ((0, 1), (0, 1))),
    "2x2, uneven": (6, 4, 2, 1, ((1, 0), (0, 1))),
    "1x1 strided": (3, 5, 1, 2, ((0, 0), (0, 0))),
    "no padding": (4, 3, 3, 1, ((0, 0), (0, 0))),
}


@pytest.mark.parametrize("C, O, size, stride, padding", CONVS.values(), ids=CONVS)
def test_conv2d_equals_the_plain_convolution(C, O, size, stride, padding):
    x, kernel = normal(2, 8, 6, C), normal(size, size, C, O)
    ours = lambda x, kernel: conv2d(x, kernel, stride, padding)
    assert_same(ours, lambda x, kernel: plain_conv(x, kernel, stride, padding), x, kernel)


@pytest.mark.parametrize("C, O", [(64, 96), (96, 64)])
def test_large_conv2d_equals_the_plain_convolution(C, O):
    x, kernel = normal(2, 8, 10, C), normal(3, 3, C, O)
    assert winograd.applies(x.shape, kernel.shape, x.dtype, 1, ((1, 1), (1, 1)))
    assert_same(conv2d, plain_conv, x, kernel)


@pytest.mark.parametrize(
    "shape, kernel, dtype, stride, padding",
    [
        ((2, 7, 8, 64), (3, 3, 64, 64), "float32", 1, ((1, 1), (1, 1))),
        ((2, 8, 8, 32), (3, 3, 32, 64), "float32", 1, ((1, 1), (1, 1))),
        ((2, 8, 8, 64), (2, 2, 64, 64), "float32", 1, ((1, 0), (1, 0))),
        ((2, 8, 8, 64), (3, 3, 64, 64), "float32", 2, ((1, 1), (1, 1))),
        ((2, 8, 8, 64), (3, 3, 64, 64), "float32", 1, ((0, 0), (0, 0))),
        ((2, 8, 8, 64), (3, 3, 64, 64), "bfloat16", 1, ((1, 1), (1, 1))),
    ],
)
def test_winograd_is_for_large_3x3_convolutions_only(shape, kernel, dtype, stride, padding):
    assert not winograd.applies(shape, kernel, jnp.dtype(dtype), stride, padding)


def test_winograd_is_for_the_cpu_only():
    grads = jax.jit(jax.grad(lambda x, kernel: (conv2d(x, kernel) ** 2).sum(), (0, 1)))
    traced = grads.trace(normal(1, 8, 8, 64), normal(3, 3, 64, 64))
    count = {p: traced.lower(lowering_platforms=(p,)).as_text().count("convolution(") for p in ("cpu", "tpu")}
    assert count == {"cpu": 0, "tpu": 3}


@pytest.mark.parametrize("C, O", [(3, 2), (3, 5), (64, 64)])
def test_conv2d_has_second_derivatives(C, O):
    x, kernel = normal(2, 8, 8, C), normal(3, 3, C, O)

    def curvature(conv):
        loss = lambda x, kernel: (conv(x, kernel) ** 3).sum()
        return jax.jit(jax.grad(lambda x, kernel: (jax.grad(loss)(x, kernel) ** 2).sum(), (0, 1)))(x, kernel)

    for got, wanted in zip(curvature(conv2d), curvature(plain_conv), strict=True):
        chex.assert_trees_all_close(got, wanted, rtol=1e-3, atol=1e-4 * float(jnp.abs(wanted).max()))


def test_conv2d_under_vmap_and_scan():
    xs, kernel = normal(3, 2, 5, 4, 3), normal(3, 3, 3, 3)
    grads = jax.vmap(jax.grad(lambda x: (conv2d(x, kernel) ** 2).sum()))(xs)
    wanted = jax.vmap(jax.grad(lambda x: (plain_conv(x, kernel) ** 2).sum()))(xs)
    chex.assert_trees_all_close(grads, wanted, rtol=1e-4, atol=1e-4)

    def through_scan(conv):
        def loss(kernel):
            x, _ = lax.scan(lambda x, _: (0.1 * conv(x, kernel), None), xs[0], length=3)
            return (x**2).sum()

        return jax.grad(loss)(kernel)

    chex.assert_trees_all_close(through_scan(conv2d), through_scan(plain_conv), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups, channels, offset", [(4, 12, 0.0), (1, 6, 0.0), (6, 6, 0.0), (2, 8, 30.0)])
def test_group_norm_equals_flax(groups, channels, offset):
    x = normal(3, 5, 4, channels) + np.float32(offset)
    params = {"params": {"scale": normal(channels), "bias": normal(channels)}}
    ours = layers.GroupNorm(groups, 1e-5)
    plain = nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False)

    def plain_apply(params, x):  # without its broadcasting of ranks
        with jax.numpy_rank_promotion("allow"):
            return plain.apply(params, x)

    # E[x^2] - E[x]^2 loses digits where the mean is far larger than the spread.
    assert_same(ours.apply, plain_apply, params, x, tolerance=1e-5 if not offset else 2e-3)


def test_group_norm_scale_and_shift():
    x, scale, shift = normal(2, 3, 3, 8), normal(2, 8), normal(2, 8)
    norm = layers.GroupNorm(4)
    params = {"params": {"scale": normal(8), "bias": normal(8)}}
    wanted = norm.apply(params, x) * (1 + scale[:, None, None]) + shift[:, None, None]
    chex.assert_trees_all_close(norm.apply(params, x, (scale, shift)), wanted, rtol=1e-4, atol=1e-5)


def test_group_norm_in_bfloat16_sums_in_float32():
    x = normal(1, 64, 64, 8) + 3
    params = {"params": {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}}
    low = layers.GroupNorm(2, dtype=jnp.bfloat16).apply(params, jnp.asarray(x, jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    chex.assert_trees_all_close(low.astype(jnp.float32), layers.GroupNorm(2).apply(params, x), atol=0.05)


def plain_attention(q, k, v):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)


@pytest.mark.parametrize("kernel", ["plain", "xla"])
@pytest.mark.parametrize("heads, dim", [(1, 8), (4, 2)])
def test_attention_equals_softmax(heads, dim, kernel):
    ours = lambda q, k, v: attend(q, k, v, kernel)
    q, k, v = normal(2, 5, heads, dim), normal(2, 7, heads, dim), normal(2, 7, heads, dim)
    assert_same(ours, plain_attention, q, k, v)
    weights = np.exp(np.einsum("bqhd,bkhd->bhqk", q.astype(float), k) / np.sqrt(dim))
    softmax = weights / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(ours(q, k, v), np.einsum("bhqk,bkhd->bqhd", softmax, v), atol=1e-5)


@pytest.mark.parametrize("kernel", ["plain", "xla"])
def test_attention_in_bfloat16_is_as_good_as_its_numbers(kernel):
    """Values and gradients beside those of the same numbers in float32, whose scores are spread by 6."""
    q, k, v = (jnp.asarray(scale * normal(2, 64, 2, 32), jnp.bfloat16) for scale in (6**0.5, 6**0.5, 1.0))
    out, pull = jax.vjp(plain_attention, *(x.astype(jnp.float32) for x in (q, k, v)))
    low, low_pull = jax.vjp(lambda q, k, v: attend(q, k, v, kernel), q, k, v)
    assert {x.dtype for x in (low, *low_pull(low))} == {jnp.dtype("bfloat16")}
    g = jnp.asarray(normal(*out.shape), jnp.bfloat16)
    for got, wanted in zip((low, *low_pull(g)), (out, *pull(g.astype(jnp.float32))), strict=True):
        assert jnp.linalg.norm(got - wanted) < 0.012 * jnp.linalg.norm(wanted)  # bfloat16 rounds by up to 0.004


def test_attention_of_large_scores_is_finite():
    q, k, v = 1e3 * normal(1, 4, 1, 8), 1e3 * normal(1, 4, 1, 8), normal(1, 4, 1, 8)
    grads = jax.grad(lambda *qkv: attention(*qkv).sum(), (0, 1, 2))(q, k, v)
    chex.assert_tree_all_finite((attention(q, k, v), grads))


@pytest.mark.parametrize("C, O", [(3, 5), (6, 2)])
def test_upsampling_equals_repeating_and_convolving(C, O):
    plain = lambda x, kernel: plain_conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel)
    assert_same(layers.upsample_conv, plain, normal(2, 4, 3, C), normal(3, 3, C, O))


@pytest.mark.parametrize(
    "layer",
    [layers.Dense, layers.Conv, functools.partial(layers.Conv, size=1), layers.Upsample],
    ids=["dense", "3x3", "1x1", "upsample"],
)
def test_gradients_of_biases_are_summed_in_float32(layer):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layer(2, dtype=jnp.bfloat16)(x)

    net, x = Net(), jnp.ones([2, 32, 32, 3])
    params = net.init(jax.random.key(0), x)
    pixels = net.apply(params, x)[..., 0].size
    grads = jax.jit(jax.grad(lambda params: net.apply(params, x).astype(jnp.float32).sum()))(params)
    bias = next(g for path, g in traverse_util.flatten_dict(grads).items() if path[-1] == "bias")
    assert bias.dtype == jnp.float32 and bias.tolist() == [pixels, pixels]  # in bfloat16 256 + 1 is 256


def test_dropout_of_an_example_depends_on_its_key_alone():
    x, keys = np.ones((4, 50, 50, 2), np.float32), jax.vmap(jax.random.key)(jnp.arange(4))

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, keys):
            return layers.Dropout(0.25, name="a")(x, keys), layers.Dropout(0.25, name="b")(x, keys)

    one, other = Two().apply({}, x, keys)
    assert float((one == 0).mean()) == pytest.approx(0.25, abs=0.01)
    assert float(one.mean()) == pytest.approx(1.0, abs=0.02)
    assert not np.array_equal(one, other)  # another site, another mask
    backwards, _ = Two().apply({}, x, keys[::-1])
    chex.assert_trees_all_equal(backwards, one[::-1])
    chex.assert_trees_all_equal(Two().apply({}, x, None)[0], x)


def test_space_to_depth_gathers_squares():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    deep = layers.space_to_depth(x, 2)
    chex.assert_shape(deep, (2, 2, 3, 12))
    np.testing.assert_array_equal(deep[1, 1, 2], x[1, 2:4, 4:6].ravel())
    np.testing.assert_array_equal(layers.depth_to_space(deep, 2), x)


@pytest.mark.parametrize("flip, shift", [(False, 1.0), (True, 0.0)])
def test_timestep_embedding(flip, shift):
    t, half = np.array([0, 1, 500]), 4
    angles = t[:, None] * 10000.0 ** (-np.arange(half) / (half - shift))
    waves = [np.cos(angles), np.sin(angles)] if flip else [np.sin(angles), np.cos(angles)]
    got = layers.timestep_embedding(jnp.asarray(t), 2 * half, flip, shift)
    np.testing.assert_allclose(got, np.concatenate(waves, 1), atol=2e-4)  # sin(500) in float32
