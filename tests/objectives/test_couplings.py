"""Couplings of noise and images, against brute force and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Cond, objectives, schedules
from jaxdiff.types import Aux

FLOW = schedules.rectified_flow(1000)
VARIANCE = 0.25


@pytest.mark.parametrize("seed", range(5))
def test_transport_is_the_best_of_all_permutations(seed):
    x0, eps = jnp.asarray(np.random.default_rng(seed).normal(size=(2, 5, 2, 3)), jnp.float32)
    same, found = jax.jit(objectives.optimal_transport())((), x0, eps, None)
    np.testing.assert_array_equal(same, x0)
    cost = lambda order: float(jnp.square(x0 - eps[jnp.array(order)]).sum())
    best = min(itertools.permutations(range(5)), key=cost)
    np.testing.assert_array_equal(found, eps[jnp.array(best)])


def test_transport_in_one_dimension_sorts():
    x0, eps = jax.random.normal(jax.random.key(0), (2, 64, 1))
    _, found = objectives.optimal_transport()((), x0, eps, None)
    order = jnp.argsort(x0.ravel())
    np.testing.assert_array_equal(found.ravel()[order], jnp.sort(eps.ravel()))


def velocity(params, x, t, cond=None, keys=None, variance=VARIANCE):
    """Flow of data N(label, variance), without a label of N(params, variance); label 9 is the null label."""
    t = jnp.broadcast_to(t, len(x)).reshape(-1, 1)
    alpha, sigma = FLOW(t)
    mean = params if cond is None else jnp.where(cond.label == 9, 0.5, cond.label)[:, None]
    x0 = mean + variance * alpha / (variance * alpha**2 + sigma**2) * (x - alpha * mean)
    return (x - x0) / sigma, Aux()


EPS = jnp.linspace(-2.0, 2.0, 8)[:, None]


def test_reflow_pairs_noise_with_the_ends_of_the_teachers_paths():
    x0, eps = objectives.reflow(velocity, FLOW, steps=500)(1.0, jnp.full([8, 1], 7.0), EPS, None)
    np.testing.assert_array_equal(eps, EPS)
    np.testing.assert_allclose(x0, 1.0 + np.sqrt(VARIANCE) * EPS, atol=0.01)


def test_reflow_learns_the_guidance():
    """Of Gaussians of one variance it moves the mean: 0.5 + 3 (1 - 0.5)."""
    cond = Cond(label=jnp.ones(8))
    couple = objectives.reflow(velocity, FLOW, null_cond=Cond(label=9.0), scale=3.0, steps=500)
    np.testing.assert_allclose(couple(0.0, EPS, EPS, cond)[0], 2.0 + np.sqrt(VARIANCE) * EPS, atol=0.02)


def straight(params, x, t, cond=None, keys=None):
    """Velocity of the straight paths from eps to mean + std eps."""
    mean, std = params
    alpha, sigma = FLOW(jnp.broadcast_to(t, len(x)).reshape(-1, 1))
    eps = (x - alpha * mean) / (alpha * std + sigma)
    return eps - (mean + std * eps), Aux()


def loss_of(apply, coupling=None, data=0.0):
    batch = {"image": jnp.full([256, 1], data) + np.sqrt(VARIANCE) * jax.random.normal(jax.random.key(1), (256, 1))}
    loss_fn = objectives.denoising(apply, FLOW, "flow", coupling=coupling)
    return float(loss_fn((1.0, 0.5), (), jax.random.split(jax.random.key(0), 256), batch)[0].mean())


def test_straight_paths_have_no_loss_after_reflow():
    teacher = lambda params, *args, **options: velocity(1.0, *args, **options)
    assert loss_of(straight, objectives.reflow(teacher, FLOW, steps=200)) < 1e-3
    assert loss_of(straight, data=1.0) > 0.1


def test_a_teacher_has_no_gradient():
    """Its parameters stand beside those of the network."""
    teacher = lambda params, *args, **options: velocity(params["teacher"], *args, **options)
    learner = lambda params, *args, **options: straight((params["learner"], 0.5), *args, **options)
    loss_fn = objectives.denoising(learner, FLOW, "flow", coupling=objectives.reflow(teacher, FLOW, steps=3))
    keys, batch = jax.random.split(jax.random.key(0), 8), {"image": EPS}
    loss = lambda params: loss_fn(params, (), keys, batch)[0].mean()
    gradient = jax.grad(loss)({"learner": jnp.float32(0.3), "teacher": jnp.float32(1.0)})
    assert gradient["teacher"] == 0 and gradient["learner"] != 0


def test_transport_lowers_the_loss_of_a_flow():
    """In one dimension the pairs are nearly on straight lines, of which a velocity of x and t knows both ends."""
    assert loss_of(straight, objectives.optimal_transport(), data=1.0) < 0.2 * loss_of(straight, data=1.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "`steps`=0"),
        ({"steps": 2000}, "2000"),
        ({"scale": 2.0}, "`scale`=2.0"),
        ({"scale": np.nan}, "`scale`=nan"),
        ({"predict": "xs"}, "kind of prediction"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        objectives.reflow(**{"teacher": velocity, "schedule": FLOW} | options)
