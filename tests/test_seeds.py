"""Seeds draw the same whatever generator jax is set to, which some other code in a program may have changed."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from helpers import tiny_config

import jaxdiff
from jaxdiff.seeds import key_of
from jaxdiff.train import initial


def test_the_default_generator_changes_no_parameter_and_no_key_of_training():
    config = dataclasses.replace(tiny_config(), name="seeds")
    found = []
    for generator in ("threefry2x32", "rbg"):
        with jax.default_prng_impl(generator):
            key = jax.random.key_data(initial.step_key(config))
            found.append((key, initial.new_params(config, initial.key_for(config, 0))))
    chex.assert_trees_all_equal(*found)


def test_the_default_generator_changes_no_image():
    model = jaxdiff.load("digits")
    drawn = lambda: jaxdiff.generate(model, labels=[3], num=1, steps=2, seed=7)
    images = [drawn()]
    with jax.default_prng_impl("rbg"):
        images.append(drawn())
    np.testing.assert_array_equal(*images)


def test_the_older_way_to_draw_arrays_is_refused():
    with jax.threefry_partitionable(False), pytest.raises(ValueError, match="leave JAX_THREEFRY_PARTITIONABLE out"):
        key_of(0)
