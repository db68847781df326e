"""Checks of schedules, denoisers and samplers: right ones pass, slightly wrong ones fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import Prediction, process, samplers, schedules, testing
from jaxdiff.samplers import Sampler, State

RING = testing.ring()
SCHEDULE = schedules.linear()
CLOUD = testing.gaussian([1.0, -0.5], [[0.5, 0.2], [0.2, 0.3]])


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
    """DDIM that evaluates the network at another level."""
    prediction = denoise(state.x, t - 1, cond)
    alpha, sigma = schedule(s)
    return State(alpha * prediction.x0 + sigma * prediction.eps), prediction


def variance_for_std(schedule, prediction, x, t, s, z):
    mean, std = process.p_posterior(schedule, prediction, x, t, s)
    return mean + std**2 * z


def without_shrinking(schedule, prediction, x, t, s, z):
    """Adds the noise and does not reduce eps."""
    alpha, sigma = schedule(s)
    _, std = process.p_posterior(schedule, prediction, x, t, s)
    return alpha * prediction.x0 + sigma * prediction.eps + std * z


@pytest.mark.parametrize("sampler", [samplers.ddim(), Sampler(*samplers.ddim())])
def test_right_samplers_pass(sampler):
    testing.check_sampler(sampler, order=1)


def test_a_sampler_that_is_exact_passes():
    """No order can be measured if errors are those of rounding."""

    def step(keys, denoise, schedule, state, t, s, cond):
        return State(CLOUD.flow(schedule, state.x, t, s)), denoise(state.x, t, cond)

    testing.check_sampler(Sampler(State, step), order=5, exact_on_points=False)


def test_right_stochastic_samplers_pass():
    testing.check_sampler(samplers.ddpm(), stochastic=True)


def two_draws(keys, shape):
    return jnp.stack([samplers.normal(samplers.fold(keys, use), shape) for use in (5, 6)])


def step_with_two_draws(keys, denoise, schedule, state, t, s, cond):
    z = jnp.array([0.6, 0.8]) @ two_draws(keys, state.x.shape[1:]).reshape(2, -1)
    prediction = denoise(state.x, t, cond)
    return State(process.p_step(schedule, prediction, state.x, t, s, z.reshape(state.x.shape))), prediction


def test_a_sampler_may_draw_other_noise_if_it_is_given():
    testing.check_sampler(Sampler(State, step_with_two_draws), stochastic=True, draws=two_draws)


def test_a_sampler_whose_steps_depend_on_x_is_refused():
    with pytest.raises(AssertionError, match="compare the moments of many paths"):
        testing.check_sampler(samplers.predictor_corrector(), stochastic=True)


@pytest.mark.parametrize("step", [one_level_too_far, one_level_too_early])
def test_a_sampler_that_is_off_by_one_fails(step):
    with pytest.raises(AssertionError, match=r"on a single point the (mean|standard deviation) at level 14 is off by"):
        testing.check_sampler(Sampler(State, step), order=1)


@pytest.mark.parametrize("move", [variance_for_std, without_shrinking])
def test_a_wrong_variance_fails(move):
    with pytest.raises(AssertionError, match=r"the standard deviation at level \d+ is off by"):
        testing.check_sampler(as_sampler(move), stochastic=True)


def test_a_sampler_of_lower_order_than_expected_fails():
    with pytest.raises(AssertionError, match=r"fall at order (0\.9|1\.0)\d, not 2"):
        testing.check_sampler(samplers.ddim(), order=2)


def test_a_stochastic_sampler_of_lower_order_than_expected_fails():
    with pytest.raises(AssertionError, match=r"errors of the covariance .* fall at order 0\.8\d, not 2"):
        testing.check_sampler(samplers.ddpm(), order=2, stochastic=True)


def biased(shift, gain, keys, denoise, schedule, state, t, s, cond):
    """DDPM with a bias at the end that does not fall with the number of steps."""
    state, prediction = samplers.ddpm().step(keys, denoise, schedule, state, t, s, cond)
    mean = jnp.asarray(CLOUD.means)
    return State(jnp.where(s == 1, mean + shift + gain * (state.x - mean), state.x)), prediction


BIASES = {
    "mean": (0.08, 1.0, r"errors of the mean .* go to 0\.080, not to 0"),
    "variance": (0.0, 1.12**0.5, r"errors of the covariance .* go to 0\.06\d, not to 0"),
    "less than the errors": (0.0, 1.04**0.5, r"errors of the covariance .* go to 0\.02\d, not to 0"),
}


@pytest.mark.parametrize("shift, gain, message", BIASES.values(), ids=BIASES)
def test_a_stochastic_sampler_that_converges_elsewhere_fails(shift, gain, message):
    step = Partial(biased, jnp.float32(shift), jnp.float32(gain))
    with pytest.raises(AssertionError, match=message):
        testing.check_sampler(Sampler(Partial(State), step), stochastic=True, exact_on_points=False)


def test_a_small_error_of_a_variance_is_visible_on_a_point():
    """1% of the std of one step's noise; the errors above are much larger."""
    move = lambda schedule, prediction, x, t, s, z: process.p_step(schedule, prediction, x, t, s, 1.01 * z)
    with pytest.raises(AssertionError, match=r"the standard deviation at level 14 is off by 0\.00"):
        testing.check_sampler(as_sampler(move), stochastic=True)


