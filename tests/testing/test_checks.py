"""The checks pass what is right and fail what is a little wrong."""

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import Prediction, process, samplers, schedules, testing
from jaxdiff.samplers import Sampler, State

RING = testing.ring()
SCHEDULE = schedules.linear()


def as_sampler(move):
    """A sampler of move(schedule, prediction, x, t, s, z) that draws z."""

    def step(keys, denoise, schedule, state, t, s, cond):
        prediction = denoise(state.x, t, cond)
        z = samplers.normal(keys, state.x.shape[1:])
        return State(move(schedule, prediction, state.x, t, s, z)), prediction

    return Sampler(State, step)


def one_level_too_far(keys, denoise, schedule, state, t, s, cond):
    """DDIM with the scales of the next level."""
    prediction = denoise(state.x, t, cond)
    alpha, sigma = schedule(jnp.maximum(s - 1, 0))
    return State(alpha * prediction.x0 + sigma * prediction.eps), prediction


def one_level_too_early(keys, denoise, schedule, state, t, s, cond):
    """DDIM that asks the network one level off."""
    prediction = denoise(state.x, t - 1, cond)
    alpha, sigma = schedule(s)
    return State(alpha * prediction.x0 + sigma * prediction.eps), prediction


def variance_for_std(schedule, prediction, x, t, s, z):
    mean, std = process.p_posterior(schedule, prediction, x, t, s)
    return mean + std**2 * z


def without_shrinking(schedule, prediction, x, t, s, z):
    """Adds the noise and keeps all of eps, too."""
    alpha, sigma = schedule(s)
    _, std = process.p_posterior(schedule, prediction, x, t, s)
    return alpha * prediction.x0 + sigma * prediction.eps + std * z


@pytest.mark.parametrize("sampler", [samplers.ddim(), Sampler(*samplers.ddim())])
def test_right_samplers_pass(sampler):
    testing.check_sampler(sampler, order=1)


@pytest.mark.parametrize("sampler", [samplers.ddpm(), samplers.ddim(eta=0.3), samplers.ddim(eta=1.0)])
def test_right_stochastic_samplers_pass(sampler):
    testing.check_sampler(sampler, stochastic=True)


@pytest.mark.parametrize("step", [one_level_too_far, one_level_too_early])
def test_a_sampler_that_is_off_by_one_fails(step):
    with pytest.raises(AssertionError, match=r"on a single point the (mean|standard deviation) at level 14 is off by"):
        testing.check_sampler(Sampler(State, step), order=1)


@pytest.mark.parametrize("move", [variance_for_std, without_shrinking])
def test_a_wrong_variance_fails(move):
    with pytest.raises(AssertionError, match=r"the standard deviation at level \d+ is off by"):
        testing.check_sampler(as_sampler(move), stochastic=True)


def test_a_sampler_of_lower_order_than_it_claims_fails():
    with pytest.raises(AssertionError, match=r"fall at order (0\.9|1\.0)\d, not 2"):
        testing.check_sampler(samplers.ddim(), order=2)


def test_one_that_converges_elsewhere_fails():
    """A bias that no number of steps takes away, and that a point does not show."""

    def step(keys, denoise, schedule, state, t, s, cond):
        prediction = denoise(state.x, t, cond)
        alpha, sigma = schedule(s)
        x0 = 0.9 * prediction.x0 + 0.1 * prediction.x0.mean(0, keepdims=True)
        return State(alpha * x0 + sigma * prediction.eps), prediction

    with pytest.raises(AssertionError, match=r"fall at order|still"):
        testing.check_sampler(Sampler(State, step), order=1, exact_on_points=False)


def test_right_denoisers_pass():
    testing.check_denoiser(RING.denoiser(SCHEDULE), SCHEDULE, (2,), data=RING)


def clipped(x_t, t, cond):
    x0, eps, _ = RING.denoiser(SCHEDULE)(x_t, t, cond)
    return Prediction(jnp.clip(x0, -0.5, 0.5), eps)


def mixing(x_t, t, cond):
    said = RING.denoiser(SCHEDULE)(x_t + 0.1 * x_t.mean(0, keepdims=True), t, cond)
    alpha, sigma = (x[..., None] for x in jax.tree.map(jnp.atleast_1d, SCHEDULE(t)))
    return Prediction(said.x0, (x_t - alpha * said.x0) / sigma)


WRONG = {
    "clipped without a new eps": (clipped, "x_t is not alpha x0 . sigma eps at level 1"),
    "mixing examples": (mixing, "an example depends on the others"),
    "infinite": (lambda x, t, cond: Prediction(x / 0, x), "x0 is not finite at level 1"),
    "shape": (lambda x, t, cond: Prediction(x[:, :1], x), r"x0 has shape \(4, 1\) and x_t \(4, 2\)"),
    "other data": (testing.ring(7).denoiser(SCHEDULE), r"x0 is not E\[x_0 . x_t\] at level 1"),
    "another level": (
        lambda x, t, cond: RING.denoiser(SCHEDULE)(x, jnp.maximum(t - 5, 1), cond),
        "x_t is not alpha x0",
    ),
}


@pytest.mark.parametrize("denoise, message", WRONG.values(), ids=WRONG)
def test_wrong_denoisers_fail(denoise, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_denoiser(denoise, SCHEDULE, (2,), data=RING)


@pytest.mark.parametrize(
    "schedule", [schedules.linear(), schedules.scaled_linear(), schedules.cosine(), schedules.cosine(1)]
)
def test_right_schedules_pass(schedule):
    testing.check_schedule(schedule)


SCHEDULE_FAULTS = {
    "no clean level": (
        SCHEDULE._replace(alpha=SCHEDULE.alpha[1:], sigma=SCHEDULE.sigma[1:], betas=SCHEDULE.betas[1:]),
        "level 0 is not clean",
    ),
    "not variance-preserving": (SCHEDULE._replace(sigma=1.01 * SCHEDULE.sigma), "is off by"),
    "a level twice": (
        SCHEDULE._replace(
            alpha=SCHEDULE.alpha.at[5].set(SCHEDULE.alpha[4]), sigma=SCHEDULE.sigma.at[5].set(SCHEDULE.sigma[4])
        ),
        r"does not fall from level \[4\]",
    ),
    "not finite": (SCHEDULE._replace(alpha=SCHEDULE.alpha.at[9].set(jnp.nan)), "not finite"),
}


@pytest.mark.parametrize("schedule, message", SCHEDULE_FAULTS.values(), ids=SCHEDULE_FAULTS)
def test_wrong_schedules_fail(schedule, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_schedule(schedule)


def test_order_of_known_errors():
    assert testing.order_of([8, 16, 32], [1.0, 1 / 8, 1 / 64]) == pytest.approx(3.0)
