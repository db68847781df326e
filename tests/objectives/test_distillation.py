"""Distillation: the distance of two networks' outputs against its closed form, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Cond, objectives, process, samplers, schedules
from jaxdiff.objectives.levels import clean, uniform
from jaxdiff.types import Aux

KEYS = samplers.keys_for(jax.random.key(0), 512)
IMAGES = jnp.linspace(-1, 1, 512)[:, None, None, None] * jnp.ones([1, 2, 2, 1])


def times(name):
    """A network that multiplies an image by a parameter, and by its label."""

    def apply(params, x_t, t, cond, keys=None):
        by = params[name] if cond is None else params[name] * cond.label[:, None, None, None]
        return by * x_t, Aux()

    return apply


def test_against_its_closed_form():
    """(a - b)^2 E x_t^2 with E x_t^2 = alpha_t^2 x_0^2 + sigma_t^2; the teacher has no gradient."""
    schedule, params = schedules.linear(), {"a": 0.7, "b": 0.2}
    loss_fn = objectives.distillation(times("a"), times("b"), schedule)
    mean = lambda params: loss_fn(params, (), KEYS, {"image": IMAGES})[0].mean()
    t = np.arange(1, schedule.num_levels + 1)
    power = np.mean([process.q_sample(schedule, jnp.ones(()), i, jnp.zeros(())) ** 2 for i in t[::50]])
    signal = float(jnp.square(IMAGES).mean())
    expected = power * signal + 1 - power
    np.testing.assert_allclose(mean(params), 0.25 * expected, rtol=0.03)
    gradient = jax.grad(mean)(params)
    np.testing.assert_allclose(gradient["a"], 2 * mean(params) / 0.5, rtol=1e-5)
    assert gradient["b"] == 0


def test_levels_and_conditions_are_those_of_denoising():
    """Clean images are not noised; a dropped condition is the null one for both networks."""
    params, batch = {"a": 2.0, "b": 1.0}, {"image": IMAGES, "cond": Cond(label=jnp.full(512, 3.0))}
    loss_fn = objectives.distillation(times("a"), times("b"), schedules.linear(), levels=clean())
    loss, (_, metrics) = loss_fn(params, (), KEYS, batch)
    np.testing.assert_allclose(loss, 9 * jnp.square(IMAGES[:, 0, 0, 0]), rtol=1e-5)
    np.testing.assert_array_equal(loss, metrics["loss"])
    dropping = objectives.distillation(times("a"), times("b"), schedules.linear(), Cond(label=0.0), 0.25, clean())
    dropped = np.asarray(dropping(params, (), KEYS, batch)[0] == 0)
    assert 0.15 < dropped.mean() < 0.35
    with pytest.raises(ValueError, match=r"`cond_dropout`=0\.1 needs `null_cond`"):
        objectives.distillation(times("a"), times("b"), schedules.linear(), cond_dropout=0.1, levels=uniform())
