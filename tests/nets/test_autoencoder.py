"""Autoencoders: diffusers' numbers with the same weights, the codebook's sums, and what is refused."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import load_golden

from jaxdiff import latent
from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.kl_vae import KLAutoencoder, divergence
from jaxdiff.nets.vq_vae import Codebook, VQAutoencoder, moved, perplexity, quantize
from jaxdiff.types import Gaussian

SMALL = AutoencoderConfig(image_channels=2, channels=(8, 16), blocks=1, latent_channels=3, groups=4)
RNG = np.random.default_rng(0)


def nhwc(x):
    return x.transpose(0, 2, 3, 1)


def test_stable_diffusion_s_autoencoder_has_its_parameters():
    x = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    shapes = jax.eval_shape(KLAutoencoder(AutoencoderConfig()).init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 83_653_863
    assert AutoencoderConfig().latent_shape(x.shape) == (64, 64, 4)


def test_kl_is_diffusers_with_the_same_weights():
    golden, params = load_golden("autoencoder_kl")
    net, x = KLAutoencoder(SMALL), nhwc(golden["x"])
    chex.assert_trees_all_equal_shapes(params, jax.eval_shape(net.init, jax.random.key(0), x))
    q = jax.jit(lambda params, x: net.apply(params, x, method="encode"))(params, x)
    chex.assert_trees_all_close(q, Gaussian(nhwc(golden["mean"]), nhwc(golden["std"])), atol=1e-4)
    decoded = jax.jit(lambda params, z: net.apply(params, z, method="decode"))(params, q.mean)
    chex.assert_trees_all_close(decoded, nhwc(golden["decoded"]), atol=1e-4)
    assert np.abs(golden["decoded"]).max() > 0.5


def test_vq_is_diffusers_with_the_same_weights():
    golden, params = load_golden("autoencoder_vq")
    words = params["params"].pop("quantize")["embedding"]["embedding"]
    net, x = VQAutoencoder(SMALL), nhwc(golden["x"])
    chex.assert_trees_all_equal_shapes(params, jax.eval_shape(net.init, jax.random.key(0), x))
    z = jax.jit(lambda params, x: net.apply(params, x, method="encode"))(params, x)
    chex.assert_trees_all_close(z, nhwc(golden["z"]), atol=1e-4)
    quantized, index = quantize(words, z)
    chex.assert_trees_all_equal(index.ravel(), golden["index"])
    chex.assert_trees_all_close(quantized, nhwc(golden["quantized"]), atol=1e-5)
    decoded = jax.jit(lambda params, z: net.apply(params, z, method="decode"))(params, quantized)
    chex.assert_trees_all_close(decoded, nhwc(golden["decoded"]), atol=1e-4)
    assert len(np.unique(index)) > 3


def test_divergence_is_the_mean_of_the_log_ratio():
    q = Gaussian(jnp.array([[0.5, -1.0]]), jnp.array([[0.3, 2.0]]))
    z = q.mean + q.std * jax.random.normal(jax.random.key(0), [200_000, 2])
    log_ratio = jax.scipy.stats.norm.logpdf(z, q.mean, q.std) - jax.scipy.stats.norm.logpdf(z)
    np.testing.assert_allclose(divergence(q)[0], log_ratio.sum(1).mean(), rtol=0.02)


def test_gradients_go_straight_through_the_codebook():
    words, z = RNG.standard_normal((7, 3)), RNG.standard_normal((5, 3))
    target = RNG.standard_normal((5, 3))
    grad = jax.grad(lambda z: (target * quantize(words, z)[0]).sum())(z)
    chex.assert_trees_all_close(grad, target.astype(np.float32), atol=1e-6)
    nearest = np.linalg.norm(z[:, None] - words, axis=-1).argmin(1)
    chex.assert_trees_all_equal(quantize(words, z)[1], nearest.astype(np.int32))


def test_words_go_to_the_means_of_what_falls_to_them():
    """Without decay at once; with decay the running sums converge to the same."""
    z = np.concatenate([RNG.normal(center, 0.1, (40, 2)) for center in (-3.0, 0.0, 4.0)]).astype(np.float32)
    book = Codebook.init(jnp.array([[-2.0, -2.0], [0.5, 0.5], [3.0, 3.0]]))
    means = z.reshape(3, 40, 2).mean(1)
    _, index = quantize(book.words, z)
    at_once = moved(book, jax.random.key(0), z, index, decay=0.0, dead=0.0)
    chex.assert_trees_all_close(at_once.words, means, atol=1e-5)
    for _ in range(200):
        book = moved(book, jax.random.key(0), z, quantize(book.words, z)[1], decay=0.9, dead=1.0)
    chex.assert_trees_all_close(book.words, means, atol=1e-4)
    chex.assert_trees_all_close(book.count, jnp.full(3, 40.0), rtol=1e-4)


def test_a_word_that_nothing_falls_to_begins_again_as_a_latent():
    z = RNG.standard_normal((64, 2)).astype(np.float32)
    book = Codebook.init(jnp.array([[0.0, 0.0], [100.0, 100.0]]))
    for i in range(12):
        _, index = quantize(book.words, z)
        book = moved(book, jax.random.key(i), z, index, decay=0.8, dead=0.1)
        if i == 3:
            chex.assert_trees_all_close(book.words[1], jnp.full(2, 100.0), rtol=1e-5)  # 0.8^4 is not below 0.1 yet
    assert set(np.asarray(quantize(book.words, z)[1])) == {0, 1}
    again = moved(book._replace(count=jnp.array([5.0, 0.0])), jax.random.key(0), z, jnp.zeros(64, int), 0.8, dead=0.1)
    assert np.isclose(z, again.words[1]).all(1).any()


def test_codebooks_are_the_same_on_one_device_and_on_eight():
    z, words = RNG.standard_normal((8, 4, 2)).astype(np.float32), RNG.standard_normal((5, 2)).astype(np.float32)
    book, key = Codebook.init(jnp.asarray(words)), jax.random.key(0)
    move = lambda axis: lambda z: moved(book, key, z, quantize(book.words, z)[1], 0.5, 0.8, axis)
    one, eight = move(None)(z), jax.pmap(move("batch"), axis_name="batch")(z)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[3], eight), one, atol=1e-5)


def test_perplexity_counts_words():
    assert perplexity(jnp.ones(17)) == pytest.approx(17, rel=1e-5)
    assert perplexity(jnp.array([3.0, 0.0, 0.0])) == 1.0


@pytest.mark.parametrize(
    "options, words",
    [({"latent_channels": 0}, "at least 1"), ({"channels": (8, 10)}, "groups=2 would do"), ({"patch": 0}, "patch")],
)
def test_shapes_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        AutoencoderConfig(**({"channels": (8, 16), "groups": 4} | options))


@pytest.mark.parametrize("shape, words", [((1, 9, 8, 2), "divides sides by 2"), ((1, 8, 8, 3), "2 channels")])
def test_images_that_do_not_fit_are_refused(shape, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(KLAutoencoder(SMALL).init, jax.random.key(0), jnp.zeros(shape))


def test_a_patch_at_the_entry_divides_the_image_too():
    config = AutoencoderConfig(image_channels=3, channels=(8, 16), blocks=1, groups=4, patch=2)
    q, decoded = jax.eval_shape(
        lambda x: (lambda out: (out[0][1].mean, out[0][0]))(
            KLAutoencoder(config).init_with_output(jax.random.key(0), x)
        ),
        jnp.zeros([1, 16, 16, 3]),
    )
    assert q.shape == (1, 4, 4, 4) == (1, *config.latent_shape((16, 16, 3))) and decoded.shape == (1, 16, 16, 3)


def test_latents_are_whitened_and_convolutions_around_them_left_out():
    """z' = f (z - mean) / std, in both directions; without the convolutions the encoder's output is the distribution."""
    plain = AutoencoderConfig(image_channels=2, channels=(8, 16), blocks=1, latent_channels=3, groups=4)
    bare = dataclasses.replace(plain, quant_convs=False)
    x = jax.random.normal(jax.random.key(0), [2, 8, 8, 2])
    net = KLAutoencoder(bare)
    params = jax.jit(net.init)(jax.random.key(1), x)["params"]
    assert not {"quant_conv", "post_quant_conv"} & set(params)
    identity = lambda n: {"kernel": np.eye(n, dtype=np.float32)[None, None], "bias": np.zeros(n, np.float32)}
    with_identities = params | {"quant_conv": identity(6), "post_quant_conv": identity(3)}
    mean, std = np.array([0.5, -1.0, 2.0], np.float32), np.array([2.0, 0.5, 1.0], np.float32)
    run = jax.jit(lambda codec, x: (codec.encode(x), codec.decode(codec.encode(x))))
    z, y = run(latent.kl_codec(KLAutoencoder(plain), with_identities, 1.0), x)
    white, same = run(latent.kl_codec(net, params, 0.3, mean, std), x)
    chex.assert_trees_all_close(np.asarray(white), 0.3 * (np.asarray(z) - mean) / std, atol=1e-5)
    chex.assert_trees_all_close(same, y, atol=1e-4)
