"""MultiDiffusion: against the prediction with each condition alone, and the result of a sampler."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import UNet, UNetConfig, denoise, denoiser, guidance, process, samplers, schedules
from jaxdiff.timesteps import grid
from jaxdiff.types import Aux, Cond, Guided, Prediction, call

SCHEDULE = schedules.linear(100)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 3)).astype(np.float32)
CONDS = tuple(Cond(vector=RNG.standard_normal((2, 3)).astype(np.float32)) for _ in range(3))
MASKS = RNG.random((3, 4, 6)).astype(np.float32)
WEIGHED = MASKS.astype(np.float64)[:, None, :, :, None] / MASKS.astype(np.float64).sum(0)[None, :, :, None]
shapes = []  # of the x_t that the network is traced on


def network(w, x_t, t, cond):
    """A prediction of x0 in which each pixel depends on all others and on its example's condition."""
    shapes.append(x_t.shape)
    x0 = jnp.tanh(w * x_t + x_t.mean((1, 2), keepdims=True) + cond.vector[:, None, None])
    alpha, sigma = (s.reshape(-1, 1, 1, 1) for s in SCHEDULE(jnp.asarray(t)))
    return Prediction(x0, (x_t - alpha * x0) / sigma, Aux(variance=x0))


DENOISE = Partial(network, jnp.float32(0.7))


@pytest.mark.parametrize("t", [60, np.array([3, 99])], ids=["one level", "a level per row"])
def test_it_is_the_weighted_mean_of_predictions_of_the_whole_image(t):
    prediction = guidance.multidiffusion(DENOISE, MASKS)(X, t, CONDS)
    each = [DENOISE(X, t, cond) for cond in CONDS]
    for name in ("x0", "eps"):
        expected = sum(w * np.asarray(getattr(one, name), np.float64) for w, one in zip(WEIGHED, each))
        np.testing.assert_allclose(getattr(prediction, name), expected, rtol=1e-5, atol=1e-5)
    assert prediction.aux == Aux()
    alpha, sigma = (np.float64(s).reshape(-1, 1, 1, 1) for s in SCHEDULE(jnp.asarray(t)))
    np.testing.assert_allclose(alpha * prediction.x0 + sigma * prediction.eps, X, rtol=1e-4, atol=1e-5)


def test_a_pixel_of_one_region_is_predicted_by_its_condition_alone():
    sides = np.zeros((2, 4, 6), np.float32)
    sides[0, :, :2], sides[1, :, 2:] = 1, 7  # weights of any size
    x0 = guidance.multidiffusion(DENOISE, sides)(X, 60, CONDS[:2]).x0
    left, right = (DENOISE(X, 60, cond).x0 for cond in CONDS[:2])
    np.testing.assert_allclose(x0, np.concatenate([left[:, :, :2], right[:, :, 2:]], axis=2), rtol=1e-6)


def test_guided_predictions_are_one_batch_with_a_scale_for_each_image():
    scale = np.array([2.0, 0.5], np.float32)
    conds = tuple(Guided(cond, CONDS[2]) for cond in CONDS[:2])
    guided = guidance.cfg(DENOISE, scale)
    expected = sum(w * guided(X, 60, cond).x0 for w, cond in zip(WEIGHED[:2] / WEIGHED[:2].sum(0), conds))
    shapes.clear()
    prediction = guidance.multidiffusion(guided, MASKS[:2])(X, 60, conds)
    assert shapes == [(4, 4, 6, 3)]  # both conditions, in one call for all regions
    np.testing.assert_allclose(prediction.x0, expected, rtol=1e-5, atol=1e-5)


def test_a_sampler_ends_in_the_weighted_mean_of_the_regions_images():
    """With conditions that are one colour each."""
    constant = lambda x_t, t, cond: process.predict_from("x0", SCHEDULE, cond + 0 * x_t, x_t, jnp.asarray(t))
    colours = tuple(np.full((2, 1, 1, 1), c, np.float32) for c in (-0.5, 0.25, 1.0))
    denoise = guidance.multidiffusion(constant, MASKS)
    x, _ = samplers.sample(None, samplers.ddim(), denoise, SCHEDULE, grid(100, 10), X, colours)
    expected = sum(w * c for w, c in zip(WEIGHED, (-0.5, 0.25, 1.0))) + 0 * X
    np.testing.assert_allclose(x, expected, atol=1e-4)


def test_other_masks_and_conditions_do_not_recompile():
    run = jax.jit(lambda denoise, conds: denoise(X, 60, conds).x0)
    for masks, conds in ((MASKS, CONDS), (MASKS[::-1] + 1, CONDS[::-1])):
        run(guidance.multidiffusion(DENOISE, masks), conds)
    assert run._cache_size() == 1
    inside = jax.jit(lambda masks: guidance.multidiffusion(DENOISE, masks)(X, 60, CONDS).x0)
    np.testing.assert_allclose(inside(MASKS), run(guidance.multidiffusion(DENOISE, MASKS), CONDS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "masks, message",
    [
        (MASKS[0], "must be [R, H, W]"),
        (MASKS - 2, "`masks` must be at least 0"),
        (MASKS * (np.arange(6) > 0), "a pixel is in none of the `masks`"),
        (MASKS * np.array([1, 0, 1])[:, None, None], "mask 1 of `masks` is empty"),
    ],
    ids=["rank", "below 0", "nowhere", "empty"],
)
def test_impossible_masks_are_refused(masks, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        guidance.multidiffusion(DENOISE, masks)


def test_conditions_that_do_not_fit_the_masks_are_refused():
    denoise = guidance.multidiffusion(DENOISE, MASKS[:2])
    for conds in (CONDS, CONDS[0], Guided(*CONDS[:2]), None):
        with pytest.raises(ValueError, match="a tuple of 2 conditions"):
            denoise(X, 60, conds)
    for other in (None, Cond(label=np.array([1, 2])), Cond(vector=np.zeros([2, 4]))):
        with pytest.raises(ValueError, match="the same structure and shapes"):
            denoise(X, 60, (CONDS[0], other))
    for x in (X[:, :, :4], X[..., 0]):
        with pytest.raises(ValueError, match="give them in its size"):
            denoise(x, 60, CONDS[:2])


def test_a_text_to_image_network_predicts_all_regions_as_it_does_each():
    """Convolutions and attention, which have custom rules for gradients and batches, under one more axis."""
    config = UNetConfig(out_channels=3, channels=(8,), blocks=1, attention=(0,), groups=4, num_heads=2, context_dim=6)
    conds = [Cond(context=RNG.standard_normal((2, 5, 6)).astype(np.float32)) for _ in range(3)]
    shapes = jax.eval_shape(UNet(config).init, jax.random.key(0), X, jnp.zeros(2), conds[0])["params"]
    params = jax.tree.map(lambda leaf: 0.3 * RNG.standard_normal(leaf.shape).astype(np.float32), shapes)
    alone = denoiser(denoise.network(UNet(config)), params, SCHEDULE)
    together = guidance.multidiffusion(alone, MASKS)
    expected = sum(w * call(alone, X, 60, cond).x0 for w, cond in zip(WEIGHED, conds))
    np.testing.assert_allclose(call(together, X, 60, tuple(conds)).x0, expected, rtol=1e-4, atol=1e-4)
