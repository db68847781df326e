"""CLIP: the numbers of transformers with the same weights, what sees what, and what is refused."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import load_golden

from jaxdiff.nets.clip import CLIP, CLIPConfig, TextConfig, TextTransformer, VisionConfig, VisionTransformer, normalized

TEXT = TextConfig(width=8, layers=3, heads=2, vocabulary=30, length=7, end_token=29)
VISION = VisionConfig(width=8, layers=3, heads=2, size=12, patch=4)


def configured(activation="gelu"):
    towers = (dataclasses.replace(tower, activation=activation) for tower in (TEXT, VISION))
    return CLIPConfig(*towers, projection=6)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_all_is_transformers_with_the_same_weights(activation):
    golden, params = load_golden(f"clip_{activation}")
    config, pixels = configured(activation), golden["pixels"].transpose(0, 2, 3, 1)
    # transformers takes normalised pixels, and `CLIP` images in [-1, 1].
    mean, std = (np.array(of, np.float32)[None, None, None] for of in (config.vision.mean, config.vision.std))
    images = 2 * (pixels * std + mean) - 1
    chex.assert_trees_all_close(normalized(images, config.vision), pixels, atol=1e-5)
    shapes = jax.eval_shape(CLIP(config).init, jax.random.key(0), golden["tokens"], images)
    chex.assert_trees_all_equal_shapes(params, shapes)  # the same names, nothing missing or left over

    weights = params["params"]
    text = TextTransformer(config.text).apply({"params": weights["text_model"]}, golden["tokens"])
    chex.assert_trees_all_close(tuple(text), (golden["text"], golden["text_pooled"]), atol=1e-4)
    short = TextTransformer(config.text).apply({"params": weights["text_model"]}, golden["tokens"], 1)
    chex.assert_trees_all_close(tuple(short), (golden["penultimate"], golden["text_pooled"]), atol=1e-4)
    vision = VisionTransformer(config.vision).apply({"params": weights["vision_model"]}, pixels)
    chex.assert_trees_all_close(tuple(vision), (golden["vision"], golden["vision_pooled"]), atol=1e-4)

    texts, images, scale = CLIP(config).apply(params, golden["tokens"], images)
    chex.assert_trees_all_close(texts, golden["text_embeds"], atol=1e-5)
    chex.assert_trees_all_close(images, golden["image_embeds"], atol=1e-5)
    chex.assert_trees_all_close(scale * texts @ images.T, golden["logits"], atol=1e-3)
    assert np.ptp(golden["logits"]) > 0.3 and np.abs(golden["text"] - golden["penultimate"]).max() > 0.1


def test_published_sizes():
    """OpenAI's ViT-L/14: 427,616,513 parameters, of which Stable Diffusion 1 reads 123,060,480."""
    tokens = jax.ShapeDtypeStruct((1, 77), jnp.int32)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    count = lambda shapes: sum(leaf.size for leaf in jax.tree.leaves(shapes))
    both = jax.eval_shape(CLIP(CLIPConfig()).init, jax.random.key(0), tokens, images)
    assert count(both) == 427_616_513 and count(both["params"]["text_model"]) == 123_060_480


def test_words_see_only_those_before_them():
    tokens = np.array([[28, 3, 4, 5, 6, 29, 29]])
    later = tokens.copy()
    later[0, 3] = 9
    net = TextTransformer(TEXT)
    params = jax.jit(net.init)(jax.random.key(0), tokens)
    a, b = (net.apply(params, t) for t in (tokens, later))
    chex.assert_trees_all_close(a.tokens[:, :3], b.tokens[:, :3], atol=1e-6)
    assert (np.abs(a.tokens - b.tokens)[0, 3:].max(-1) > 1e-4).all() and np.abs(a.pooled - b.pooled).max() > 1e-4
    chex.assert_trees_all_equal(a.pooled, a.tokens[:, 5])  # the first end token


def test_images_of_another_size_are_scaled():
    even = jnp.full([1, 30, 20, 3], 0.5)
    chex.assert_trees_all_close(normalized(even, VISION), normalized(even[:, :12, :12], VISION), atol=1e-5)
    wide = jnp.arange(18.0).reshape(1, 1, 18, 1) / 18 * jnp.ones([1, 12, 1, 3])
    chex.assert_trees_all_close(normalized(wide, VISION), normalized(wide[:, :, 3:15], VISION), atol=1e-5)


def test_a_text_without_an_end_is_read_as_nothing():
    net, tokens = TextTransformer(TEXT), np.array([[28, 1, 2, 3, 4, 5, 6], [28, 1, 29, 29, 29, 29, 29]])
    pooled = net.init_with_output(jax.random.key(0), tokens)[0].pooled
    assert np.isnan(pooled[0]).all() and np.isfinite(pooled[1]).all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: TextConfig(width=10, heads=4), "multiple of heads=4"),
        (lambda: TextConfig(end_token=50_000), "below vocabulary"),
        (lambda: VisionConfig(size=225), "multiple of patch=14"),
        (lambda: VisionConfig(activation="relu"), "'quick_gelu' or 'gelu'"),
        (lambda: TextTransformer(TEXT).init(jax.random.key(0), jnp.zeros([1, 6], int)), "texts of 6 tokens"),
        (lambda: TextTransformer(TEXT).init(jax.random.key(0), jnp.zeros([1, 7], int), 3), "skip=3"),
        (lambda: VisionTransformer(VISION).init(jax.random.key(0), jnp.zeros([1, 16, 16, 3])), "reads 12x12x3"),
        (lambda: normalized(jnp.zeros([1, 8, 8, 1]), VISION), "images of 1 channels"),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
