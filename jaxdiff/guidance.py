"""Transforms of denoisers: Denoiser -> Denoiser, so that no sampler ever learns of them."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.schedules import Schedule
from jaxdiff.types import Denoiser, as_partial, rows


def clip_x0(denoise: Denoiser, schedule: Schedule, lo: float = -1.0, hi: float = 1.0) -> Denoiser:
    """Keeps the predicted image in its range, as DDPM's sampler does (Ho et al. 2020, section 3.3 and its code).

        x0' = clip(x0, lo, hi),   eps' = (x_t - alpha_t x0') / sigma_t

    eps is worked out again, so that x_t = alpha_t x0' + sigma_t eps' still holds. Not for latents, which have no range, nor
    for inversion.

    Args:
      denoise: any denoiser.
      schedule: noise schedule it was made with.
      lo: smallest value of clean data, at most `hi`; traced.
      hi: largest value of clean data; traced.

    Returns:
      `Denoiser`, a pytree: (x_t [B, ...], t scalar or [B], cond) -> `Prediction` with x0 in [lo, hi], eps of the same shape
      and `aux` as it was. At level 0 the eps of what was clipped is not finite.

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
    return Partial(_clip, as_partial(denoise), schedule, jnp.asarray(lo, jnp.float32), jnp.asarray(hi, jnp.float32))


def _clip(denoise, schedule, lo, hi, x_t, t, cond=None):
    prediction = denoise(x_t, t, cond)
    x0 = jnp.clip(prediction.x0, lo, hi)
    alpha, sigma = jax.tree.map(lambda scale: rows(scale, x_t), schedule(t))
    # Where nothing was clipped eps stays as the network said it, to the last digit.
    eps = jnp.where(x0 == prediction.x0, prediction.eps, (x_t - alpha * x0) / sigma)
    return prediction._replace(x0=x0, eps=eps)
