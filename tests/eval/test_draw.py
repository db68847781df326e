"""Drawing many images: progress, and programs that a second run finds compiled."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import tiny_config

from jaxdiff.eval import draw
from jaxdiff.train import setup


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
    params = setup.new_state(config).params
    drawn = list(draw.batches(config, params, ticks.append, frames=True))
    assert ticks == [2] * 20 and sum(ticks) == draw.num_steps(config)
    assert [images.shape[0] for images, _ in drawn] == [8, 4]
    assert [frames.shape[:2] for _, frames in drawn] == [(20, 8), (20, 4)]
    for images, frames in drawn:
        assert np.abs(images.astype(int) - frames[-1]).max() <= 1  # at level 0 x is the predicted x0


def test_the_sampling_program_is_kept_for_the_next_run():
    config = config_with(steps=7)
    params = setup.new_state(config).params
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.clear_caches()
    try:
        draw.draw(config, params, lambda steps: None)
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    assert list(Path(jax.config.jax_compilation_cache_dir).glob("jit__steps-*"))
