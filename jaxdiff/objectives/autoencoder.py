"""Objectives of autoencoders: KL-regularised or vector-quantised latents, optionally with a critic.

(1)  KL:  L = |x - D(z)|^p / n + w KL(q(z | x) || N(0, 1)) / n,  z ~ q(z | x)          Rombach et al. 2022, appendix G
(2)  VQ:  L = |x - D(z_q)|^p / n + b |z_e - sg(z_q)|^2 / m                              van den Oord et al. 2017, eq. 3
     with n and m the numbers in an image and in its latent
(3)  with a critic C:  + w_C (-C(x')) and max(0, 1 - C(x)) + max(0, 1 + C(x')), x' the reconstruction   Esser et al. 2021
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxdiff.arguments import AT_LEAST_0, check_floats, check_number
from jaxdiff.errors import check_known
from jaxdiff.nets.kl_vae import KLAutoencoder, divergence
from jaxdiff.nets.vq_vae import VQAutoencoder, moved, perplexity, quantize
from jaxdiff.objectives.noising import to_unit_range
from jaxdiff.samplers import normal
from jaxdiff.types import Array

Error = Literal["l1", "l2"]
ERRORS = {"l1": jnp.abs, "l2": jnp.square}


def kl_autoencoder(
    net: KLAutoencoder,
    kl_weight: float = 1e-6,
    error: Error = "l2",
    critic: nn.Module | None = None,
    critic_weight: float = 0.0,
) -> Callable:
    """The objective of a `KLAutoencoder`, equation (1).

    Args:
      net: the autoencoder.
      kl_weight: w, at least 0.
      error: "l1" is p = 1, as published; "l2" is p = 2.
      critic: adversarial critic, images -> scores, such as a `PatchCritic`, equation (3); None is none.
      critic_weight: w_C; above 0 with a critic, whose loss is then the metric "critic".

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss [B], (extra, metrics)), metrics "loss", "psnr" in dB and "kl" in
      nats, float32 [B]. `params` are the autoencoder's, with a critic {"autoencoder": ..., "critic": ...};
      `batch["image"]` is uint8 [B, H, W, C], or float already in [-1, 1].

    Raises:
      ValueError: an unknown error, a weight below 0, a critic without critic_weight, or critic_weight without a critic.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import objectives
        >>> from jaxdiff.nets.autoencoder import AutoencoderConfig
        >>> from jaxdiff.nets.kl_vae import KLAutoencoder
        >>> net = KLAutoencoder(AutoencoderConfig(channels=(8, 16), blocks=1, groups=4))
        >>> x = jnp.zeros([2, 8, 8, 3])
        >>> params = jax.jit(net.init)(jax.random.key(0), x)["params"]
        >>> keys = jaxdiff.samplers.keys_for(jax.random.key(1), 2)
        >>> loss, _ = jax.jit(objectives.kl_autoencoder(net))(params, (), keys, {"image": x})
        >>> loss.shape
        (2,)
    """
    check_number("kl_weight", kl_weight, *AT_LEAST_0)

    def reconstruct(params, extra, keys, x):
        q = net.apply({"params": params}, x, method="encode")
        z, kl = q.mean + q.std * normal(keys, q.mean.shape[1:]), divergence(q)
        return net.apply({"params": params}, z, method="decode"), kl_weight * kl / x[0].size, extra, {"kl": kl}

    return _reconstruction(reconstruct, error, critic, critic_weight)


def vq_autoencoder(
    net: VQAutoencoder,
    commitment: float = 0.25,
    decay: float = 0.99,
    dead: float = 1.0,
    error: Error = "l2",
    critic: nn.Module | None = None,
    critic_weight: float = 0.0,
    axis_name: str | None = None,
) -> Callable:
    """The objective of a `VQAutoencoder`, equation (2), with a codebook updated by moving averages.

    Args:
      net: the autoencoder.
      commitment: b, at least 0.
      decay: decay of the codebook's moving averages, see `vq_vae.moved`.
      dead: a code whose moving count of latents is below this is dead, and replaced by a random latent; 0 is never.
      error: see `kl_autoencoder`.
      critic: see `kl_autoencoder`.
      critic_weight: see `kl_autoencoder`.
      axis_name: mapped axis of devices, over which the codebook's sums are taken; None for one device.

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss [B], (extra, metrics)), `extra` being a `vq_vae.Codebook`; metrics
      "loss", "psnr" in dB, "perplexity" of the moving counts and "used", the fraction of counts of at least 1, float32
      [B]. The key of the first example of all devices chooses the latents that replace dead codes.

    Raises:
      ValueError: as `kl_autoencoder`; a commitment below 0, or a decay outside of [0, 1).
    """
    check_number("commitment", commitment, *AT_LEAST_0)
    check_number("decay", decay, "lie in [0, 1)", lambda x: (x >= 0) & (x < 1))

    def reconstruct(params, book, keys, x):
        z = net.apply({"params": params}, x, method="encode")
        z_q, index = quantize(book.words, z)
        commit = _mean(jnp.square(z - lax.stop_gradient(z_q)))
        book = moved(book, _first(keys, axis_name), lax.stop_gradient(z), index, decay, dead, axis_name)
        used = jnp.broadcast_to(perplexity(book.count), commit.shape)
        metrics = {"perplexity": used, "used": jnp.broadcast_to((book.count >= 1).mean(), commit.shape)}
        return net.apply({"params": params}, z_q, method="decode"), commitment * commit, book, metrics

    return _reconstruction(reconstruct, error, critic, critic_weight)


def _reconstruction(reconstruct, error, critic, critic_weight):
    """loss_fn of reconstruct(params, extra, keys, x) -> (decoded, loss of the latents, extra, metrics)."""
    check_known("error", error, ERRORS)
    adversarial = _adversarial(critic, critic_weight)

    def loss_fn(params, extra, keys, batch):
        x = to_unit_range(batch["image"])
        own = params if critic is None else params["autoencoder"]
        decoded, of_latents, extra, metrics = reconstruct(own, extra, keys, x)
        of_critic, critic_metrics = adversarial(params, x, decoded)
        loss = _mean(ERRORS[error](x - decoded)) + of_latents + of_critic
        return loss, (extra, {"loss": loss, "psnr": psnr(x, decoded)} | metrics | critic_metrics)

    return loss_fn


def _first(keys, axis_name):
    """The key of the first example of all devices, which is the same on one device and on many."""
    if axis_name is None:
        return keys[0]
    return jax.random.wrap_key_data(lax.all_gather(jax.random.key_data(keys[0]), axis_name)[0])


def psnr(x: Array, y: Array) -> Array:
    """Peak signal-to-noise ratio of images in [-1, 1], 10 log10(4 / mean (x - y)^2), in dB; [B, ...] -> [B].

    Raises:
      ValueError: images of integers, or of two shapes.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.objectives.autoencoder import psnr
        >>> psnr(jnp.zeros([1, 2]), jnp.full([1, 2], 0.2)).round(3).tolist()
        [20.0]
    """
    for name, images in (("x", x), ("y", y)):
        check_floats(name, images)
    if x.shape != y.shape:
        raise ValueError(f"`y` must have the shape of `x`, {list(x.shape)}, not {list(y.shape)}")
    return 10 * jnp.log10(4 / jnp.maximum(_mean(jnp.square(x - y)), 1e-12))


def _mean(x):
    return x.mean(tuple(range(1, x.ndim)))


def _adversarial(critic, weight):
    """(params, x, decoded) -> (loss of equation (3), metrics); autoencoder and critic are trained by one term each."""
    check_number("critic_weight", weight, *AT_LEAST_0)
    if (weight > 0) != (critic is not None):
        raise ValueError(f"`critic_weight`={weight} must be above 0 with a critic, and 0 without one")
    if critic is None:
        return lambda params, x, decoded: (0.0, {})

    def loss(params, x, decoded):
        score = lambda params, x: critic.apply({"params": params}, x)
        generator = -_mean(score(lax.stop_gradient(params["critic"]), decoded))
        real, fake = (score(params["critic"], images) for images in (x, lax.stop_gradient(decoded)))
        hinge = _mean(nn.relu(1 - real)) + _mean(nn.relu(1 + fake))
        return weight * generator + hinge, {"critic": hinge}

    return loss
