"""Samplers on data for which the perfect denoiser is known: a Gaussian and a single point.

On a Gaussian N(m, c^2) the perfect denoiser is affine, so every step is, and the mean and variance of what comes out follow
a recursion of two numbers. It is computed here in float64; its distance from m and c^2 is the sampler's bias, not a bug.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import process, samplers, schedules
from jaxdiff.timesteps import grid
from jaxdiff.types import Prediction

SCHEDULE = schedules.linear(1000)
ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
MEAN, STD = 0.7, 0.5


def gaussian(schedule, mean, std, x_t, t, cond=None):
    """E[x_0 | x_t] and E[eps | x_t] where the data is N(mean, std^2)."""
    alpha, sigma = schedule(t)
    z = (x_t - alpha * mean) / (alpha**2 * std**2 + sigma**2)
    return Prediction(mean + alpha * std**2 * z, sigma * z)


PERFECT = Partial(gaussian, SCHEDULE, jnp.float32(MEAN), jnp.float32(STD))


def recursion(levels, mean, var, eta=1.0, variance="posterior"):
    """Mean and variance of x at the last level, from those at the first."""
    for a, b in zip(ABAR[levels[:-1]], ABAR[levels[1:]]):
        beta = 1 - a / b
        small = eta**2 * beta * (1 - b) / (1 - a)
        direction = np.sqrt(1 - b - small)
        slope = (np.sqrt(a * b) * STD**2 + direction * np.sqrt(1 - a)) / (a * STD**2 + 1 - a)
        mean = np.sqrt(b) * MEAN + slope * (mean - np.sqrt(a) * MEAN)
        var = slope**2 * var + (beta * (b < 1) if variance == "beta" else small)
    return mean, var


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("spacing, N", [("trailing", 10), ("leading", 7), ("linspace", 10), ("quadratic", 10)])
def test_ddim_on_a_gaussian_is_its_affine_recursion_image_by_image(spacing, N, end):
    levels = grid(1000, N, spacing, offset=1 if spacing == "leading" else 0)
    levels[-1] = end if levels[-2] > 1 else 0
    x_T = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
    x, _ = samplers.sample(None, samplers.ddim(), PERFECT, SCHEDULE, levels, x_T)
    want, _ = recursion(levels, x_T.astype(np.float64), 0.0, eta=0.0)
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "sampler, options",
    [
        (samplers.ddim(0.5), {"eta": 0.5}),
        (samplers.ddim(1.0), {"eta": 1.0}),
        (samplers.ddpm(), {}),
        (samplers.ddpm("beta"), {"variance": "beta"}),
    ],
    ids=["eta 0.5", "eta 1", "fixed-small", "fixed-large"],
)
@pytest.mark.parametrize("end", [0, 1])
def test_random_samplers_on_a_gaussian_have_its_mean_and_variance(sampler, options, end):
    levels = grid(1000, 8, "trailing", end=end)
    keys = samplers.keys_for(jax.random.key(3), 20000)
    x_T = samplers.noise(keys, (2,))
    x, _ = samplers.sample(keys, sampler, PERFECT, SCHEDULE, levels, x_T)
    mean, var = recursion(levels, 0.0, 1.0, **options)
    n = x.size
    assert abs(float(x.mean()) - mean) < 4 * np.sqrt(var / n)
    assert abs(float(x.var()) / var - 1) < 4 * np.sqrt(2 / n)
    assert abs(np.corrcoef(np.asarray(x).T)[0, 1]) < 4 / np.sqrt(len(x))


def test_the_expected_variances_differ_so_that_these_tests_can_fail():
    levels = grid(1000, 8, "trailing")
    small, half, none = (recursion(levels, 0.0, 1.0, eta)[1] for eta in (1.0, 0.5, 0.0))
    large = recursion(levels, 0.0, 1.0, variance="beta")[1]
    tolerance = 4 * np.sqrt(2 / 40000)
    assert all(abs(a / b - 1) > tolerance for a, b in [(small, half), (half, none), (small, large)])


def test_ddim_is_of_first_order():
    """Twice the steps, half the distance from the exact flow, which takes the marginal's std at T to the data's."""
    x_T = jnp.full([1, 1], np.sqrt(ABAR[-1]) * MEAN + np.sqrt(ABAR[-1] * STD**2 + 1 - ABAR[-1]))
    errors = []
    for N in (25, 50, 100, 200):
        x, _ = samplers.sample(None, samplers.ddim(), PERFECT, SCHEDULE, grid(1000, N), x_T)
        errors.append(abs(float(x[0, 0]) - (MEAN + STD)))
    assert np.all(np.abs(np.log2(np.divide(errors[:-1], errors[1:])) - 1) < 0.2)


def point(schedule, where, x_t, t, cond=None):
    """The perfect denoiser of data that is always `where`, read from the score of N(alpha where, sigma^2)."""
    alpha, sigma = schedule(t)
    return process.predict_from("score", schedule, -(x_t - alpha * where) / sigma**2, x_t, t)


@pytest.mark.parametrize(
    "sampler",
    [samplers.ddim(), samplers.ddim(0.5), samplers.ddim(1.0), samplers.ddpm(), samplers.ddpm("beta")],
    ids=["eta 0", "eta 0.5", "eta 1", "fixed-small", "fixed-large"],
)
@pytest.mark.parametrize("spacing, N", [("trailing", 1), ("leading", 5), ("linspace", 5), ("quadratic", 5)])
def test_a_single_point_is_found_on_any_grid(sampler, spacing, N):
    where = jnp.array([[0.3, -0.8, 1.0]])
    key = jax.random.key(1)
    x_T = samplers.noise(samplers.keys_for(key, 5), (3,))
    schedule = schedules.linear(100)
    levels = grid(100, N, spacing)
    x, _ = samplers.sample(key, sampler, Partial(point, schedule, where), schedule, levels, x_T)
    np.testing.assert_allclose(x, np.repeat(where, 5, 0), atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_point_seen_from_level_1_has_its_marginal(eta):
    """With a perfect denoiser of a point every level's marginal is exact, whatever eta: N(alpha where, sigma^2)."""
    keys = samplers.keys_for(jax.random.key(2), 20000)
    levels = grid(1000, 5, "trailing", end=100)
    x_T = np.sqrt(ABAR[-1]) * 0.6 + np.sqrt(1 - ABAR[-1]) * samplers.noise(keys, (2,))
    denoise = Partial(point, SCHEDULE, jnp.float32(0.6))
    x, _ = samplers.sample(keys, samplers.ddim(eta), denoise, SCHEDULE, levels, x_T)
    var = 1 - ABAR[100]
    assert abs(float(x.mean()) - np.sqrt(ABAR[100]) * 0.6) < 4 * np.sqrt(var / x.size)
    assert abs(float(x.var()) / var - 1) < 4 * np.sqrt(2 / x.size)
