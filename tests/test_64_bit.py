"""jax's 64-bit mode, which some other code in a program may ask for, changes no number here."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import batch, with_dropout

import jaxdiff
from jaxdiff import Cond, network, objectives, samplers, schedules, testing, timesteps
from jaxdiff.config import Config, Data, Diffusion
from jaxdiff.model.params import init_params
from jaxdiff.objectives.levels import LEVEL_DRAWS


def in_both_modes(function):
    """Results of a function without and with the 64-bit mode, as NumPy arrays."""
    results = []
    for mode in (False, True):
        with jax.enable_x64(mode):
            results.append(jax.tree.map(np.asarray, function()))
    return results


def assert_same(function, atol=0.0):
    for one, other in zip(*map(jax.tree.leaves, in_both_modes(function)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("name", [name for name in samplers.SAMPLERS.functions if name != "ddim_cfgpp"])
def test_samplers_draw_the_same_in_64_bit_mode(name):
    schedule, data = schedules.linear(), testing.gaussian([1.0, -1.0], 0.25)

    def drawn():
        key, levels = jax.random.key(1), timesteps.grid(1000, 4, end=1)
        x_T = samplers.noise(samplers.keys_for(key, 2), (2,))
        sampler = samplers.SAMPLERS.functions[name]()
        return jaxdiff.sample(key, sampler, data.denoiser(schedule), schedule, levels, x_T)[0]

    # diffrax controls steps in 64 bits there, and so takes others within the tolerance of the adaptive solver.
    assert_same(drawn, 1e-4 if name == "probability_flow" else 0.0)


@pytest.mark.parametrize("name", LEVEL_DRAWS)
def test_levels_of_training_are_the_same_in_64_bit_mode(name):
    schedule = schedules.linear(100)

    def drawn():
        run = {"key": jax.random.key(2), "batch_size": 8, "axis_name": None, "schedule": schedule}
        draws = LEVEL_DRAWS.choice(name)(**run)
        keys = samplers.keys_for(jax.random.key(0), 8)
        return draws.draw(draws.init(50), keys, np.arange(8, dtype=np.uint32), 50)

    assert_same(drawn)


def test_parameters_and_losses_are_the_same_in_64_bit_mode():
    """To the last digits: a program in which Python's numbers are of 64 bits may round otherwise."""
    config = Config(data=Data("own", (8, 8, 1)), net=with_dropout(0.3), diffusion=Diffusion("linear", 50, "eps"))
    config = dataclasses.replace(config, net=dataclasses.replace(config.net, num_classes=2))
    assert_same(lambda: init_params(config, jax.random.key(3)))
    params = init_params(config, jax.random.key(3))
    params = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.1), params)

    def loss():
        loss_fn = objectives.denoising(
            network(config.make_net()), schedules.linear(50), null_cond=Cond(label=2), cond_dropout=0.4
        )
        examples = batch(8) | {"cond": Cond(label=np.arange(8, dtype=np.int32) % 2)}
        run = jax.jit(lambda params: loss_fn(params, (), samplers.keys_for(jax.random.key(4), 8), examples))
        return run(params)

    for one, other in zip(*map(jax.tree.leaves, in_both_modes(loss)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
