"""DDIM inversion: against the published formulas, and round trips, of first order without refinement."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff import editing, samplers, schedules, testing, timesteps
from jaxdiff.denoise import denoiser
from jaxdiff.process import predict_from, target_for
from jaxdiff.samplers import base
from jaxdiff.types import Aux

SCHEDULE = schedules.linear(1000)
DATA = testing.gaussian([0.5, -0.3], [[0.5, 0.2], [0.2, 0.3]])
X0 = DATA.sample(samplers.keys_for(jax.random.key(0), 64))


def round_trip_error(steps, refine=0, schedule=SCHEDULE, denoise=None, end=0):
    """Root mean square error of a round trip."""
    denoise, levels = denoise or DATA.denoiser(schedule), timesteps.grid(1000, steps, end=end)
    path = editing.invert(denoise, schedule, levels, X0, refine=refine)
    again = editing.reconstruct(denoise, schedule, levels, path[0])
    return float(np.sqrt(np.mean(np.square(again - X0))))


def test_a_trajectory_is_that_of_the_published_code():
    """In float64, with eps at x_s and the level above."""
    levels, x = timesteps.grid(1000, 20), np.asarray(X0, np.float64)
    mean, cov = (np.asarray(part, np.float64) for part in DATA.moments(SCHEDULE, 0))
    path = editing.invert(DATA.denoiser(SCHEDULE), SCHEDULE, levels, X0)
    assert path.shape == (21, 64, 2) and (path[-1] == X0).all()
    alphas = np.sqrt(np.asarray(SCHEDULE.alphas_cumprod, np.float64))
    for i in range(20, 0, -1):
        (a_s, a_t) = alphas[levels[i]], alphas[levels[i - 1]]
        s_s, s_t = np.sqrt(1 - a_s**2), np.sqrt(1 - a_t**2)
        eps = s_t * (x - a_t * mean) @ np.linalg.inv(a_t**2 * cov + s_t**2 * np.eye(2))
        x = a_t * (x - s_s * eps) / a_s + s_t * eps
        np.testing.assert_allclose(path[i - 1], x, atol=2e-4)


def test_twice_the_steps_halve_the_error_of_a_round_trip():
    errors = [round_trip_error(steps) for steps in (50, 100, 200)]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.3, errors


def test_each_iteration_reduces_the_error():
    errors = [round_trip_error(50, refine) for refine in (0, 1, 3, 10)]
    assert all(near < far / 1.5 for far, near in itertools.pairwise(errors)), errors
    assert round_trip_error(50, 100) < 1e-5


def test_iterations_never_increase_the_error():
    """Of a step that multiplies x by 3, plain iterations would double the error, and damped ones halve it."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = SCHEDULE(450), SCHEDULE(500)
    slope = (3 - alpha_s / alpha_t) / (sigma_s - alpha_s * sigma_t / alpha_t)
    denoise = lambda x_t, t, cond: predict_from("eps", SCHEDULE, slope * x_t, x_t, t)
    paths = [editing.invert(denoise, SCHEDULE, [500, 450], X0, refine=refine) for refine in (0, 1, 2, 4, 8, 16)]
    misses = [float(np.abs(3 * path[0] - X0).max()) for path in paths]
    assert all(after <= before for before, after in itertools.pairwise(misses)), misses
    assert misses[-1] < 1e-2 * misses[0], misses


def of_kind(kind, schedule):
    """The oracle as a network with that kind of output."""
    oracle = DATA.denoiser(schedule)

    def apply(params, x_t, t, cond=None, keys=None):
        prediction = oracle(x_t, t, None)
        return jax.vmap(lambda x0, eps: target_for(kind, schedule, x0, eps, t))(prediction.x0, prediction.eps), Aux()

    return denoiser(apply, None, schedule, kind)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score"])
def test_the_kind_of_prediction_makes_no_difference(kind):
    levels = timesteps.grid(1000, 20)
    paths = [
        editing.invert(denoise, SCHEDULE, levels, X0, refine=2)
        for denoise in (of_kind(kind, SCHEDULE), DATA.denoiser(SCHEDULE))
    ]
    np.testing.assert_allclose(*paths, atol=2e-3)


def test_it_works_with_zero_terminal_snr():
    schedule = schedules.zero_terminal_snr(schedules.linear(1000))
    assert round_trip_error(50, 100, schedule, of_kind("v", schedule)) < 1e-3


def test_a_sampler_that_adds_noise_does_not_reconstruct():
    levels, denoise = timesteps.grid(1000, 50), DATA.denoiser(SCHEDULE)
    x_T = editing.invert(denoise, SCHEDULE, levels, X0, refine=10)[0]
    again, _ = jaxdiff.sample(jax.random.key(1), samplers.ddim(eta=1.0), denoise, SCHEDULE, levels, x_T)
    assert np.sqrt(np.mean(np.square(again - X0))) > 0.5


def test_another_number_of_iterations_does_not_recompile():
    levels = timesteps.grid(1000, 7)
    editing.invert(DATA.denoiser(SCHEDULE), SCHEDULE, levels, X0)
    before = base._sample._cache_size()
    editing.invert(DATA.denoiser(SCHEDULE), SCHEDULE, levels, jnp.zeros_like(X0), refine=5)
    assert base._sample._cache_size() == before


def test_a_negative_number_of_iterations_is_refused():
    with pytest.raises(ValueError, match="`refine`=-1 must be at least 0"):
        editing.ddim_inversion(-1)