def test_a_deterministic_sampler_that_converges_elsewhere_fails():
    """A bias that does not fall with the number of steps, and is not visible on a point."""

    def step(keys, denoise, schedule, state, t, s, cond):
        prediction = denoise(state.x, t, cond)
        alpha, sigma = schedule(s)
        x0 = 0.9 * prediction.x0 + 0.1 * prediction.x0.mean(0, keepdims=True)
        return State(alpha * x0 + sigma * prediction.eps), prediction

    with pytest.raises(AssertionError, match=r"fall at order|still"):
        testing.check_sampler(Sampler(State, step), order=1, exact_on_points=False)


def heun_down_ddim_up(keys, denoise, schedule, state, t, s, cond):
    run = lambda sampler: lambda state: sampler.step(keys, denoise, schedule, state, t, s, cond)
    return jax.lax.cond(s > t, run(samplers.ddim()), run(samplers.heun()), state)


def test_round_trips():
    testing.check_round_trip(samplers.heun(), tolerance=1e-4)
    testing.check_round_trip(samplers.ddim(), tolerance=0.04)
    for sampler in (samplers.ddim(), Sampler(State, heun_down_ddim_up)):
        with pytest.raises(AssertionError, match=r"after 128 steps up and 128 down x is off by [12]\.\de-02"):
            testing.check_round_trip(sampler, tolerance=0.01)


@pytest.mark.parametrize("kind", process.KINDS)
def test_right_kinds_of_prediction_pass(kind):
    testing.check_prediction_kind(kind, SCHEDULE)


def test_v_holds_at_both_ends_where_eps_does_not():
    schedule = schedules.zero_terminal_snr(SCHEDULE)
    testing.check_prediction_kind("v", schedule, levels=range(1001))
    testing.check_prediction_kind("eps", schedule)
    with pytest.raises(AssertionError, match="x0 is off by nan at level 1000"):
        testing.check_prediction_kind("eps", schedule, levels=range(1001))


def predict_v(schedule, output, x_t, t):
    return process.predict_from("v", schedule, output, x_t, t)


TARGETS = {
    "sign": (lambda schedule, x0, eps, t: -process.target_for("v", schedule, x0, eps, t), r"x0 is off by"),
    "level": (lambda schedule, x0, eps, t: process.target_for("v", schedule, x0, eps, t - 1), r"x0 is off by"),
    "scale": (lambda schedule, x0, eps, t: 1.001 * process.target_for("v", schedule, x0, eps, t), r"is off by"),
}


@pytest.mark.parametrize("target, message", TARGETS.values(), ids=TARGETS)
def test_targets_that_do_not_fit_fail(target, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_prediction_kind((predict_v, target), SCHEDULE)


def test_right_denoisers_pass():
    testing.check_denoiser(RING.denoiser(SCHEDULE), SCHEDULE, (2,), data=RING)


def clipped(x_t, t, cond):
    x0, eps, _ = RING.denoiser(SCHEDULE)(x_t, t, cond)
    return Prediction(jnp.clip(x0, -0.5, 0.5), eps)


def mixing(x_t, t, cond):
    x0 = RING.denoiser(SCHEDULE)(x_t + 0.1 * x_t.mean(0, keepdims=True), t, cond).x0
    alpha, sigma = (x[..., None] for x in jax.tree.map(jnp.atleast_1d, SCHEDULE(t)))
    return Prediction(x0, (x_t - alpha * x0) / sigma)


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


@pytest.mark.parametrize("num_levels", [1, 1000])
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_right_schedules_pass(name, num_levels):
    kept = {"rectified_flow": "sum", "edm": "signal", "variance_exploding": "signal"}.get(name, "variance")
    testing.check_schedule(schedules.SCHEDULES.choice(name)(num_levels), preserves=kept)


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


@pytest.mark.parametrize("noisy", [False, True])
def test_the_moments_of_an_affine_map_are_found(noisy):
    """x = a + B x_T + C_1 z_1 + C_2 z_2; a map that is not affine fails."""
    rng = np.random.default_rng(0)
    x_T, *noise = rng.standard_normal([1 + 2 * noisy, 64, 2])
    a, cov, (B, *C) = (
        np.array([0.3, 1.0]),
        np.array([[0.5, 0.1], [0.1, 2.0]]),
        rng.standard_normal([1 + 2 * noisy, 2, 2]),
    )
    x = a + x_T @ B.T + sum(z @ c.T for z, c in zip(noise, C))
    mean, found = testing.affine_moments(x, x_T, noise, np.array([1.0, 0.0]), cov)
    np.testing.assert_allclose(mean, a + B[:, 0])
    np.testing.assert_allclose(found, B @ cov @ B.T + sum(c @ c.T for c in C))
    with pytest.raises(AssertionError, match="affine function"):
        testing.affine_moments(np.square(x), x_T, noise, np.zeros(2), np.eye(2))


def test_the_noise_of_steps_is_that_of_sample():
    """With a sampler that adds up its noise."""
    keys, x_T = samplers.keys_for(jax.random.key(3), 4), jnp.zeros([4, 2])
    add = Sampler(
        State, lambda keys, denoise, schedule, state, t, s, cond: (State(state.x + two_draws(keys, (2,)).sum(0)), None)
    )
    x, _ = samplers.sample(keys, add, RING.denoiser(SCHEDULE), SCHEDULE, [9, 5, 2, 1], x_T)
    noise = testing.noise_of_steps(keys, 3, (2,), two_draws)
    assert noise.shape == (6, 4, 2)
    np.testing.assert_allclose(x, noise.sum(0), atol=1e-5)
