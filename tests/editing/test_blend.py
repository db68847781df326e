"""Local blend: outside of the attended region an edited image equals its source."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Cond, Guided, editing, samplers, schedules, timesteps
from jaxdiff.process import predict_from
from jaxdiff.types import Aux

SCHEDULE, LEVELS = schedules.cosine(1000), timesteps.grid(1000, 5)
MAP = np.zeros([4, 16, 3], np.float32)
MAP[[0, 1, 2, 3], [0, 0, 0, 15], 1] = 1  # a corner attends to token 1; in the last row, another corner
MAP[2, 15, 1] = 0.5  # another corner, half as much
TOKEN_MASK = np.tile(np.array([0.0, 1.0, 0.0], np.float32), (4, 1))
SOURCE_OFFSET = np.array([0, 0, -2, -2])


def denoise(x_t, t, cond):
    prediction = predict_from("x0", SCHEDULE, cond.context, x_t, t)
    return prediction._replace(aux=Aux(maps={"a": jnp.asarray(MAP), "large": jnp.ones([4, 64, 3])}))


def sampled(size=4, **how):
    sampler = editing.local_blend(samplers.ddim(), TOKEN_MASK, SOURCE_OFFSET, size=size, **how)
    context = jnp.broadcast_to(jnp.arange(4.0).reshape(4, 1, 1, 1), (4, 8, 8, 1))  # predicts i in row i
    return samplers.sample(None, sampler, denoise, SCHEDULE, LEVELS, jnp.zeros([4, 8, 8, 1]), Cond(context=context))[0]


def test_only_the_attended_region_changes():
    x = sampled()
    corner = np.zeros([8, 8], bool)
    corner[:4, :4] = True  # 2x2 pixels of a 4x4 map with the neighbours, each of 2x2 pixels
    np.testing.assert_allclose(x[2, ..., 0], np.where(corner | corner[::-1, ::-1], 2, 0), atol=1e-5)
    np.testing.assert_allclose(sampled(threshold=0.6)[2, ..., 0], np.where(corner, 2, 0), atol=1e-5)
    np.testing.assert_allclose(x[3, ..., 0], np.where(corner | corner[::-1, ::-1], 3, 1), atol=1e-5)
    np.testing.assert_allclose(x[:2, 0, 0, 0], [0, 1], atol=1e-5)


def test_outside_of_the_region_an_edited_image_is_its_source_with_a_sampler_that_adds_noise():
    """Within the region, which is two corners, both have the same noise and differ by a constant."""
    sampler = editing.local_blend(samplers.ddim(1.0), TOKEN_MASK, SOURCE_OFFSET, size=4)
    context = jnp.broadcast_to(jnp.arange(4.0).reshape(4, 1, 1, 1), (4, 8, 8, 1))
    mixed = lambda x_t, t, cond: denoise(x_t, t, cond._replace(context=cond.context + x_t / 2))
    guided, target = Guided(Cond(context=context[:2]), Cond(context=context[:2])), Cond(context=context[2:])
    args = mixed, SCHEDULE, LEVELS, jnp.zeros([2, 8, 8, 1]), guided, target, 1.0
    x, _ = editing.sample_pairs(*args, sampler=sampler, key=jax.random.key(0))
    change = np.asarray(x[2] - x[0])[..., 0]
    assert (change[:4, 4:] == 0).all() and (change[4:, :4] == 0).all()
    corners = np.stack([change[:4, :4], change[4:, 4:]])
    np.testing.assert_allclose(corners, corners[0, 0, 0], atol=1e-4)
    assert corners[0, 0, 0] > 1 and float(x[0].std()) > 0.1


def test_before_its_start_nothing_is_blended():
    np.testing.assert_allclose(sampled(start=5)[2], 2, atol=1e-5)


def test_maps_of_that_size_must_be_there():
    with pytest.raises(ValueError, match="no attention maps of `size`=5: one of"):
        sampled(size=5)
