"""Thresholds of predicted images."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import guidance, samplers, schedules, timesteps
from jaxdiff.types import Prediction

SCHEDULE = schedules.linear(100)


def gaussian(x_t, t, cond):
    """Exact where the data is N(0, I)."""
    alpha, sigma = (jnp.broadcast_to(s, x_t.shape[:1])[:, None] for s in SCHEDULE(t))
    return Prediction(alpha * x_t, sigma * x_t)


@pytest.mark.parametrize("t", [1, 50, 100, np.array([3, 99, 20, 1])], ids=["1", "50", "100", "rows"])
def test_clipped_predictions_add_up_to_x_t(t):
    x_t = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32) * 3
    plain, clipped = gaussian(x_t, t, None), guidance.clip_x0(gaussian, SCHEDULE, -0.5, 0.25)(x_t, t, None)
    alpha, sigma = (
        np.broadcast_to(np.asarray(table, np.float64)[t], 4)[:, None] for table in (SCHEDULE.alpha, SCHEDULE.sigma)
    )
    chex.assert_trees_all_close(clipped.x0, np.clip(plain.x0, -0.5, 0.25))
    assert not np.array_equal(clipped.x0, plain.x0)
    np.testing.assert_allclose(alpha * clipped.x0 + sigma * clipped.eps, x_t, rtol=1e-5, atol=1e-5)


def test_predictions_in_range_are_unchanged():
    x_t = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)
    chex.assert_trees_all_equal(guidance.clip_x0(gaussian, SCHEDULE, -100, 100)(x_t, 50, None), gaussian(x_t, 50, None))


def test_other_bounds_do_not_recompile_and_bound_the_samples():
    traced = chex.assert_max_traces(gaussian, n=1)
    levels, x_T = timesteps.grid(100, 10), samplers.noise(samplers.keys_for(jax.random.key(0), 8), (5,))
    for hi in (0.25, 0.5):
        denoise = guidance.clip_x0(traced, SCHEDULE, -0.5, hi)
        x_0, _ = samplers.sample(None, samplers.ddim(), denoise, SCHEDULE, levels, x_T)
        assert float(x_0.max()) == hi and float(x_0.min()) == -0.5  # the last step ends at x0


def by_imagen(x0, percentile):
    """Saharia et al. 2022, appendix A.2, example by example."""
    c = [max(1.0, np.percentile(np.abs(x), percentile)) for x in x0]
    return np.stack([np.clip(x, -s, s) / s for x, s in zip(x0, c)])


@pytest.mark.parametrize("t", [1, 50, np.array([3, 99, 20, 1])], ids=["1", "50", "rows"])
@pytest.mark.parametrize("percentile", [80, 99.5, 100])
def test_dynamic_thresholding_is_the_formula_and_adds_up_to_x_t(t, percentile):
    x_t = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32) * np.array([[0.2], [1], [3], [9]], "f")
    plain, limited = gaussian(x_t, t, None), guidance.dynamic_threshold(gaussian, SCHEDULE, percentile)(x_t, t, None)
    expected = by_imagen(np.asarray(plain.x0, np.float64), percentile)
    np.testing.assert_allclose(limited.x0, expected, rtol=1e-5, atol=1e-6)
    alpha, sigma = (
        np.broadcast_to(np.asarray(table, np.float64)[t], 4)[:, None] for table in (SCHEDULE.alpha, SCHEDULE.sigma)
    )
    np.testing.assert_allclose(alpha * limited.x0 + sigma * limited.eps, x_t, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(limited.x0[0], plain.x0[0])  # within [-1, 1], and unchanged
    np.testing.assert_array_equal(limited.eps[0], plain.eps[0])


def test_another_percentile_does_not_recompile():
    traced = chex.assert_max_traces(gaussian, n=1)
    levels, x_T = timesteps.grid(100, 10), 4 * samplers.noise(samplers.keys_for(jax.random.key(0), 8), (5,))
    found = []
    for percentile in (50, 90.0):
        denoise = guidance.dynamic_threshold(traced, SCHEDULE, percentile)
        found.append(samplers.sample(None, samplers.ddim(), denoise, SCHEDULE, levels, x_T)[0])
    assert np.all(np.abs(found) <= 1) and np.all(np.isfinite(found)) and np.any(found[0] != found[1])


@pytest.mark.parametrize("percentile", [0.995, 0, 101, float("nan")])
def test_a_percentile_out_of_range_is_refused(percentile):
    with pytest.raises(ValueError, match=r"must lie in \(1, 100\]: Imagen's is 99.5"):
        guidance.dynamic_threshold(gaussian, SCHEDULE, percentile)
