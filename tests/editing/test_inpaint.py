"""Inpainting: known pixels are exact, and sampled ones consistent with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff import editing, samplers, schedules, testing, timesteps
from jaxdiff.samplers import base

SCHEDULE = schedules.cosine(1000)
DATA = testing.gaussian([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]])  # x_2 given x_1 = 1 is N(0.9, 0.19)
KNOWN = jnp.array([1.0, 0.0])
X0 = jnp.tile(jnp.array([[1.0, 0.0]]), (2000, 1))


def sampled(rounds, sampler=None, steps=50):
    sampler = editing.inpaint(sampler or samplers.ddpm(), X0, KNOWN, rounds)
    key, levels = jax.random.key(1), timesteps.grid(1000, steps)
    x_T = samplers.noise(samplers.keys_for(key, len(X0)), (2,))
    return jaxdiff.sample(key, sampler, DATA.denoiser(SCHEDULE), SCHEDULE, levels, x_T)[0]


ANY = {
    "ddim": samplers.ddim(),
    "dpmpp_2m": samplers.dpmpp_2m(),
    "unipc": samplers.unipc(),
    "ddim, eta 1": samplers.ddim(1.0),
    "ddpm": samplers.ddpm(),
    "euler_ancestral": samplers.euler_ancestral(),
    "dpmpp_2m, sde": samplers.dpmpp_2m(sde=True),
}


@pytest.mark.parametrize("sampler", ANY.values(), ids=ANY)
def test_known_pixels_stay_and_all_is_finite(sampler):
    x = sampled(3, sampler, steps=10)
    assert (x[:, 0] == X0[:, 0]).all() and np.isfinite(x).all()


def test_more_rounds_make_sampled_pixels_consistent_with_known_ones():
    off = [abs(float(sampled(rounds)[:, 1].mean()) - 0.9) for rounds in (1, 5, 20)]
    assert off[0] > off[1] > off[2] and off[2] < 0.1, off


def test_with_many_rounds_and_steps_samples_are_of_the_conditional_distribution():
    """Resampling with too much or too little noise would change the variance."""
    x = sampled(20, samplers.ddpm(variance="beta"), steps=200)[:, 1]
    assert abs(float(x.mean()) - 0.9) < 0.03 and abs(float(x.var()) - 0.19) < 0.02


def test_another_number_of_rounds_does_not_recompile():
    sampled(1, steps=8)
    before = base._sample._cache_size()
    sampled(4, steps=8)
    assert base._sample._cache_size() == before


def test_it_needs_a_key_and_at_least_one_round():
    with pytest.raises(ValueError, match="`rounds`=0 must be at least 1"):
        editing.inpaint(samplers.ddim(), X0, KNOWN, 0)
    with pytest.raises(ValueError, match="`key` must be a random key"):
        jaxdiff.sample(None, editing.inpaint(samplers.ddim(), X0, KNOWN), DATA.denoiser(SCHEDULE), SCHEDULE, [5, 0], X0)
