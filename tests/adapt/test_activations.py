"""Gram matrices of layers' inputs, compared with sown inputs and with convolutions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdiff import Cond, UNet, UNetConfig, network
from jaxdiff.adapt import activations, lora
from jaxdiff.nets.layers import Conv, Dense, Upsample

RNG = np.random.default_rng(0)
CONFIG = UNetConfig(out_channels=2, channels=(8, 16), blocks=1, attention=(1,), groups=4, num_heads=2, context_dim=6)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def batch(rows=2):
    return normal(rows, 8, 8, 2), np.arange(10.0, 10.0 + rows, dtype=np.float32), normal(rows, 5, 6)


@functools.cache
def params():
    x, t, context = batch()
    shapes = jax.eval_shape(UNet(CONFIG).init, jax.random.key(0), x, t, Cond(context=context))["params"]
    return jax.tree.map(lambda leaf: 0.3 * normal(*leaf.shape), shapes)


def call(params, x, t, context, config=CONFIG):
    return network(UNet(config))(params, x, t, Cond(context=context))


def test_a_linear_layer_against_numpy():
    """Also of a layer that runs twice, on other inputs: the sum."""

    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, y):
            layer, other = Dense(4, name="layer"), Dense(7, name="other")
            return other(layer(x)), layer(y)

    net, x, y = Twice(), normal(2, 5, 7), normal(3, 7)
    weights = net.init(jax.random.key(0), x, y)["params"]
    look = activations.grams(
        lambda weights, x, y: net.apply({"params": weights}, x, y), ["layer/kernel", "other/kernel"]
    )
    seen, both = look(weights, x, y), np.concatenate([x.reshape(-1, 7), y]).astype(np.float64)
    np.testing.assert_allclose(seen["layer/kernel"], both.T @ both, atol=1e-4)
    hidden = x.reshape(-1, 7).astype(np.float64) @ np.asarray(weights["layer"]["kernel"], np.float64)
    np.testing.assert_allclose(seen["other/kernel"], hidden.T @ hidden, atol=1e-4)


@pytest.mark.parametrize(
    "layer, path",
    [
        (Conv(5), "kernel"),
        (Conv(5, stride=2, padding=(0, 1)), "kernel"),
        (Conv(5, size=4, stride=3, padding=(2, 1)), "kernel"),
        (Conv(5, size=1), "kernel"),
        (Conv(5, size=1, stride=2, padding=(0, 0)), "kernel"),
        (Upsample(5), "conv/kernel"),
    ],
)
def test_a_convolution_is_its_patches_times_its_kernel(layer, path):
    """Y^T Y = K^T G K for any kernel K as a matrix, with Y by the layer itself."""
    x = normal(2, 6, 8, 3)
    size, run = getattr(layer, "size", 3), lambda weights, x: layer.apply({"params": weights}, x)

    def weights():
        both = {"kernel": normal(size, size, 3, 5), "bias": np.zeros(5, np.float32)}
        return both if path == "kernel" else {"conv": both}

    seen = activations.grams(run, [path])(weights(), x)[path]
    for _ in range(3):
        new = weights()
        y, kernel = run(new, x), new.get("conv", new)
        y, matrix = np.asarray(y, np.float64).reshape(-1, 5), kernel["kernel"].reshape(-1, 5).astype(np.float64)
        np.testing.assert_allclose(matrix.T @ np.asarray(seen, np.float64) @ matrix, y.T @ y, atol=1e-2)


def test_layers_of_a_whole_network_against_their_sown_inputs():
    """Flax's `capture_intermediates`: of the norm before to_q; to_k has the context as input."""
    x, t, context = batch()
    paths = [f"mid_block/attentions_0/transformer_blocks_0/attn{i}/to_{name}/kernel" for i in (1, 2) for name in "qk"]
    seen = activations.grams(call, paths)(params(), x, t, context)
    wanted = lambda module, _: module.name in ("norm1", "norm2")
    run = functools.partial(UNet(CONFIG).apply, capture_intermediates=wanted, mutable="intermediates")
    _, state = jax.jit(run)({"params": params()}, x, t - 1, Cond(context=context))
    block = state["intermediates"]["mid_block"]["attentions_0"]["transformer_blocks_0"]
    inputs = [block["norm1"]["__call__"][0]] * 2 + [block["norm2"]["__call__"][0], context]
    for path, tokens in zip(paths, inputs):
        tokens = np.asarray(tokens, np.float64).reshape(-1, tokens.shape[-1])
        np.testing.assert_allclose(seen[path], tokens.T @ tokens, rtol=1e-4, atol=1e-3)


def test_all_layers_that_a_lora_may_update_have_a_gram_matrix():
    paths = lora.init(jax.random.key(0), params(), 1, "kernel$").factors
    x, t, context = batch()
    seen = activations.grams(call, paths)(params(), x, t, context)
    assert set(seen) == set(paths)
    for path, (down, _) in paths.items():
        assert seen[path].shape == (len(down), len(down)) and seen[path].dtype == jnp.float32


