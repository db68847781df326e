"""CLIP similarity as an objective of guidance: its values for images and latents, and its ascent."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff import guidance, schedules
from jaxdiff.nets.clip import CLIP, CLIPConfig, TextConfig, VisionConfig
from jaxdiff.process import predict_from

TOWER = {"width": 8, "layers": 1, "heads": 2}
NET = CLIP(
    CLIPConfig(TextConfig(**TOWER, vocabulary=20, length=5, end_token=19), VisionConfig(**TOWER, size=8, patch=4), 4)
)
RNG = np.random.default_rng(0)
TOKENS = np.array([[18, 1, 2, 19, 19], [18, 7, 19, 19, 19], [18, 3, 3, 4, 19]])
X = RNG.standard_normal((3, 8, 8, 3)).astype(np.float32)
SHAPES = jax.eval_shape(NET.init, jax.random.key(0), TOKENS, X)["params"]
PARAMS = jax.tree.map(lambda leaf: RNG.standard_normal(leaf.shape).astype(np.float32), SHAPES)
TEXTS, IMAGES, _ = NET.apply({"params": PARAMS}, TOKENS, X)  # of length 1


def test_it_is_the_cosine_of_each_image_with_its_text():
    each = guidance.clip_similarity(NET, PARAMS, TEXTS)(X, 1, None)
    np.testing.assert_allclose(each, np.diag(TEXTS @ IMAGES.T), rtol=1e-5)
    one = guidance.clip_similarity(NET, PARAMS, TEXTS[1])(X, 1, None)
    np.testing.assert_allclose(one, (TEXTS @ IMAGES.T)[1], rtol=1e-5)


def test_latents_are_decoded_and_other_texts_do_not_recompile():
    half, twice = X / 2, Partial(lambda z: 2 * z)
    similarity = jax.jit(chex.assert_max_traces(lambda objective: objective(half, 1, None), n=1))
    for text, row in zip(TEXTS, (TEXTS @ IMAGES.T)):
        np.testing.assert_allclose(similarity(guidance.clip_similarity(NET, PARAMS, text, twice)), row, rtol=1e-5)


def test_guidance_increases_it():
    schedule = schedules.cosine(50)
    objective = guidance.clip_similarity(NET, PARAMS, TEXTS[0])
    plain = lambda x_t, t, cond: predict_from("x0", schedule, x_t, x_t, t)
    guided = guidance.by_gradient(plain, objective, schedule, 0.01)(jnp.asarray(X), 25, None)
    assert (objective(guided.x0, 25, None) > objective(X, 25, None)).all()
