"""Dual diffusion implicit bridges: image translation through the noise that two models share (Su et al. 2023)."""

from jaxdiff.editing.inversion import ddim_inversion
from jaxdiff.samplers import Sampler, ddim, sample
from jaxdiff.samplers.base import check_levels, check_x
from jaxdiff.schedules import Schedule, check_schedule
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
    """Translates data of model a into data of model b: from data to noise by the flow of a, and back by that of b.

    One model with two conditions counts as two models. Between Gaussians whose covariances commute, the translation is the
    optimal transport map (Su et al. 2023, section 3.3).

    Args:
      denoise_a: denoiser of the data that is given.
      denoise_b: denoiser of the data that is wanted.
      schedule: the noise schedule of both.
      timesteps: levels, descending. Grids that end at T / 100 are better than those that end at 0, because the last step
        to clean data cannot be inverted.
      x0: data of model a at the last level, float32 [B, ...].
      cond_a: conditions of model a.
      cond_b: conditions of model b.
      inversion_sampler: deterministic sampler for ascending grids; None is `ddim_inversion()`. `heun` and
        `probability_flow_fixed`, of second order, also ascend, on grids that end at level 1.
      sampler: deterministic sampler for descending grids; None is `ddim()`.

    Returns:
      float32 [B, ...].

    Raises:
      ValueError: an x0 of integers; levels that do not fall; otherwise as `sample`.
      TypeError: as `sample`.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import editing, testing
        >>> schedule, levels = jaxdiff.schedules.linear(), jaxdiff.timesteps.grid(1000, 200)
        >>> narrow, wide = testing.gaussian([0.0], 0.04), testing.gaussian([1.0], 1.0)  # variances
        >>> denoisers = narrow.denoiser(schedule), wide.denoiser(schedule)
        >>> x = editing.bridge(*denoisers, schedule, levels, jnp.array([[0.2], [0.4]]))
        >>> bool(jnp.allclose(x, jnp.array([[2.0], [3.0]]), atol=0.1))  # one and two standard deviations from the mean
        True
    """
    check_schedule(schedule)
    check_x("x0", x0)
    levels, up = check_levels(timesteps, schedule), inversion_sampler or ddim_inversion()
    x_T, _ = sample(None, up, denoise_a, schedule, levels[::-1], x0, cond_a, rising=True)
    return sample(None, sampler or ddim(), denoise_b, schedule, levels, x_T, cond_b)[0]
