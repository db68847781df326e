"""What networks say of images, gathered over batches and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff.eval import features, fid
from jaxdiff.nets.classifier import Classifier
from jaxdiff.nets.unet import UNetConfig

CONFIG = UNetConfig(out_channels=3, channels=(8, 16), blocks=1, attention=(), groups=4)
IMAGES = np.random.default_rng(0).integers(0, 256, (43, 8, 8, 1), np.uint8)


def project(kernel, images):
    """Features [B, 5] and probabilities of 3 classes of images [B, 8, 8, 1]."""
    x = images.reshape(len(images), -1).astype(jnp.float32) @ kernel
    return x, jax.nn.softmax(x[:, :3] / 100)


def judge(seed=0):
    kernel = np.random.default_rng(seed).integers(-2, 3, (64, 5)).astype(np.float32)  # exact in any order of adding
    return kernel, features.Features(Partial(project, kernel), "projection")


def test_batches_of_all_sizes_give_what_all_images_at_once_give():
    kernel, of = judge()
    rows = IMAGES.reshape(43, 64).astype(np.float64) @ kernel
    p = np.exp(rows[:, :3] / 100)
    p /= p.sum(1, keepdims=True)
    ticks = []
    found = features.gathered(of, np.split(IMAGES, [16, 32, 33]), ticks.append)
    assert ticks == [16, 16, 1, 10]
    np.testing.assert_array_equal(found.kept, rows)
    np.testing.assert_allclose(found.moments.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(fid.covariance(found.moments), np.cov(rows, rowvar=False), rtol=1e-9)
    np.testing.assert_array_equal(found.classes, p.argmax(1))
    assert fid.inception_score(found.score) == pytest.approx(fid.inception_score(fid.score(p)), rel=1e-6)


def test_few_features_are_kept_the_same_ones_whatever_the_batches():
    _, of = judge()
    rows = features.gathered(of, [IMAGES]).kept
    chosen = {}
    for seed in range(40):
        one, other = (features.gathered(of, np.split(IMAGES, cuts), keep=10, seed=seed) for cuts in ([24], [8, 16, 32]))
        np.testing.assert_array_equal(one.kept, other.kept)
        chosen[seed] = [int(np.flatnonzero((rows == row).all(1))[0]) for row in one.kept]
        assert chosen[seed] == sorted(chosen[seed]) and one.moments.n == 43 and len(one.classes) == 43
    times = np.bincount(np.concatenate(list(chosen.values())), minlength=43)
    # 40 * 10 / 43 = 9.3 each, give or take 2.7.
    assert times.sum() == 400 and times.min() >= 1 and times.max() <= 19


def test_a_smaller_batch_at_the_end_and_other_parameters_compile_nothing():
    features._run.clear_cache()
    features.gathered(judge()[1], [IMAGES[:16]])
    features.gathered(judge(1)[1], np.split(IMAGES[:35], [16, 32]))
    assert features._run._cache_size() == 1


def test_a_batch_is_spread_over_all_devices(monkeypatch):
    run, seen = features._run, []
    monkeypatch.setattr(features, "_run", lambda of, images: seen.append((of, images)) or run(of, images))
    features.gathered(judge()[1], [IMAGES[:13]])
    [(of, images)] = seen
    assert images.sharding.shard_shape(images.shape) == (2, 8, 8, 1)
    assert len(jax.tree.leaves(of)[0].sharding.device_set) == jax.local_device_count() == 8


def test_a_classifier_s_features_are_its_encoder_s_at_level_zero():
    net = Classifier(CONFIG)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros([1, 8, 8, 1]), jnp.zeros([1]))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes)
    params["head"]["bias"] = np.zeros(3, np.float32)
    x = IMAGES[:16].astype(np.float32) / 127.5 - 1
    logits = jax.jit(net.apply)({"params": params}, x, np.full(16, -1))  # level 0 is network time -1
    params["head"]["bias"] = np.asarray(-logits.mean(0))  # so that not all are of one class
    logits -= logits.mean(0, keepdims=True)
    found = features.gathered(features.classifier_features(CONFIG, params, "tiny"), [IMAGES[:16]])
    np.testing.assert_array_equal(found.classes, logits.argmax(1))
    head = found.kept @ params["head"]["kernel"] + params["head"]["bias"][None]
    np.testing.assert_allclose(head, logits, atol=1e-4 * logits.std())
    assert len(set(found.classes.tolist())) > 1
    p = jax.nn.softmax(logits)
    np.testing.assert_allclose(found.score.p, p.sum(0), rtol=1e-4)


@pytest.mark.parametrize(
    "shape, message", [((16, 8, 8, 3), "of 1 channels"), ((16, 12, 8, 1), "positions at its bottom")]
)
def test_images_of_another_shape_are_refused(shape, message):
    shapes = jax.eval_shape(Classifier(CONFIG).init, jax.random.key(0), jnp.zeros([1, 8, 8, 1]), jnp.zeros([1]))[
        "params"
    ]
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    with pytest.raises(ValueError, match=message):
        features.gathered(features.classifier_features(CONFIG, params, "tiny"), [np.zeros(shape, np.uint8)])


@pytest.mark.parametrize("batches", [[], [IMAGES[:0]]])
def test_no_images_are_refused(batches):
    with pytest.raises(ValueError, match="no images"):
        features.gathered(judge()[1], batches)
