"""Algebraic properties for all schedules, levels and values, by hypothesis."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiff import process, schedules, timesteps
from jaxdiff.types import Prediction

few = settings(max_examples=50, deadline=None, database=None, derandomize=True)  # the same at every run
T = 40  # one length, so that all schedules share a compilation
D = 3  # numbers in an example
LEVELS = np.arange(T + 1)
NAMED = {
    "linear": schedules.linear(T, 0.002, 0.4),
    "scaled_linear": schedules.scaled_linear(T, 0.01, 0.3),
    "cosine": schedules.cosine(T),
    "sigmoid": schedules.sigmoid(T),
    "zero_terminal": schedules.zero_terminal_snr(schedules.linear(T, 0.002, 0.4)),
    "shifted": schedules.shift(schedules.cosine(T), 4.0),
    "shifted zero_terminal": schedules.shift(schedules.zero_terminal_snr(schedules.cosine(T)), 0.25),
    "straight to noise": schedules.from_betas([1e-4] * (T - 1) + [1.0]),
}


PROCESSES = {
    "rectified flow": schedules.rectified_flow(T),
    "shifted flow": schedules.shift(schedules.rectified_flow(T), 3.0),
    "exploding": schedules.variance_exploding(T),
    "edm": schedules.edm(T),
}


@st.composite
def some_schedule(draw):
    """A named schedule, or one that falls by steps of 0.001 to 3 in log-SNR, with or without zero terminal SNR."""
    if draw(st.booleans()):
        return NAMED[draw(st.sampled_from(sorted(NAMED)))]
    falls = draw(st.lists(st.floats(0.001, draw(st.sampled_from([0.01, 0.5, 3.0]))), min_size=T, max_size=T))
    log_snr = draw(st.floats(-5, 12)) - np.cumsum(falls)
    log_snr = np.maximum(log_snr, -30 - LEVELS[1:] / T)
    log_snr[-1] = -np.inf if draw(st.booleans()) else log_snr[-1]
    return schedules.from_log_snr(log_snr)


@st.composite
def some_process(draw):
    """A schedule that preserves variance, or rectified flow, exploding variance or EDM's, or any rising sigma / alpha."""
    if draw(st.booleans()):
        return draw(some_schedule())
    if draw(st.booleans()):
        return PROCESSES[draw(st.sampled_from(sorted(PROCESSES)))]
    falls = np.cumsum(draw(st.lists(st.floats(0.0, 0.3), min_size=T, max_size=T)))
    ratio = np.cumsum(draw(st.lists(st.floats(0.01, 3.0), min_size=T, max_size=T)))
    return schedules.from_alpha_sigma(np.exp(-falls), ratio * np.exp(-falls))


