"""The denoising objective: what almost every diffusion model is trained with."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.process import KINDS, q_sample, target_for
from jaxdiff.schedules import Schedule
from jaxdiff.types import AlphaSigma, Apply, Array, rows


def simple(level: AlphaSigma, predict: str) -> Array:
    """DDPM's L_simple: every level counts the same (Ho et al. 2020, eq. 14)."""
    del predict
    return jnp.ones_like(level.alpha)


def min_snr(level: AlphaSigma, predict: str, gamma: float = 5.0) -> Array:
    """The x0 error weighted by min(SNR, gamma), said in terms of the network's target (Hang et al. 2023, section 3.4).

    With snr = alpha^2 / sigma^2: min(snr, gamma) for "x0", divided by snr for "eps" and by snr + 1 for "v". Levels at which
    the image is almost clean then count less, which is soon learnt well enough, and its shape more.
    """
    snr = jnp.square(level.alpha / level.sigma)
    if predict == "x0":
        return jnp.minimum(snr, gamma)
    if predict == "v":
        return jnp.minimum(snr, gamma) / (snr + 1)
    for_eps = jnp.where(snr > gamma, gamma / snr, 1.0)
    return for_eps * jnp.square(level.sigma) if predict == "score" else for_eps


WEIGHTINGS = {"simple": simple, "min_snr": min_snr}


def denoising(
    apply: Apply,
    schedule: Schedule,
    predict: str = "eps",
    weighting: Callable[[AlphaSigma, str], Array] = simple,
    null=None,
    drop: float = 0.0,
) -> Callable:
    """Mean squared error of a network's output at a random level, one value per example.

        L = w(t) |target(x_0, eps, t) - f(x_t, t)|^2,   t ~ U{1..T},  eps ~ N(0, I),  x_t = alpha_t x_0 + sigma_t eps

    Args:
      apply: network as a function of its parameters, from `denoise.network`.
      schedule: noise schedule.
      predict: what the network is to output, "eps", "x0", "v" or "score".
      weighting: (AlphaSigma of [B], predict) -> w [B].
      null: what stands for no condition: a `Cond` whose leaves are one example's (no batch axis).
      drop: probability with which an example's condition is replaced by `null` (Ho and Salimans 2021).

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss [B], (extra, metrics)). `batch["image"]` is uint8 [B, H, W, C], or
      float already in [-1, 1]; `batch["cond"]`, if there, is a `Cond`.

    Raises:
      ValueError: unknown kind; a drop without a null.
    """
    if predict not in KINDS:
        raise ValueError(f"unknown kind of prediction {predict!r}: one of {', '.join(KINDS)}")
    if drop and null is None:
        raise ValueError("drop needs a null condition to put in the place of the dropped ones")

    def loss_fn(params, extra, keys, batch):
        x0, cond = to_unit_range(batch["image"]), batch.get("cond")
        level_keys, noise_keys, drop_keys, net_keys = (_fold(keys, i) for i in range(4))
        t = jax.vmap(lambda key: jax.random.randint(key, (), 1, schedule.num_steps + 1))(level_keys)
        eps = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(noise_keys)
        if drop:
            dropped = jax.vmap(lambda key: jax.random.bernoulli(key, drop))(drop_keys)
            cond = jax.tree.map(lambda no, yes: jnp.where(rows(dropped, yes), no, yes), null, cond)
        x_t = jax.vmap(q_sample, (None, 0, 0, 0))(schedule, x0, t, eps)
        target = jax.vmap(functools.partial(target_for, predict), (None, 0, 0, 0))(schedule, x0, eps, t)
        output, _ = apply(params, x_t, t, cond, keys=net_keys)
        error = jnp.square(output - target).mean(tuple(range(1, target.ndim)))
        loss = weighting(schedule(t), predict) * error
        return loss, (extra, {"loss": loss})

    return loss_fn


def to_unit_range(image: Array) -> Array:
    """uint8 images in 0..255 to float32 in [-1, 1]; floats are taken to be there already."""
    return image.astype(jnp.float32) / 127.5 - 1.0 if image.dtype == jnp.uint8 else image


def _fold(keys, data):
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)
