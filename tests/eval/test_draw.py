"""Drawing many images: progress, and programs that a second run finds compiled."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import tiny_config

from jaxdiff import samplers, schedules
from jaxdiff.config import Sample
from jaxdiff.eval import draw
from jaxdiff.train import initial


@pytest.mark.parametrize(
    "steps, size", [(1, 1), (9, 1), (10, 1), (20, 2), (50, 5), (51, 3), (53, 1), (200, 20), (1000, 100)]
)
def test_ten_ticks_or_more_in_equal_parts(steps, size):
    assert draw.part_size(steps) == size


def config_with(**sample):
    config = tiny_config()
    return dataclasses.replace(config, sample=dataclasses.replace(config.sample, **sample))


def test_ticks_add_up_to_all_steps():
    config, ticks = config_with(num=12, batch_size=8, steps=20), []
    params = initial.new_state(config).params
    drawn = list(draw.batches(config, params, ticks.append, frames=True))
    assert ticks == [2] * 20 and sum(ticks) == draw.num_steps(config)
    assert [images.shape[0] for images, _ in drawn] == [8, 4]
    assert [frames.shape[:2] for _, frames in drawn] == [(20, 8), (20, 4)]
    for images, frames in drawn:
        assert np.abs(images.astype(int) - frames[-1]).max() <= 1  # at level 0 x is the predicted x0


def test_the_sampling_program_is_kept_for_the_next_run():
    config = config_with(steps=7)
    params = initial.new_state(config).params
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.clear_caches()
    try:
        draw.draw(config, params, lambda steps: None)
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    assert list(Path(jax.config.jax_compilation_cache_dir).glob("jit__steps-*"))


def test_every_sampler_has_a_name_on_the_command_line():
    library = {name for name in samplers.__all__ if name in vars(samplers) and name[0].islower()}
    library -= {"each_key", "fold", "keys_for", "noise", "normal", "chunks", "sample"}
    assert library == set(draw.SAMPLERS) - {"dpmpp_2m_sde"}
    for name in draw.SAMPLERS:
        assert isinstance(draw.make_sampler(Sample(sampler=name)), samplers.Sampler)


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "predictor_corrector", "probability_flow", "unipc"])
def test_samplers_by_name_draw_from_a_network(name):
    config = config_with(sampler=name, spacing="karras", num=8)
    params = initial.new_state(config).params
    images = draw.draw(config, params)
    assert images.shape == (8, 28, 28, 1) and len(np.unique(images)) > 1


@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_levels_by_sigma_begin_below_pure_noise(spacing):
    schedule = schedules.zero_terminal_snr(schedules.linear(50))
    levels = draw.sampling_levels(Sample(steps=4, spacing=spacing), schedule)
    assert (
        levels.shape == (5,) and levels[0] == pytest.approx(49) and levels[-2] == pytest.approx(1) and levels[-1] == 0
    )
    ratios = schedule(levels[:-1]).sigma / schedule(levels[:-1]).alpha
    if spacing == "exponential":
        np.testing.assert_allclose(ratios[1:] / ratios[:-1], np.full(3, (ratios[-1] / ratios[0]) ** (1 / 3)), rtol=1e-3)
