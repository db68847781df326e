"""Modules as functions of levels, and their outputs as predictions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdiff import denoise, schedules
from jaxdiff.process import KINDS
from jaxdiff.types import Aux, Cond

SCHEDULE = schedules.linear(100)
ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 100))])
PURE_NOISE = schedules.from_betas([0.1, 0.3, 0.6, 1.0])


class Clock(nn.Module):
    """A network whose output is its time plus its condition."""

    factor: float = 1.0

    @nn.compact
    def __call__(self, x, t, cond=None, keys=None):
        shift = self.param("shift", nn.initializers.constant(0.25), ())
        output = self.factor * t + shift
        if cond is not None:
            output = output + cond.label
        if keys is not None:
            output = output + jax.vmap(lambda key: jax.random.uniform(key, minval=1000.0, maxval=2000.0))(keys)
        return jnp.broadcast_to(output[:, None], x.shape)


PARAMS = {"shift": jnp.float32(0.25)}


@pytest.mark.parametrize(
    "t, times", [(1, [0, 0, 0]), (100, [99, 99, 99]), ([1, 50, 100], [0, 49, 99]), (7.5, [6.5] * 3)], ids=str
)
def test_networks_are_conditioned_on_the_level_less_one(t, times):
    output, aux = denoise.network(Clock())(PARAMS, jnp.zeros([3, 2]), jnp.asarray(t))
    chex.assert_trees_all_equal(output, jnp.array(times)[:, None] + jnp.full([3, 2], 0.25))
    assert aux == Aux()


def test_condition_and_keys_reach_the_module():
    apply, x = denoise.network(Clock()), jnp.zeros([3, 2])
    output, _ = apply(PARAMS, x, 1, Cond(label=jnp.array([10, 20, 30])))
    chex.assert_trees_all_equal(output[:, 0], jnp.array([10.25, 20.25, 30.25]))
    keys = jax.random.split(jax.random.key(0), 3)
    dropped = apply(PARAMS, x, 1, keys=keys)[0][:, 0]
    assert np.all(dropped > 1000) and len(np.unique(dropped)) == 3


def test_equal_modules_give_the_same_function():
    assert denoise.network(Clock(2.0)) is denoise.network(Clock(2.0))
    assert denoise.network(Clock(2.0)) is not denoise.network(Clock(3.0))


def linear_network(channels):
    """A network with output [B, channels] that depends on x_t, the level and the parameters."""

    def apply(params, x_t, t, cond=None, keys=None):
        return jnp.sin(x_t @ params["w"][:, :channels] + jnp.asarray(t).reshape(-1, 1) / 50), Aux(maps=x_t + 1)

    return apply


W = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((3, 6)), jnp.float32)}
X = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3)), jnp.float32)


@pytest.mark.parametrize("t", [1, 42, 100, [1, 2, 50, 100]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_always_adds_up_to_x_t(kind, t):
    apply = linear_network(3)
    prediction = denoise.denoiser(apply, W, SCHEDULE, kind)(X, jnp.asarray(t), None)
    chex.assert_shape([prediction.x0, prediction.eps], X.shape)
    alpha, sigma = (np.broadcast_to(f(ABAR[t]) ** 0.5, 4)[:, None] for f in (lambda a: a, lambda a: 1 - a))
    np.testing.assert_allclose(alpha * prediction.x0 + sigma * prediction.eps, X, atol=1e-5)
    output = np.asarray(apply(W, X, jnp.asarray(t))[0])
    expected = {
        "eps": prediction.eps,
        "x0": prediction.x0,
        "v": alpha * prediction.eps - sigma * prediction.x0,
        "score": -prediction.eps / sigma,
        "flow": prediction.eps - prediction.x0,
    }
    np.testing.assert_allclose(expected[kind], output, atol=1e-5)


def test_a_scalar_level_is_the_level_of_all_examples():
    denoiser = denoise.denoiser(linear_network(3), W, SCHEDULE)
    chex.assert_trees_all_close(denoiser(X, 7, None), denoiser(X, jnp.full([4], 7), None), rtol=1e-6)


def test_the_second_half_of_2c_channels_is_the_variance():
    apply = linear_network(6)
    prediction = denoise.denoiser(apply, W, SCHEDULE)(X, 9, None)
    output, _ = apply(W, X, 9)
    chex.assert_trees_all_equal((prediction.eps, prediction.aux.variance), (output[:, :3], output[:, 3:]))
    chex.assert_trees_all_equal(prediction.aux.maps, X + 1)  # further outputs are passed on
    assert denoise.denoiser(linear_network(3), W, SCHEDULE)(X, 9, None).aux.variance is None


def test_a_denoiser_is_a_pytree_of_its_parameters():
    denoiser = denoise.denoiser(linear_network(3), W, SCHEDULE, "v")
    assert any(leaf is W["w"] for leaf in jax.tree.leaves(denoiser))
    again = denoise.denoiser(denoise.network(Clock()), PARAMS, SCHEDULE)
    assert jax.tree.structure(again) == jax.tree.structure(denoise.denoiser(denoise.network(Clock()), PARAMS, SCHEDULE))
    jitted = jax.jit(lambda denoiser, x: denoiser(x, 9, None))(denoiser, X)
    chex.assert_trees_all_close(jitted[:2], denoiser(X, 9, None)[:2], rtol=1e-5)


def test_it_can_be_differentiated_in_its_parameters():
    """eps = shift + time with x0 = (x - sigma eps) / alpha: the derivative of x0 in the shift is -sigma / alpha."""
    x0 = lambda params: denoise.denoiser(denoise.network(Clock()), params, SCHEDULE)(X, 60, None).x0.mean()
    np.testing.assert_allclose(jax.grad(x0)(PARAMS)["shift"], -(((1 - ABAR[60]) / ABAR[60]) ** 0.5), rtol=1e-5)


@pytest.mark.parametrize("kind", ["eps", "score"])
def test_eps_cannot_start_from_pure_noise(kind):
    with pytest.raises(
        ValueError, match=f"`predict`='{kind}' cannot start from zero signal-to-noise: use 'v', 'flow' or 'x0'"
    ):
        denoise.denoiser(linear_network(3), W, PURE_NOISE, kind)


@pytest.mark.parametrize("kind", ["v", "x0", "flow"])
def test_others_can_start_from_pure_noise(kind):
    prediction = denoise.denoiser(linear_network(3), W, PURE_NOISE, kind)(X, 4, None)
    chex.assert_trees_all_close(prediction.eps, X, atol=1e-6)  # x_t is pure noise
    chex.assert_tree_all_finite(prediction.x0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"unknown kind of prediction 'velocity' \(one of"):
        denoise.denoiser(linear_network(3), W, SCHEDULE, "velocity")
