"""Dual diffusion implicit bridges: from one model's data to another's through the noise that they share; Su et al. 2023."""

from jaxdiff.editing.inversion import ddim_inversion
from jaxdiff.samplers import Sampler, ddim, sample
from jaxdiff.schedules import Schedule
from jaxdiff.types import Array, Denoiser


def bridge(
    denoise_a: Denoiser,
    denoise_b: Denoiser,
    schedule: Schedule,
    timesteps,
    x0: Array,
    cond_a=None,
    cond_b=None,
    inversion_sampler: Sampler | None = None,
    sampler: Sampler | None = None,
) -> Array:
    """Translates data of one model into data of another: up the flow of the first, down that of the second.

    Two conditions of one model are two models. Where both are Gaussian it is the map of optimal transport between them if
    their covariances commute (Su et al. 2023, section 3.3).

    Args:
      denoise_a: of the model whose data is given.
      denoise_b: of the model into whose data it is translated.
      schedule: the noise schedule of both.
      timesteps: levels, falling. Better down to T / 100 than to 0: the last step to clean data cannot be undone.
      x0: data of the first at the last level, float32 [B, ...].
      cond_a: conditions of the first.
      cond_b: conditions of the second.
      inversion_sampler: sampler for rising grids that draws nothing; `ddim_inversion()` by default. `heun` and
        `probability_flow_fixed` go up, too, on grids that end at level 1, and are of second order.
      sampler: `ddim()` by default.

    Returns:
      float32 [B, ...].

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import editing, testing
        >>> schedule, levels = jaxdiff.schedules.linear(), jaxdiff.timesteps.grid(1000, 200)
        >>> narrow, wide = testing.gaussian([0.0], 0.04), testing.gaussian([1.0], 1.0)  # variances
        >>> denoisers = narrow.denoiser(schedule), wide.denoiser(schedule)
        >>> x = editing.bridge(*denoisers, schedule, levels, jnp.array([[0.2], [0.4]]))
        >>> bool(jnp.allclose(x, jnp.array([[2.0], [3.0]]), atol=0.1))  # one and two standard deviations off the mean
        True
    """
    rising = timesteps[::-1]
    x_T, _ = sample(None, inversion_sampler or ddim_inversion(), denoise_a, schedule, rising, x0, cond_a)
    return sample(None, sampler or ddim(), denoise_b, schedule, timesteps, x_T, cond_b)[0]
