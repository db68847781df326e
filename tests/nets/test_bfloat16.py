"""A network that computes in bfloat16: what stays in float32, and how near to float32 the rest comes."""

import dataclasses
import re

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

SHAPE = {"out_channels": 2, "channels": (8, 16), "blocks": 1, "attention": (1,), "groups": 4, "num_classes": 3}
MODES = {
    "add": {"time_mode": "add", "context_mode": "add"},
    "multiply": {"time_mode": "scale_shift", "context_mode": "multiply", "attention_kernel": "xla"},
}


def network(mode, dtype):
    return UNet(UNetConfig(**SHAPE, **MODES[mode], dtype=dtype))


def problem(size=32, examples=16):
    """Parameters with nothing at zero, and loss(net) of them: enough pixels for sums that bfloat16 could not do."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((examples, size, size, 2)).astype(np.float32)
    t, cond = rng.integers(0, 1000, examples), Cond(label=rng.integers(0, 3, examples))
    target = rng.standard_normal(x.shape).astype(np.float32)

    def loss(net):
        def of(params):
            y = net.apply(params, x, t, cond)
            return ((y - target) ** 2).mean(), y

        return jax.jit(jax.value_and_grad(of, has_aux=True))

    params = jax.jit(network("add", "float32").init)(jax.random.key(0), x, t, cond)
    return params, loss, rng


def shaken(params, rng):
    return jax.tree.map(lambda p: p + 0.05 * rng.standard_normal(p.shape).astype(np.float32), params)


def distance(got, wanted):
    return float(jnp.linalg.norm(got - wanted) / jnp.linalg.norm(wanted))


@pytest.mark.parametrize("mode", MODES)
def test_output_and_gradients_are_near_those_of_float32(mode):
    _, loss, rng = problem()
    net = network(mode, "float32")
    params = jax.jit(net.init)(jax.random.key(0), np.zeros((1, 32, 32, 2)), np.zeros(1), Cond(label=np.zeros(1, int)))
    params = shaken(params, rng)
    (_, wanted), wanted_grads = loss(net)(params)
    (_, y), grads = loss(network(mode, "bfloat16"))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads, y))} == {jnp.dtype("float32")}
    assert 0 < distance(y, wanted) < 0.02
    wanted_grads = traverse_util.flatten_dict(wanted_grads)
    for path, g in traverse_util.flatten_dict(grads).items():
        if path[-2:] != ("to_k", "bias"):  # whose gradient is zero: softmax does not see a shift of all keys
            assert distance(g, wanted_grads[path]) < 0.04, path
