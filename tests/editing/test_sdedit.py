"""SDEdit: its first level, and its distance to the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians import ancestral_variance, denoiser

from jaxdiff import Cond, editing, samplers, schedules, testing
from jaxdiff.process import predict_from
from jaxdiff.samplers import base

SCHEDULE = schedules.linear(1000)
KEY = jax.random.key(0)
X0 = jnp.linspace(-1, 1, 12).reshape(6, 2)


def edited(strength, denoise, x0=X0, steps=20, sampler=None):
    levels = editing.strength_grid(1000, steps, strength)
    return editing.sdedit(KEY, sampler or samplers.ddim(), denoise, SCHEDULE, levels, x0)


def test_it_starts_with_the_image_noised_to_the_first_level():
    """In one step a network that predicts x0 = x_t returns x_t."""
    predict = lambda x_t, t, cond: predict_from("x0", SCHEDULE, x_t, x_t, t)
    alpha, sigma = SCHEDULE(300)
    eps = samplers.noise(samplers.keys_for(KEY, 6), (2,))
    np.testing.assert_allclose(edited(0.3, predict, steps=1), alpha * X0 + sigma * eps, rtol=1e-5)


def test_strength_0_keeps_the_image_and_strength_1_nothing_of_it():
    denoise = testing.gaussian([0.0, 0.5], 0.3).denoiser(SCHEDULE)
    assert (edited(0.0, denoise) == X0).all()
    assert editing.strength_grid(1000, 20, 1.0)[0] == 1000
    far = [
        np.abs(edited(strength, denoise) - edited(strength, denoise, -X0)).max() for strength in (0.1, 0.4, 0.7, 1.0)
    ]
    assert far == sorted(far)[::-1] and far[0] > 0.5 and far[-1] == 0, far  # though alpha_T is 0.006


@pytest.mark.parametrize("sampler", [samplers.ddim(1.0), samplers.ddpm(), samplers.euler_ancestral()])
def test_samplers_that_add_noise_give_the_variance_of_their_steps(sampler):
    """For 4000 copies of one image; the noise at the first level has variance sigma^2."""
    denoise, x0 = denoiser(SCHEDULE, 0.3), jnp.full([4000, 1], 2.0)
    levels, cond = editing.strength_grid(1000, 20, 0.5), Cond(context=jnp.full([4000, 1], -1.0))
    x = editing.sdedit(KEY, sampler, denoise, SCHEDULE, levels, x0, cond)
    wanted = ancestral_variance(SCHEDULE, levels, 0.3, float(SCHEDULE(500).sigma) ** 2)
    np.testing.assert_allclose(x.var(), wanted, rtol=0.1)
    alone = editing.sdedit(KEY, sampler, denoise, SCHEDULE, levels, x0[:3], Cond(context=cond.context[:3]))
    np.testing.assert_allclose(alone, x[:3], atol=1e-5)  # each image has noise of its own key


def test_there_are_no_more_steps_than_levels():
    assert editing.strength_grid(1000, 20, 0.004).tolist() == [4, 3, 2, 1, 0]


def test_strength_lies_between_0_and_1():
    with pytest.raises(ValueError, match=r"`strength`=1\.5 must lie in"):
        editing.strength_grid(1000, 20, 1.5)


def test_another_strength_and_image_do_not_recompile():
    denoise = testing.gaussian([0.0, 0.5], 0.3).denoiser(SCHEDULE)
    edited(0.3, denoise)
    before = base._sample._cache_size()
    edited(0.8, denoise, -X0)
    assert base._sample._cache_size() == before
