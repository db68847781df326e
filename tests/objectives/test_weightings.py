"""Weights of levels, against float64 formulas and the losses that they define."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import objectives, process, schedules
from jaxdiff.objectives.weightings import WEIGHTINGS
from jaxdiff.types import Prediction

SCHEDULE = schedules.linear(100)
T = np.arange(1, 101)
ALPHA, SIGMA = (np.asarray(table, np.float64) for table in (SCHEDULE.alpha, SCHEDULE.sigma))
SNR = np.append(np.inf, (ALPHA[1:] / SIGMA[1:]) ** 2)
PER_ERROR_OF_X0 = {
    "x0": np.ones(100),
    "eps": ALPHA[1:] / SIGMA[1:],
    "v": 1 / SIGMA[1:],
    "score": ALPHA[1:] / SIGMA[1:] ** 2,
    "flow": (ALPHA[1:] + SIGMA[1:]) / SIGMA[1:],
}


def paper(name):
    """The weight of the x0 error by the papers' formulas, float64."""
    snr, before = SNR[1:], SNR[:-1]
    bound = np.append(100 / (2 * SIGMA[1] ** 2), 100 / 2 * (before[1:] - snr[1:]))
    return {
        "min_snr": np.minimum(snr, 5.0),
        "p2": snr / (1 + snr),
        "bound": bound,
        "edm": (1 / snr + 0.5**2) / (0.5**2 / snr),  # (s^2 + d^2) / (s d)^2
        "sigmoid": bound / (1 + np.exp(np.log(snr) - 2.0)),
    }[name]


@pytest.mark.parametrize("predict", process.KINDS)
@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if name != "simple"])
def test_a_weighting_weighs_the_same_error_alike_for_every_kind(name, predict):
    """A small error d in x0 is one of d alpha / sigma in eps, d / sigma in v, d alpha / sigma^2 in the score."""
    found = np.asarray(WEIGHTINGS.choice(name)(SCHEDULE, jnp.asarray(T), predict), np.float64)
    # snr_{t-1} - snr_t of float32 tables is known to a few 1e-5 of itself where levels are close.
    np.testing.assert_allclose(found * np.square(PER_ERROR_OF_X0[predict]), paper(name), rtol=2e-4)


def test_simple_is_one_for_every_kind():
    for predict in process.KINDS:
        chex.assert_trees_all_equal(objectives.simple(SCHEDULE, jnp.asarray(T), predict), jnp.ones(100))


def test_the_bound_is_the_divergence_of_a_step():
    """W d^2 / T is KL(q(x_s | x_t, x_0) || p(x_s | x_t)) where x0 is wrong by d, and d^2 / (2 sigma_1^2) at level 1."""
    d, weights = 0.3, np.asarray(objectives.bound(SCHEDULE, jnp.asarray(T), "x0"))
    x0, x_t = 0.5, 0.7
    for t in (2, 17, 100):
        eps = (x_t - ALPHA[t] * (x0 + d)) / SIGMA[t]
        model = process.p_posterior(SCHEDULE, Prediction(x0 + d, eps), x_t, t, t - 1)
        truth = process.q_posterior(SCHEDULE, x0, x_t, t, t - 1)
        divergence = (model.mean - truth.mean) ** 2 / (2 * truth.std**2)
        np.testing.assert_allclose(weights[t - 1] * d**2 / 100, divergence, rtol=2e-3)  # a difference of two means
    np.testing.assert_allclose(weights[0] * d**2 / 100, d**2 / (2 * SIGMA[1] ** 2), rtol=1e-5)


@pytest.mark.parametrize("name", ["bound", "sigmoid"])
def test_weightings_of_the_bound_do_not_depend_on_the_schedule(name):
    """The mean over levels of W e(log snr) is an integral over log snr; here of an error that is not zero from -4 to 4."""

    def integral(schedule):
        t = jnp.arange(1, schedule.num_levels + 1)
        log_snr = np.asarray(schedule(t).log_snr, np.float64)
        error = np.exp(-log_snr) * np.clip(np.cos(np.pi / 8 * log_snr), 0, None) * (np.abs(log_snr) < 4)
        return np.mean(np.asarray(WEIGHTINGS.choice(name)(schedule, t, "x0"), np.float64) * error)

    u = np.linspace(-4, 4, 10001)
    w = 1.0 if name == "bound" else 1 / (1 + np.exp(u - 2.0))
    exact = 0.5 * np.trapezoid(w * np.cos(np.pi / 8 * u), u)  # snr exp(-log snr) = 1
    for schedule in (schedules.cosine(4000), schedules.linear(4000, 2.5e-5, 0.005)):
        assert integral(schedule) == pytest.approx(exact, rel=0.005)


@pytest.mark.parametrize("predict", ["v", "x0"])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_are_finite_at_zero_signal_to_noise(name, predict):
    schedule = schedules.zero_terminal_snr(SCHEDULE)
    weights = WEIGHTINGS.choice(name)(schedule, jnp.asarray(T), predict)
    assert np.all(np.isfinite(weights)) and np.all(np.asarray(weights) >= 0)


def test_an_unknown_kind_is_refused():
    for name in set(WEIGHTINGS) - {"simple"}:
        with pytest.raises(ValueError, match="unknown kind of prediction 'noise'"):
            WEIGHTINGS.choice(name)(SCHEDULE, 1, "noise")
