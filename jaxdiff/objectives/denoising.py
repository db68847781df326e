"""The denoising objective: what almost every diffusion model is trained with."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.errors import unknown
from jaxdiff.process import KINDS, q_sample, target_for
from jaxdiff.schedules import Schedule
from jaxdiff.types import AlphaSigma, Apply, Array, rows


def simple(level: AlphaSigma, predict: str) -> Array:
    """DDPM's L_simple: every level counts the same, w = 1 (Ho et al. 2020, eq. 14).

    Args:
      level: scales of the levels, float32 [B].
      predict: what the network outputs; it makes no difference.

    Returns:
      Ones, float32 [B].

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.objectives.denoising import simple
        >>> simple(jaxdiff.schedules.linear()(jnp.array([1, 1000])), "eps").tolist()
        [1.0, 1.0]
    """
    del predict
    return jnp.ones_like(level.alpha)


def min_snr(level: AlphaSigma, predict: str, gamma: float = 5.0) -> Array:
    """The x0 error weighted by min(SNR, gamma), said in terms of the network's target (Hang et al. 2023, section 3.4).

    With snr = alpha^2 / sigma^2: min(snr, gamma) for "x0", divided by snr for "eps", by snr + 1 for "v", and the weight for
    "eps" times sigma^2 for "score". Levels at which the image is almost clean then count less, which is soon learnt well
    enough, and its shape more.

    Args:
      level: scales of the levels, sigma > 0, float32 [B].
      predict: what the network outputs, "eps", "x0", "v" or "score".
      gamma: the largest weight of the x0 error.

    Returns:
      w, float32 [B].

    Example::

        >>> import jaxdiff
        >>> from jaxdiff.objectives.denoising import min_snr
        >>> level = jaxdiff.schedules.from_betas([0.36])(1)  # alpha = 0.8, sigma = 0.6, snr = 16 / 9
        >>> {kind: round(float(min_snr(level, kind, gamma=1.0)), 4) for kind in ("x0", "eps", "v", "score")}
        {'x0': 1.0, 'eps': 0.5625, 'v': 0.36, 'score': 0.2025}
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
    """Mean squared error of a network's output at a random level, one value per example (Ho et al. 2020, algorithm 1).

        L = w(t) mean |target(x_0, eps, t) - f(x_t, t)|^2,   t ~ U{1..T},  eps ~ N(0, I),  x_t = alpha_t x_0 + sigma_t eps

    Args:
      apply: network as a function of its parameters, from `denoise.network`; its output has the shape of the image.
      schedule: noise schedule.
      predict: what the network is to output, "eps", "x0", "v" or "score".
      weighting: (AlphaSigma of [B], predict) -> w [B].
      null: what stands for no condition: a `Cond` like the batch's, whose leaves are one example's (no batch axis).
      drop: probability, in [0, 1], with which an example's condition is replaced by `null` (Ho and Salimans 2021).

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss, (extra, {"loss": loss})), loss float32 [B] and extra as it came.
      `batch["image"]` is uint8 [B, H, W, C], or float already in [-1, 1]; `batch["cond"]`, if there, is a `Cond`.

    Raises:
      ValueError: unknown kind; a drop without a null. From loss_fn: with a drop, `null` and the batch's `cond` differ in
        what they have; an output that is not of the image's shape.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.objectives.denoising import denoising
        >>> grey = lambda params, x_t, t, cond, keys=None: (jnp.full_like(x_t, params), None)
        >>> loss_fn = denoising(grey, jaxdiff.schedules.linear(), predict="x0")
        >>> batch = {"image": jnp.full([2, 8, 8, 1], 255, jnp.uint8)}  # white, 1 in [-1, 1]
        >>> loss, _ = loss_fn(0.5, (), jax.random.split(jax.random.key(0), 2), batch)
        >>> loss.tolist()  # (1 - 0.5)^2 at every level
        [0.25, 0.25]
    """
    if predict not in KINDS:
        raise unknown("kind of prediction", predict, KINDS)
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
        if output.shape != target.shape:
            raise ValueError(f"the network's output {output.shape} is not of the images' shape {target.shape}")
        error = jnp.square(output - target).mean(tuple(range(1, target.ndim)))
        loss = weighting(schedule(t), predict) * error
        return loss, (extra, {"loss": loss})

    return loss_fn


def to_unit_range(image: Array) -> Array:
    """uint8 images to floats in [-1, 1]: image / 127.5 - 1 (Ho et al. 2020, section 3.3).

    Args:
      image: uint8 in 0..255, any shape; anything of another type is taken to be in [-1, 1] already.

    Returns:
      float32 in [-1, 1], same shape; another type than uint8 comes back as it is.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.objectives.denoising import to_unit_range
        >>> to_unit_range(jnp.array([0, 255], jnp.uint8)).tolist()
        [-1.0, 1.0]
    """
    return image.astype(jnp.float32) / 127.5 - 1.0 if image.dtype == jnp.uint8 else image


def _fold(keys, data):
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)
