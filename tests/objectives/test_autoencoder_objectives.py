"""Objectives of autoencoders and of CLIP: their terms, their gradients, one device and eight."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxdiff import objectives, samplers
from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.clip import CLIP, CLIPConfig, TextConfig, VisionConfig
from jaxdiff.nets.critic import PatchCritic
from jaxdiff.nets.kl_vae import KLAutoencoder, divergence
from jaxdiff.nets.vq_vae import Codebook, VQAutoencoder, quantize
from jaxdiff.objectives.autoencoder import psnr

CONFIG = AutoencoderConfig(image_channels=1, channels=(8,), blocks=1, groups=4, mid_attention=False, patch=2)
RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
BATCH = {"image": X, "index": np.arange(40, 48)}
KEYS = samplers.keys_for(jax.random.key(0), 8)


def random_params(net, *args):
    shapes = jax.eval_shape(net.init, jax.random.key(0), *args)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(net, params, x, method):
    return net.apply({"params": params}, x, method=method)


@pytest.mark.parametrize("error, power", [("l1", 1), ("l2", 2)])
def test_the_kl_objective_is_the_sum_of_its_terms(error, power):
    net = KLAutoencoder(CONFIG)
    params = random_params(net, X)
    loss, (_, metrics) = jax.jit(objectives.kl_autoencoder(net, 0.1, error))(params, (), KEYS, BATCH)
    q = apply(net, params, X, "encode")
    z = q.mean + q.std * samplers.normal(KEYS, q.mean.shape[1:])
    decoded = np.asarray(apply(net, params, z, "decode"), np.float64)
    distance = (np.abs(X - decoded) ** power).reshape(8, -1).mean(1)
    chex.assert_trees_all_close(loss, (distance + 0.1 * divergence(q) / 64).astype(np.float32), rtol=1e-4)
    mse = ((X - decoded) ** 2).reshape(8, -1).mean(1)
    chex.assert_trees_all_close(metrics["psnr"], (20 * np.log10(2) - 10 * np.log10(mse)).astype(np.float32), rtol=1e-4)


def test_uint8_images_are_converted_to_the_unit_range():
    net = KLAutoencoder(CONFIG)
    params, loss = random_params(net, X), jax.jit(objectives.kl_autoencoder(net))
    pixels = RNG.integers(0, 256, X.shape, np.uint8)
    losses = [loss(params, (), KEYS, {"image": image})[0] for image in (pixels, pixels / np.float32(127.5) - 1)]
    chex.assert_trees_all_close(*losses, rtol=1e-4)


def test_vq_commits_the_encoder_and_updates_the_codebook():
    net, words = VQAutoencoder(CONFIG), RNG.standard_normal((6, 4)).astype(np.float32)
    params, book = random_params(net, X), Codebook.init(jnp.asarray(words))
    loss_fn = jax.jit(objectives.vq_autoencoder(net, commitment=0.5, decay=0.9, dead=0.0))
    loss, (after, metrics) = loss_fn(params, book, KEYS, BATCH)
    z = apply(net, params, X, "encode")
    z_q, index = quantize(words, z)
    decoded = apply(net, params, z_q, "decode")
    mean = lambda x: np.square(x).reshape(8, -1).mean(1)
    chex.assert_trees_all_close(loss, mean(X - decoded) + 0.5 * mean(z - z_q), rtol=1e-4)
    counts = np.bincount(np.asarray(index).ravel(), minlength=6)
    chex.assert_trees_all_close(after.count, (0.9 + 0.1 * counts).astype(np.float32), rtol=1e-5)
    assert 1 <= metrics["perplexity"][0] <= 6

    def of_latent(z):  # loss whose gradient the encoder receives: straight-through, and the commitment's
        quantized = z + jax.lax.stop_gradient(z_q - z)
        decoded = net.apply({"params": params}, quantized, method="decode")
        return (jnp.square(X - decoded).mean() + 0.5 * jnp.square(z - z_q).mean()).sum()

    encode = lambda p: net.apply({"params": p}, X, method="encode")
    expected = jax.jit(lambda p: jax.vjp(encode, p)[1](jax.grad(of_latent)(z))[0])(params)
    got = jax.jit(jax.grad(lambda p: loss_fn(p, book, KEYS, BATCH)[0].mean()))(params)
    chex.assert_trees_all_close(got["encoder"], expected["encoder"], rtol=1e-3, atol=1e-5)


def test_the_codebook_of_eight_devices_is_that_of_one():
    net, words = VQAutoencoder(CONFIG), RNG.standard_normal((6, 4)).astype(np.float32)
    params, book = random_params(net, X), Codebook.init(jnp.asarray(words))
    make = lambda axis: objectives.vq_autoencoder(net, decay=0.5, dead=0.9, axis_name=axis)
    one = jax.jit(make(None))(params, book, KEYS, BATCH)[1][0]
    split = jax.tree.map(lambda x: x.reshape(8, 1, *x.shape[1:]), (KEYS, BATCH))
    eight = jax.pmap(lambda keys, batch: make("batch")(params, book, keys, batch)[1][0], axis_name="batch")(*split)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[5], eight), one, atol=1e-5)
    assert np.isclose(one.count, 1.9).any()  # some codes were dead and replaced


class Sum(nn.Module):
    """A critic whose score is a gain times the sum of the pixels."""

    @nn.compact
    def __call__(self, x):
        return self.param("gain", nn.initializers.constant(0.01), ()) * x.sum((1, 2, 3), keepdims=True)


def test_critic_and_autoencoder_are_trained_by_one_term_each():
    net = KLAutoencoder(CONFIG)
    params = {"autoencoder": random_params(net, X), "critic": {"gain": jnp.float32(0.01)}}
    plain = jax.jit(jax.grad(lambda p: objectives.kl_autoencoder(net)(p, (), KEYS, BATCH)[0].mean()))(
        params["autoencoder"]
    )
    with_critic = objectives.kl_autoencoder(net, critic=Sum(), critic_weight=0.5)
    grads = jax.jit(jax.grad(lambda p: with_critic(p, (), KEYS, BATCH)[0].mean()))(params)

    @jax.jit
    def decoded(p):
        q = net.apply({"params": p}, X, method="encode")
        return net.apply({"params": p}, q.mean + q.std * samplers.normal(KEYS, q.mean.shape[1:]), method="decode")

    sums = lambda x: x.sum((1, 2, 3))
    generator = jax.grad(lambda p: -0.5 * (0.01 * sums(decoded(p))).mean())(params["autoencoder"])
    chex.assert_trees_all_close(grads["autoencoder"], jax.tree.map(jnp.add, plain, generator), rtol=1e-3, atol=1e-4)
    real, fake = sums(X), sums(decoded(params["autoencoder"]))
    expected = np.mean(np.where(1 - 0.01 * real > 0, -real, 0) + np.where(1 + 0.01 * fake > 0, fake, 0))
    chex.assert_trees_all_close(grads["critic"]["gain"], jnp.float32(expected), rtol=1e-3)


def test_critics_score_patches_separately():
    critic, x = PatchCritic(8, layers=2, groups=4), np.concatenate([X, X], 1).repeat(2, 2)
    params = random_params(critic, x)
    scores = critic.apply({"params": params}, x)
    assert scores.shape == (8, 2, 2, 1) and np.ptp(scores) > 1e-3


TOWER = {"width": 8, "layers": 1, "heads": 2}
NET = CLIP(
    CLIPConfig(
        TextConfig(**TOWER, vocabulary=20, length=4, end_token=19),
        VisionConfig(**TOWER, size=8, patch=4, mean=(0.5,), std=(0.5,)),
        projection=6,
    )
)
TOKENS = np.concatenate([RNG.integers(0, 19, (8, 3)), np.full((8, 1), 19)], 1)


def test_the_contrastive_loss_is_the_cross_entropy_in_both_directions():
    params = random_params(NET, TOKENS, X)
    texts, images, scale = (np.asarray(x, np.float64) for x in jax.jit(NET.apply)({"params": params}, TOKENS, X))
    logits = scale * texts @ images.T
    log_softmax = lambda x, axis: x - np.log(np.exp(x).sum(axis, keepdims=True))
    expected = -0.5 * np.diag(log_softmax(logits, 1) + log_softmax(logits, 0))
    loss, (_, metrics) = jax.jit(objectives.contrastive(NET))(params, (), None, {"tokens": TOKENS, "image": X})
    chex.assert_trees_all_close(loss, expected.astype(np.float32), rtol=1e-4)
    assert metrics["accuracy"].mean() == np.mean(logits.argmax(1) == np.arange(8))


def test_the_contrastive_loss_of_eight_devices_has_the_gradient_of_one():
    params, batch = random_params(NET, TOKENS, X), {"tokens": TOKENS, "image": X}
    gradient = lambda axis: jax.grad(lambda p, batch: objectives.contrastive(NET, axis)(p, (), None, batch)[0].mean())
    split = jax.tree.map(lambda x: x.reshape(8, 1, *x.shape[1:]), batch)
    mean = lambda batch: jax.lax.pmean(gradient("batch")(params, batch), "batch")
    eight = jax.tree.map(lambda x: x[0], jax.pmap(mean, axis_name="batch")(split))
    chex.assert_trees_all_close(eight, jax.jit(gradient(None))(params, batch), rtol=1e-3, atol=1e-5)


def test_the_scale_is_at_most_a_hundred():
    params = random_params(NET, TOKENS, X) | {"logit_scale": jnp.float32(9.0)}
    _, (_, metrics) = jax.jit(objectives.contrastive(NET))(params, (), None, {"tokens": TOKENS, "image": X})
    assert metrics["scale"].tolist() == pytest.approx([100.0] * 8)


def test_an_autoencoder_learns_in_a_few_steps():
    net = KLAutoencoder(dataclasses.replace(CONFIG, latent_channels=4))
    params = jax.jit(net.init)(jax.random.key(0), X)["params"]
    loss_fn, optimizer = objectives.kl_autoencoder(net), optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        (_, metrics), grads = jax.value_and_grad(
            lambda p: (lambda out: (out[0].mean(), out[1][1]))(loss_fn(p, (), KEYS, BATCH)), has_aux=True
        )(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, metrics["psnr"].mean()

    state, psnrs = optimizer.init(params), []
    for _ in range(60):
        params, state, value = step(params, state)
        psnrs.append(float(value))
    assert psnrs[-1] > psnrs[0] + 3


def test_psnr_of_a_known_error():
    np.testing.assert_allclose(psnr(jnp.zeros([2, 5]), jnp.full([2, 5], 2.0)), 0.0, atol=1e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: objectives.kl_autoencoder(KLAutoencoder(CONFIG), kl_weight=-1.0), "`kl_weight`"),
        (lambda: objectives.kl_autoencoder(KLAutoencoder(CONFIG), critic_weight=1.0), "0 without one"),
        (lambda: objectives.kl_autoencoder(KLAutoencoder(CONFIG), critic=Sum()), "above 0 with a critic"),
        (lambda: objectives.kl_autoencoder(KLAutoencoder(CONFIG), error="l3"), r"unknown error 'l3' \(one of"),
        (lambda: objectives.vq_autoencoder(VQAutoencoder(CONFIG), decay=1.0), "`decay`"),
    ],
)
def test_impossible_weights_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_hard_negatives_are_further_texts_of_the_second_softmax():
    """Equation (2) of the contrastive objective, in float64."""
    params = random_params(NET, TOKENS, X)
    wrong = np.stack([np.roll(TOKENS, 1, 0), np.roll(TOKENS, 3, 0), np.roll(TOKENS, 5, 0)], 1)
    encode = lambda tokens: np.asarray(NET.apply({"params": params}, tokens, method="encode_text"), np.float64)
    images = np.asarray(NET.apply({"params": params}, X, method="encode_image"), np.float64)
    scale = float(np.exp(params["logit_scale"]))
    log_softmax = lambda x: np.diag(x - np.log(np.exp(x).sum(1, keepdims=True)))
    texts = encode(TOKENS)
    more = np.stack([[images[i] @ one for one in encode(wrong[i])] for i in range(len(X))])
    by_image = scale * np.concatenate([images @ texts.T, more], 1)
    expected = -0.5 * (log_softmax(scale * texts @ images.T) + log_softmax(by_image))
    loss, _ = jax.jit(objectives.contrastive(NET))(
        params, (), None, {"tokens": TOKENS, "image": X, "hard_negatives": wrong}
    )
    chex.assert_trees_all_close(loss, expected.astype(np.float32), rtol=1e-4)
