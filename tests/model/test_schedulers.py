"""Schedulers of diffusers: each scheduler's own file gives the x_0 that diffusers arrives at."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff import samplers
from jaxdiff.denoise import denoiser, on_training_levels
from jaxdiff.model.interop import schedulers
from jaxdiff.types import Aux

with np.load(Path(__file__).parents[1] / "golden" / "schedulers.npz") as file:
    GOLDEN = dict(file)
CONFIGS, STEPS = json.loads(str(GOLDEN["configs"])), int(GOLDEN["steps"])


def network(params, x, t, cond=None, keys=None):
    """The formula of tests/golden/make_schedulers.py, whose time is one less than the level."""
    return 0.7 * x + 0.4 * jnp.sin(2 * x + ((jnp.asarray(t, jnp.float32) - 1) / 150).reshape(-1, 1)), Aux()


ROUNDED = on_training_levels(network)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_scheduler_s_file_is_its_sampler_spacing_and_schedule(name):
    made = schedulers.process(CONFIGS[name])
    schedule = made.diffusion.make_schedule()
    levels = made.spacing(schedule, STEPS)
    apply = ROUNDED if made.compat.round_levels else network
    denoise = denoiser(apply, (), schedule, made.diffusion.predict)
    scale = schedule(levels[0]).sigma if made.compat.scale_noise else 1.0
    keys, x_T = samplers.keys_for(jax.random.key(0), len(GOLDEN["x_T"])), scale * GOLDEN["x_T"]
    x, _ = jaxdiff.sample(keys, made.sampler(), denoise, schedule, levels, x_T)
    difference = np.abs(x - GOLDEN[name]).max() / np.abs(GOLDEN[name]).max()
    assert difference < 1e-4, difference
