"""A network that computes in bfloat16: what stays in float32, and how near to float32 the rest comes."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from helpers import TINY, batch, tiny_training

from jaxdiff.nets.unet import UNet, UNetConfig
from jaxdiff.train import optim
from jaxdiff.train.state import init
from jaxdiff.types import Cond

# Enough pixels for sums that would stand still in bfloat16.
B, SIZE = 16, 32
SHAPE = {"out_channels": 2, "channels": (4, 8), "blocks": 1, "attention": (1,), "groups": 2, "num_classes": 3}
MODES = {
    "add": {},
    "multiply": {"time_mode": "scale_shift", "context_mode": "multiply", "patch": 2},
}


def problem(mode, dtype):
    """params -> ((loss, output), gradient) of a network, and parameters of which none is zero."""
    rng = np.random.default_rng(0)
    net = UNet(UNetConfig(**SHAPE, **MODES[mode], dtype=dtype))
    x, target = rng.standard_normal((2, B, SIZE, SIZE, 2)).astype(np.float32)
    t, cond = rng.integers(0, 1000, B), Cond(label=rng.integers(0, 3, B))

    def loss(params):
        y = net.apply(params, x, t, cond)
        return ((y - target) ** 2).mean(), y

    shapes = jax.eval_shape(net.init, jax.random.key(0), x, t, cond)
    params = jax.tree.map(lambda s: 0.3 * rng.standard_normal(s.shape).astype(np.float32), shapes)
    return jax.jit(jax.value_and_grad(loss, has_aux=True)), params


def distance(got, wanted):
    return float(jnp.linalg.norm(got - wanted) / jnp.linalg.norm(wanted))


@pytest.mark.parametrize("mode", MODES)
def test_output_and_gradients_are_float32_and_near_those_of_float32(mode):
    (run, params), (plain, _) = problem(mode, "bfloat16"), problem(mode, "float32")
    ((_, y), grads), ((_, wanted), wanted_grads) = run(params), plain(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((y, grads))} == {jnp.dtype("float32")}
    assert 0 < distance(y, wanted) < 0.02
    wanted_grads = traverse_util.flatten_dict(wanted_grads)
    for path, g in traverse_util.flatten_dict(grads).items():
        if path[-2:] != ("to_k", "bias"):  # whose gradient is zero: softmax does not see a shift of all keys
            # 8 bits are 0.4% a rounding, and the way to these is some forty roundings long; 0.03 is the largest seen
            assert distance(g, wanted_grads[path]) < 0.05, path


@pytest.mark.parametrize("mode", MODES)
def test_convolutions_and_matrix_products_are_in_bfloat16_and_sums_in_float32(mode):
    """Forward and backward, all of them: norms, softmax and the waves of the time embedding need no product."""
    run, params = problem(mode, "bfloat16")
    traced = run.trace(params)
    for platform in ("cpu", "tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        operands = re.findall(r"stablehlo\.(convolution|dot_general)\(?[ %].* : \((.*)\) ->", text)
        assert len(operands) == len(re.findall(r"stablehlo\.(?:convolution|dot_general)", text)) > 100
        assert {kind for kind, _ in operands} == {"convolution", "dot_general"}
        assert [types for _, types in operands if types.count("xbf16>") != 2] == []
        sums = re.findall(r"stablehlo\.reduce\(.* : \(tensor<([\dx]+)xbf16>, .* -> tensor<([\dx]+)xbf16>", text)
        size = lambda shape: np.prod([int(n) for n in shape.split("x")])
        assert [pair for pair in sums if size(pair[0]) != size(pair[1])] == []  # only axes of length one go


def test_training_keeps_float32_and_lowers_the_loss():
    config = dataclasses.replace(TINY, dtype="bfloat16", attention=(0,))
    optimizer = optim.optimizer(3e-3, steps=60, warmup=5, moment_dtype="bfloat16")
    params, step = tiny_training(optimizer, config)
    state, run, losses = init(params, optimizer), jax.jit(chex.assert_max_traces(step, n=1)), []
    for i in range(60):
        state, metrics = run(state, jax.random.key(i), batch(16))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    chex.assert_trees_all_equal_dtypes(state.params, state.ema, jax.tree.map(jnp.float32, params))
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves((state, metrics))}
    assert dtypes == {"float32", "int32", "bfloat16"}
    low = [p for p, x in jax.tree_util.tree_leaves_with_path(state) if x.dtype == jnp.bfloat16]
    assert all(jax.tree_util.GetAttrKey("mu") in path for path in low)  # only the first moment, which was asked for
