"""Codecs: scaling factor, posterior samples, and decoding in slices and tiles."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import latent, samplers
from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.kl_vae import KLAutoencoder
from jaxdiff.nets.vq_vae import VQAutoencoder, quantize

CONFIG = AutoencoderConfig(image_channels=1, channels=(8,), blocks=1, groups=4, mid_attention=False, patch=2)
X = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)


def shaken(net):
    shapes = jax.eval_shape(net.init, jax.random.key(0), X)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), shapes)


def test_kl_scales_latents_and_samples_them_only_with_keys():
    net = KLAutoencoder(CONFIG)
    params = shaken(net)
    q = net.apply({"params": params}, X, method="encode")
    codec = jax.jit(latent.kl_codec, static_argnums=0)(net, params, 0.5)
    z = codec.encode(X)
    chex.assert_trees_all_close(z, 0.5 * q.mean, atol=1e-5)
    chex.assert_trees_all_close(codec.decode(z), net.apply({"params": params}, q.mean, method="decode"), atol=1e-5)
    keys = samplers.keys_for(jax.random.key(2), 3)
    eps = (codec.encode(X, keys) / 0.5 - q.mean) / q.std
    chex.assert_trees_all_close(eps, samplers.normal(keys, q.mean.shape[1:]), atol=1e-3)


def test_another_factor_or_other_parameters_compile_nothing():
    net = KLAutoencoder(CONFIG)
    params = shaken(net)
    there_and_back = jax.jit(chex.assert_max_traces(lambda codec, x: codec.decode(codec.encode(x)), n=1))
    one = there_and_back(latent.kl_codec(net, params, 0.5), X)
    two = there_and_back(latent.kl_codec(KLAutoencoder(CONFIG), jax.tree.map(lambda x: 1.0 * x, params), 2.0), X)
    chex.assert_trees_all_close(one, two, atol=1e-5)  # the factor cancels


def test_vq_decodes_the_nearest_codebook_vectors():
    net = VQAutoencoder(CONFIG)
    params, codebook = shaken(net), np.random.default_rng(2).standard_normal((9, 4)).astype(np.float32)
    codec = latent.vq_codec(net, params, codebook, 3.0)
    z = codec.encode(X)
    nearest, _ = quantize(codebook, z / 3.0)
    decoded = codec.decode(z)
    chex.assert_trees_all_close(decoded, net.apply({"params": params}, nearest, method="decode"), atol=1e-5)
    chex.assert_trees_all_close(codec.decode(3.0 * nearest), decoded, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_slices_are_the_whole(size):
    net = KLAutoencoder(CONFIG)
    codec = latent.kl_codec(net, shaken(net))
    z = codec.encode(X)
    chex.assert_trees_all_close(latent.sliced(codec, size).decode(z), codec.decode(z), atol=1e-5)


def blocks(z):
    """Decoder without a receptive field: each latent gives 2x2 pixels of twice its channels."""
    return jnp.concatenate([z, 2 * z], -1).repeat(2, 1).repeat(2, 2)


@pytest.mark.parametrize("tile, overlap", [(4, 0), (4, 1), (5, 3), (3, 2), (20, 5), (20, 9), (1, 0)])
@pytest.mark.parametrize("shape", [(9, 6), (4, 11)])
def test_tiles_of_a_decoder_without_neighbours_are_the_whole(tile, overlap, shape):
    z = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    codec = latent.tiled(latent.Codec(None, Partial(blocks)), tile, overlap)
    chex.assert_trees_all_close(jax.jit(lambda codec, z: codec.decode(z))(codec, z), blocks(z), atol=1e-5)


def test_tiles_leave_no_seams():
    """Each tile has a brightness of its own: their average has no jumps."""
    numbered = Partial(lambda z: jnp.broadcast_to(z.mean((1, 2), keepdims=True), z.shape).repeat(8, 1).repeat(8, 2))
    z = jnp.arange(12.0).reshape(1, 1, 12, 1) * jnp.ones([1, 12, 1, 1])
    image = latent.tiled(latent.Codec(None, numbered), tile=6, overlap=3).decode(z)[0, :, :, 0]
    jumps = np.abs(np.diff(image, axis=1)).max()
    assert np.ptp(image) > 5 and jumps < 0.5


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda codec: latent.tiled(codec, 4, 4), "`overlap`=4"),
        (lambda codec: latent.tiled(codec, 0, 0), "`tile`=0"),
        (lambda codec: latent.sliced(codec, 0), "`size`=0"),
    ],
)
def test_impossible_slices_and_tiles_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(latent.Codec(None, Partial(blocks)))
