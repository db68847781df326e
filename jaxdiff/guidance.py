"""Transforms of denoisers: Denoiser -> Denoiser, so that no sampler ever learns of them."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.schedules import Schedule
from jaxdiff.types import Denoiser, rows


def clip_x0(denoise: Denoiser, schedule: Schedule, lo: float = -1.0, hi: float = 1.0) -> Denoiser:
    """Keeps the predicted image in its range, as DDPM's sampler does (Ho et al. 2020, section 3.3 and its code).

        x0' = clip(x0, lo, hi),   eps' = (x_t - alpha_t x0') / sigma_t

    eps is worked out again, so that x_t = alpha_t x0' + sigma_t eps' still holds. Not for latents, which have no range, nor
    for inversion.

    Args:
      denoise: any denoiser.
      schedule: noise schedule it was made with.
      lo: smallest value of clean data; traced.
      hi: largest value of clean data; traced.

    Returns:
      `Denoiser`, a pytree.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.linear()
        >>> too_bright = lambda x_t, t, cond: jaxdiff.Prediction(x_t, x_t)
        >>> denoise = jaxdiff.guidance.clip_x0(too_bright, schedule)
        >>> float(denoise(jnp.full([1, 2], 3.0), 500, None).x0.max())
        1.0
    """
    if not isinstance(denoise, Partial):
        denoise = Partial(denoise)
    return Partial(_clip, denoise, schedule, jnp.asarray(lo, jnp.float32), jnp.asarray(hi, jnp.float32))


def _clip(denoise, schedule, lo, hi, x_t, t, cond=None):
    prediction = denoise(x_t, t, cond)
    x0 = jnp.clip(prediction.x0, lo, hi)
    alpha, sigma = jax.tree.map(lambda scale: rows(scale, x_t), schedule(t))
    # Where nothing was clipped eps stays as the network said it, to the last digit.
    eps = jnp.where(x0 == prediction.x0, prediction.eps, (x_t - alpha * x0) / sigma)
    return prediction._replace(x0=x0, eps=eps)
