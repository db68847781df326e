"""Inpainting: what is known stays to the last bit, and what is drawn goes with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff import editing, samplers, schedules, testing, timesteps
from jaxdiff.samplers import base

SCHEDULE = schedules.cosine(1000)
DATA = testing.gaussian([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]])  # of x_1 = 1, x_2 is N(0.9, 0.19)
KNOWN = jnp.array([1.0, 0.0])
X0 = jnp.tile(jnp.array([[1.0, 0.0]]), (2000, 1))


def drawn(rounds, sampler=None, steps=50):
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
    x = drawn(3, sampler, steps=10)
    assert (x[:, 0] == X0[:, 0]).all() and np.isfinite(x).all()


def test_with_more_rounds_what_is_drawn_goes_with_what_is_known():
    off = [abs(float(drawn(rounds)[:, 1].mean()) - 0.9) for rounds in (1, 5, 20)]
    assert off[0] > off[1] > off[2] and off[2] < 0.1, off


def test_with_many_rounds_and_steps_it_is_drawn_from_the_conditional():
    """A jump up with too much or too little noise would show in the variance."""
    x = drawn(20, samplers.ddpm(variance="beta"), steps=200)[:, 1]
    assert abs(float(x.mean()) - 0.9) < 0.03 and abs(float(x.var()) - 0.19) < 0.02


def test_another_number_of_rounds_compiles_nothing():
    drawn(1, steps=8)
    before = base._sample._cache_size()
    drawn(4, steps=8)
    assert base._sample._cache_size() == before


def test_it_needs_a_key_and_a_round():
    with pytest.raises(ValueError, match="`rounds`=0 must be at least 1"):
        editing.inpaint(samplers.ddim(), X0, KNOWN, 0)
    with pytest.raises(ValueError, match="`key` must be a random key"):
        jaxdiff.sample(None, editing.inpaint(samplers.ddim(), X0, KNOWN), DATA.denoiser(SCHEDULE), SCHEDULE, [5, 0], X0)