@st.composite
def values(draw, count):
    """Normal numbers [count, D], at several scales."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    return (size * rng.standard_normal((count, D))).astype(np.float32)


def float64(*arrays):
    return [np.asarray(array, np.float64) for array in arrays]


def near(found, want, scale, tolerance):
    """|found - want| <= tolerance scale, and finite."""
    off = np.abs(np.subtract(*float64(found, want)))
    assert np.all(off <= tolerance * scale), f"off by {np.nanmax(off / scale)} of the scale"


# Kinds of predictions


@jax.jit
def all_conversions(schedule, output, x_t):
    """(source, via) -> prediction from an output of kind source, and after conversion via the other kind; at all levels."""

    def one(t):
        direct = {kind: process.predict_from(kind, schedule, output, x_t, t) for kind in process.KINDS}
        target = lambda via, p: process.target_for(via, schedule, p.x0, p.eps, t)
        converted = lambda via, p: process.predict_from(via, schedule, target(via, p), x_t, t)
        return {(a, b): (direct[a], converted(b, direct[a])) for a in process.KINDS for b in process.KINDS}

    return jax.vmap(one)(LEVELS)


def defined(kind, alpha, sigma):
    """Levels at which an output of this kind determines both x0 and eps."""
    return {"eps": alpha > 0, "x0": sigma > 0, "v": alpha >= 0, "score": (alpha > 0) & (sigma > 0)}.get(
        kind, alpha >= 0
    )


@few
@given(some_process(), values(2))
def test_conversions_are_inverse_to_one_another(schedule, numbers):
    """Up to a few roundings of the terms of x_t = alpha x0 + sigma eps."""
    output, x_t = numbers
    alpha, sigma = float64(schedule.alpha[:, None], schedule.sigma[:, None])
    for (a, b), (first, second) in all_conversions(schedule, output, x_t).items():
        here = (defined(a, alpha, sigma) & defined(b, alpha, sigma))[:, 0]
        assert here.sum() >= T - 1
        x0, eps, x0_again, eps_again = (x[here] for x in float64(*first[:2], *second[:2]))
        signal, noise = alpha[here] * x0, sigma[here] * eps
        scale = np.abs(signal) + np.abs(noise) + np.abs(x_t)
        near(signal + noise, np.broadcast_to(x_t, noise.shape), scale, 2e-6)
        near(alpha[here] * x0_again, signal, scale, 2e-6)
        near(sigma[here] * eps_again, noise, scale, 2e-6)


# Steps


@jax.jit
def ancestral_steps(schedule, x_t, eps, z):
    """x_{t-1} by p_step from an eps-prediction, for t = 1..T."""

    def one(t):
        prediction = process.predict_from("eps", schedule, eps, x_t, t)
        return process.p_step(schedule, prediction, x_t, t, t - 1, z, eta=1.0)

    return jax.vmap(one)(LEVELS[1:])


@few
@given(some_schedule(), values(3))
def test_a_step_to_the_next_level_is_ddpms_three_terms(schedule, numbers):
    """x_{t-1} = x_t / sqrt(1 - beta) - beta / (sqrt(1 - beta) sigma_t) eps + sqrt(beta) sigma_{t-1} / sigma_t z.

    Ho et al. 2020, algorithm 2, with the table of betas, which p_step does not use.
    """
    x_t, eps, z = float64(*numbers)
    alpha, sigma, betas = float64(*(table[:, None] for table in (schedule.alpha, schedule.sigma, schedule.betas)))
    here = alpha[1:, 0] > 0  # an eps-prediction does not determine x0 at pure noise
    with np.errstate(divide="ignore", invalid="ignore"):
        grow, beta = alpha[:-1] / alpha[1:], betas[1:]  # 1 / sqrt(1 - beta)
        std = np.sqrt(beta) * sigma[:-1] / sigma[1:]
        want = x_t * grow - beta / sigma[1:] * grow * eps + std * z
        scale = grow * (np.abs(x_t) + np.abs(eps)) + np.abs(z)
    near(ancestral_steps(schedule, *numbers)[here], want[here], scale[here], 1e-5)


@jax.jit
def both_ancestral_steps(schedule, x0, eps, z):
    """x_t; p_step with eta 1; and a draw from the posterior of the same x0, for t = 1..T."""

    def one(t):
        x_t = process.q_sample(schedule, x0, t, eps)
        mean, std = process.q_posterior(schedule, x0, x_t, t, t - 1)
        return x_t, process.p_step(schedule, Prediction(x0, eps), x_t, t, t - 1, z, eta=1.0), mean + std * z

    return jax.vmap(one)(LEVELS[1:])


@few
@given(some_schedule(), values(3))
def test_eta_1_is_the_ancestral_step(schedule, numbers):
    """Ho et al. 2020, eqs. 6 and 7, from the tables in float64; pure noise included."""
    x0, _, z = float64(*numbers)
    x_t, by_eta, by_posterior = both_ancestral_steps(schedule, *numbers)
    x_t, alpha, sigma, betas = float64(
        x_t, *(table[:, None] for table in (schedule.alpha, schedule.sigma, schedule.betas))
    )
    beta, r = betas[1:], alpha[1:] / alpha[:-1]
    parts = alpha[:-1] * beta / sigma[1:] ** 2 * x0, r * (sigma[:-1] / sigma[1:]) ** 2 * x_t
    noise = np.sqrt(beta) * sigma[:-1] / sigma[1:] * z
    scale = np.abs(x0) + np.abs(numbers[1]) + np.abs(z)
    for found in (by_eta, by_posterior):
        near(found, sum(parts) + noise, scale, 1e-5)


@jax.jit
def posterior_terms(schedule, t, s):
    """Factors of x0 and of x_t in the mean of q(x_s | x_t, x_0), and its std."""
    one = lambda x0, x_t: jax.vmap(lambda t, s: process.q_posterior(schedule, x0, x_t, t, s))(t, s)
    return one(1.0, 0.0).mean, *one(0.0, 1.0)


@few
@given(some_process())
def test_posterior_after_noising_gives_back_the_marginal(schedule):
    """Over x_t ~ N(alpha_t x0, sigma_t^2), for all pairs s < t: mean alpha_s x0 and variance sigma_s^2."""
    t, s = np.array([(t, s) for t in LEVELS for s in range(t)]).T
    by_x0, by_x_t, std = float64(*posterior_terms(schedule, t, s))
    alpha, sigma = float64(schedule.alpha, schedule.sigma)
    near(by_x0 + by_x_t * alpha[t], alpha[s], alpha[s], 3e-6)
    near((by_x_t * sigma[t]) ** 2 + std**2, sigma[s] ** 2, sigma[s] ** 2 + 1e-30, 3e-6)


# Grids


@pytest.mark.parametrize("spacing", timesteps.LEVEL_SPACINGS)
@few
@given(data=st.data())
def test_a_grid_falls_strictly_to_its_end(spacing, data):
    """Any arguments give such a grid or ValueError, and no ValueError where there obviously is a grid."""
    trained = data.draw(st.integers(1, 2000))
    N = data.draw(st.integers(1, trained))
    start = data.draw(st.none() | st.integers(N, trained))
    offset, end = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 3))
    top = start or trained
    try:
        levels = timesteps.grid(trained, N, spacing, offset, start, end)
    except ValueError:
        roomy = N**2 < 0.8 * top if spacing == "quadratic" else True
        assert (offset, end) != (0, 0) or not roomy
        return
    assert levels.dtype == np.int32 and levels.shape == (N + 1,)
    assert np.all(np.diff(levels) < 0)
    assert levels[0] <= min(trained, top + offset) and levels[-1] == end


scales = jax.jit(lambda schedule, levels: schedule(levels))


@pytest.mark.parametrize("spacing", timesteps.SIGMA_SPACINGS)
@few
@given(schedule=some_process(), data=st.data())
def test_a_grid_by_sigma_falls_strictly_to_its_end(spacing, schedule, data):
    """No ValueError with a start between levels, and sigma / alpha as in the formula."""
    start = data.draw(st.floats(1.5, T - 0.5, width=32))
    N, end = data.draw(st.integers(1, 30)), data.draw(st.integers(0, 1))
    rho = data.draw(st.floats(0.5, 20)) if spacing == "karras" else 7.0
    levels = timesteps.grid_by_sigma(schedule, N, spacing, rho, start, end)
    assert levels.dtype == np.float32 and levels.shape == (N + 1,)
    assert np.all(np.diff(levels) < 0)
    assert (levels[0], levels[-1]) == (np.float32(start), end)
    visited = N + end
    alpha, sigma = float64(*scales(schedule, np.resize(levels, 31)))
    alpha, sigma = alpha[:visited], sigma[:visited]
    even = np.log(sigma / alpha) if spacing == "exponential" else (sigma / alpha) ** (1 / rho)
    near(even, np.linspace(even[0], even[-1], len(even)), np.abs(even).max(), 1e-4)
