"""Thresholds: limit the predicted image to the range of images."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.arguments import check_number
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Array, Denoiser, Prediction, as_partial, is_traced, rows


def clip_x0(denoise: Denoiser, schedule: Schedule, lo: float = -1.0, hi: float = 1.0) -> Denoiser:
    """Clips the predicted image, as DDPM's sampler does (Ho et al. 2020, section 3.3 and its code).

        x0' = clip(x0, lo, hi),   eps' = (x_t - alpha_t x0') / sigma_t

    eps is recomputed so that x_t = alpha_t x0' + sigma_t eps' still holds. Not for latents, which have no fixed range, nor
    for inversion.

    Args:
      denoise: any denoiser.
      schedule: its noise schedule.
      lo: smallest value of clean data, at most `hi`; traced.
      hi: largest value of clean data; traced.

    Returns:
      `Denoiser`, a pytree: (x_t [B, ...], t scalar or [B], cond) -> `Prediction` with x0 in [lo, hi], eps of the same shape
      and unchanged `aux`. At level 0 eps is not finite where x0 was clipped.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: limits that are no numbers, or a lo above hi, unless they are traced.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.from_betas([0.36])  # alpha_1 = 0.8, sigma_1 = 0.6
        >>> too_bright = lambda x_t, t, cond: jaxdiff.process.predict_from("x0", schedule, x_t + 1, x_t, t)
        >>> denoise = jaxdiff.guidance.clip_x0(too_bright, schedule)
        >>> x0, eps, _ = denoise(jnp.array([[2.0]]), 1, None)
        >>> float(x0[0, 0]), round(float(eps[0, 0]), 4)  # (2 - 0.8 * 1) / 0.6
        (1.0, 2.0)
    """
    check_schedule(schedule)
    for name, limit in (("lo", lo), ("hi", hi)):
        check_number(name, limit, "be a number", lambda x: ~np.isnan(x))
    if not (is_traced(lo) or is_traced(hi)) and lo > hi:
        raise ValueError(f"`lo`={lo} must be at most `hi`={hi}")
    return Partial(
        _clip, as_partial(denoise, "denoise"), schedule, jnp.asarray(lo, jnp.float32), jnp.asarray(hi, jnp.float32)
    )


def dynamic_threshold(denoise: Denoiser, schedule: Schedule, percentile: float = 99.5) -> Denoiser:
    """Dynamic thresholding: limits the predicted image to [-1, 1] by its own range; strong guidance saturates it less.

        x0' = clip(x0, -c, c) / c,   c = max(1, percentile of |x0|),   eps' = (x_t - alpha_t x0') / sigma_t
                                                                     Saharia et al. 2022 (Imagen), section 2.3

    Each example has its own c. Not for latents, which have no fixed range, nor for inversion.

    Args:
      denoise: any denoiser.
      schedule: its noise schedule.
      percentile: in (1, 100], so that Imagen's 0.995 is 99.5; traced.

    Returns:
      `Denoiser`, a pytree: (x_t [B, ...], t scalar or [B], cond) -> `Prediction` with x0 in [-1, 1], eps of the same shape
      and unchanged `aux`. At level 0 eps is not finite where x0 was changed.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: a percentile outside of (1, 100], unless it is traced.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.from_betas([0.36])  # alpha_1 = 0.8, sigma_1 = 0.6
        >>> same = lambda x_t, t, cond: jaxdiff.process.predict_from("x0", schedule, x_t, x_t, t)
        >>> denoise = jaxdiff.guidance.dynamic_threshold(same, schedule, 75)
        >>> denoise(jnp.array([[0.5, -1.0, 2.0, 0.0, 9.0]]), 1, None).x0.tolist()  # c = 2
        [[0.25, -0.5, 1.0, 0.0, 1.0]]
    """
    check_schedule(schedule)
    check_number("percentile", percentile, "lie in (1, 100]: Imagen's is 99.5", lambda x: (x > 1) & (x <= 100))
    return Partial(_threshold, as_partial(denoise, "denoise"), schedule, jnp.asarray(percentile, jnp.float32))


def with_x0(prediction: Prediction, x0: Array, schedule: Schedule, x_t: Array, t) -> Prediction:
    """Replaces x0 of a prediction, and eps with it so that x_t = alpha x0 + sigma eps.

    Args:
      prediction: leaves [B, ...].
      x0: the new x0, same shape.
      schedule: noise schedule.
      x_t: the input of the prediction, same shape.
      t: level, scalar or [B].

    Returns:
      `Prediction`; where x0 is unchanged, so is eps, exactly.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.guidance.threshold import with_x0
        >>> schedule = jaxdiff.schedules.from_betas([0.36])  # alpha_1 = 0.8, sigma_1 = 0.6
        >>> x = jnp.array([[2.0]])
        >>> round(float(with_x0(jaxdiff.Prediction(x, 0 * x), x / 2, schedule, x, 1).eps[0, 0]), 4)
        2.0
    """
    alpha, sigma = jax.tree.map(lambda scale: rows(scale, x_t), schedule(t))
    eps = jnp.where(x0 == prediction.x0, prediction.eps, (x_t - alpha * x0) / sigma)
    return prediction._replace(x0=x0, eps=eps)


def _clip(denoise, schedule, lo, hi, x_t, t, cond=None):
    prediction = denoise(x_t, t, cond)
    return with_x0(prediction, jnp.clip(prediction.x0, lo, hi), schedule, x_t, t)


def _threshold(denoise, schedule, percentile, x_t, t, cond=None):
    prediction = denoise(x_t, t, cond)
    size = jnp.abs(prediction.x0).reshape(x_t.shape[0], -1)
    c = rows(jnp.maximum(1.0, jnp.percentile(size, percentile, axis=1)), x_t)
    return with_x0(prediction, jnp.clip(prediction.x0, -c, c) / c, schedule, x_t, t)
