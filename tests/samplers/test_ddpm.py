"""Ancestral sampling: its errors, and the noise of each variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import samplers, schedules
from jaxdiff.timesteps import grid
from jaxdiff.types import Aux, Prediction

LINEAR = schedules.linear(100)
ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 100))])
KEY = jax.random.key(0)


def predict_zero(raw, x_t, t, cond=None):
    """Predicts zeros, so that a step is its noise; `raw` is the network's output for the variance."""
    zero = jnp.zeros_like(x_t)
    return Prediction(zero, zero, Aux(variance=None if raw is None else jnp.full_like(x_t, raw)))


def run(sampler, levels, raw=None, key=KEY):
    return samplers.sample(key, sampler, Partial(predict_zero, raw), LINEAR, levels, jnp.zeros([64, 64]))[0]


@pytest.mark.parametrize("t, s", [(80, 79), (80, 40)])
@pytest.mark.parametrize("variance, raw", [("posterior", None), ("beta", None), ("learned", -1.0), ("learned", 0.5)])
def test_each_variance_adds_its_noise(variance, raw, t, s):
    x = run(samplers.ddpm(variance), np.array([t, s]), raw)
    large = 1 - ABAR[t] / ABAR[s]
    small = large * (1 - ABAR[s]) / (1 - ABAR[t])
    share = {"posterior": 0.0, "beta": 1.0, "learned": ((raw or 0) + 1) / 2}[variance]
    want = large**share * small ** (1 - share)
    z = np.asarray(x) / want**0.5
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    # The same key gives the same z for all variances, so that stds can be compared exactly.
    same = run(samplers.ddpm(), np.array([t, s])) / small**0.5
    np.testing.assert_allclose(z, same, rtol=1e-4)


@pytest.mark.parametrize("variance, raw", [("posterior", None), ("beta", None), ("learned", 0.5)])
def test_no_noise_is_added_into_clean_data(variance, raw):
    assert np.all(run(samplers.ddpm(variance), grid(100, 3), raw) == 0)


def test_fixed_small_is_ddim_at_eta_1():
    levels = grid(100, 4, "trailing", end=1)
    np.testing.assert_array_equal(run(samplers.ddpm(), levels), run(samplers.ddim(1.0), levels))


def test_a_key_is_needed():
    with pytest.raises(ValueError, match="give sample\\(\\) a random key"):
        run(samplers.ddpm(), grid(100, 3), key=None)


def test_unknown_variances_are_refused_before_sampling():
    with pytest.raises(ValueError, match=r"unknown variance 'fixed_large' \(one of"):
        samplers.ddpm("fixed_large")


def test_learned_variance_needs_a_network_that_predicts_one():
    with pytest.raises(ValueError, match="2C output channels"):
        run(samplers.ddpm("learned"), grid(100, 3))