def test_few_layers_per_call_in_programs_of_their_own_and_under_jit():
    net = nn.Sequential([Conv(4), nn.silu, Conv(3), Dense(5)])
    weights = {"layers_0": (3, 3, 2, 4), "layers_2": (3, 3, 4, 3), "layers_3": (3, 5)}
    weights = {name: {"kernel": normal(*shape), "bias": normal(shape[-1])} for name, shape in weights.items()}
    paths, traced = [f"{name}/kernel" for name in weights], []

    def counted(weights, x):
        traced.append(0)
        return net.apply({"params": weights}, x)

    x, other = normal(2, 8, 8, 2), normal(2, 8, 8, 2)
    wanted = activations.grams(counted, paths)(weights, x)
    for size, programs in ((None, 1), (2, 2), (1, 3)):
        traced.clear()
        jax.clear_caches()
        look = activations.grams(counted, paths, layers_per_call=size)
        for path, g in look(weights, x).items():
            np.testing.assert_allclose(g, wanted[path], rtol=1e-5, atol=1e-4)
        assert len(traced) == programs
        look(weights, other)
        activations.grams(counted, paths, layers_per_call=size)(weights, other)
        assert len(traced) == programs  # no recompilation
    for path, g in jax.jit(lambda look, *args: look(*args))(look, weights, x).items():
        np.testing.assert_allclose(g, wanted[path], rtol=1e-5, atol=1e-4)


def test_programs_return_gram_matrices_only_and_do_not_run_later_layers():
    x, t, context = batch()
    look = activations.grams(call, ["conv_in/kernel"])
    program = jax.jit(look).lower(params(), x, t, context)
    (out,) = jax.tree.leaves(program.out_info)
    assert out.shape == (18, 18)
    whole = jax.jit(call).lower(params(), x, t, context).compile()
    assert program.compile().cost_analysis()["flops"] < whole.cost_analysis()["flops"] / 10


def test_batches_are_summed_one_by_one():
    parts, running = [batch() for _ in range(3)], [0]

    def batches():
        for part in parts:
            running[0] += 1
            yield part

    look = activations.grams(call, ["conv_in/kernel", "mid_block/resnets_1/conv1/kernel"])
    begun = []

    def one(part):
        begun.append(running[0])
        return look(params(), *part)

    total = activations.sum_over_batches(one, batches())
    assert begun == [1, 2, 3]
    whole = look(params(), *(np.concatenate(leaves) for leaves in zip(*parts)))
    for path, g in total.items():
        assert isinstance(g, np.ndarray) and g.dtype == np.float32
        np.testing.assert_allclose(g, whole[path], rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="`batches` is empty"):
        activations.sum_over_batches(one, [])


def test_many_batches_lose_no_digits():
    """The sum of 4,000 times 0.1 would be 400.0152 in float32."""
    once = {"kernel": np.full((1, 1), 0.1, np.float32)}
    total = activations.sum_over_batches(lambda _: once, range(4000))["kernel"]
    np.testing.assert_allclose(total, 400, rtol=1e-7)


def test_inputs_are_rounded_to_the_layer_s_dtype():
    layer, x = Dense(3, dtype=jnp.bfloat16), normal(4, 6)
    weights = {"kernel": normal(6, 3), "bias": np.zeros(3, np.float32)}
    seen = activations.grams(lambda weights, x: layer.apply({"params": weights}, x), ["kernel"])(weights, x)
    rounded = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)
    np.testing.assert_allclose(seen["kernel"], rounded.T @ rounded, rtol=1e-6)


def test_paths_and_numbers_that_are_refused():
    x, t, context = batch()
    with pytest.raises(ValueError, match="no layer that runs has the kernel unet/conv_in/kernel"):
        activations.grams(call, ["conv_in/kernel", "unet/conv_in/kernel"])(params(), x, t, context)
    with pytest.raises(ValueError, match="`layers_per_call`=0: both must be at least 1"):
        activations.grams(call, ["conv_in/kernel"], layers_per_call=0)
    with pytest.raises(ValueError, match="`paths` has 0 paths"):
        activations.grams(call, [])


@pytest.mark.parametrize("under_jit", [False, True])
def test_recomputed_blocks_are_refused_and_those_outside_of_them_are_not(under_jit):
    x, t, context = batch()
    recomputed = functools.partial(call, config=dataclasses.replace(CONFIG, remat=True))
    within = activations.grams(recomputed, ["mid_block/resnets_0/conv1/kernel"])
    with pytest.raises(ValueError, match="remat=False") as error:
        (jax.jit(within) if under_jit else within)(params(), x, t, context)
    assert "\n" not in str(error.value)
    outside = "up_blocks_0/upsamplers_0/conv/kernel"
    seen = activations.grams(recomputed, [outside])(params(), x, t, context)[outside]
    wanted = activations.grams(call, [outside])(params(), x, t, context)[outside]
    np.testing.assert_allclose(seen, wanted, rtol=1e-4, atol=1e-3)


TRANSFORMED = {
    "jit": lambda run, x: jax.jit(run)(x),
    "vmap": lambda run, x: jax.vmap(run)(x[None]),
    "scan": lambda run, x: jax.lax.scan(lambda y, _: (y + run(y), None), x, None, length=2)[0],
    "grad": lambda run, x: jax.grad(lambda y: run(y).sum())(x),
}


@pytest.mark.parametrize("under_jit", [False, True])
@pytest.mark.parametrize("transformed", TRANSFORMED.values(), ids=TRANSFORMED)
def test_layers_inside_of_a_transformation_are_refused(transformed, under_jit):
    layer, x = Dense(6), normal(4, 6)
    weights = {"kernel": normal(6, 6), "bias": np.zeros(6, np.float32)}
    run = lambda weights, x: transformed(lambda x: layer.apply({"params": weights}, x), x)
    look = activations.grams(run, ["kernel"])
    with pytest.raises(ValueError, match="inside another transformation"):
        (jax.jit(look) if under_jit else look)(weights, x)
    around = jax.vmap(activations.grams(lambda weights, x: layer.apply({"params": weights}, x), ["kernel"]), (None, 0))
    np.testing.assert_allclose(around(weights, x[None])["kernel"][0], x.T @ x, rtol=1e-4, atol=1e-4)
