r"""Noise schedules as tables over T + 1 levels, level 0 being clean data.

  (1)  q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)          Ho et al. 2020, eq. 2
  (2)  alphabar_t = prod_{i <= t} (1 - beta_i),  alphabar_0 = 1
  (3)  alpha_t = sqrt(alphabar_t),  sigma_t = sqrt(1 - alphabar_t)       x_t = alpha_t x_0 + sigma_t eps

Tables are computed once in float64 and cast to float32.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.types import AlphaSigma, Array


class Schedule(NamedTuple):
    """A variance-preserving noise schedule: a pytree of tables with one row per level 0..T.

    Calling it gives the scales of a level, equation (3).

    Attributes:
      betas: float32 [T + 1], in [0, 1], betas[0] = 0; equation (1).
      alphas_cumprod: float32 [T + 1], falling from 1; equation (2).
      alpha: float32 [T + 1], square root of `alphas_cumprod`.
      sigma: float32 [T + 1], square root of one minus it, computed in float64.

    Example::

        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.linear()
        >>> schedule.num_steps
        1000
        >>> alpha, sigma = schedule(500)
        >>> round(float(alpha**2 + sigma**2), 5)
        1.0
    """

    betas: Array
    alphas_cumprod: Array
    alpha: Array
    sigma: Array

    @property
    def num_steps(self) -> int:
        """T, the noisiest level."""
        return self.betas.shape[-1] - 1

    def __call__(self, t) -> AlphaSigma:
        """Scales at level t, equation (3).

        Integer levels read the table. Float levels interpolate linearly in the angle atan2(sigma, alpha), which is
        continuous and finite even where the signal-to-noise ratio is zero; alpha^2 + sigma^2 = 1 holds between levels too.
        This includes [0, 1), where the angle rises from clean data to level 1; networks are trained on 1..T only.

        Args:
          t: int level in 0..T or float level in [0, T], any shape.

        Returns:
          `AlphaSigma` of float32 scales in [0, 1], of the shape of t; NaN at levels outside of these ranges.

        Example::

            >>> import math
            >>> import jaxdiff
            >>> schedule = jaxdiff.schedules.from_betas([0.5])  # an angle of 45 degrees at level 1
            >>> [round(math.degrees(math.atan2(*reversed(schedule(t)))), 3) for t in (0, 0.5, 1)]
            [0.0, 22.5, 45.0]
        """
        t = jnp.asarray(t)
        if jnp.issubdtype(t.dtype, jnp.integer):
            return AlphaSigma(read(self.alpha, t), read(self.sigma, t))
        low = jnp.clip(jnp.floor(t), 0, self.num_steps - 1).astype(jnp.int32)
        angles = [jnp.arctan2(read(self.sigma, i), read(self.alpha, i)) for i in (low, low + 1)]
        angle = angles[0] + (t - low) * (angles[1] - angles[0])
        angle = jnp.where((t >= 0) & (t <= self.num_steps), angle, jnp.nan)
        return AlphaSigma(jnp.cos(angle), jnp.sin(angle))


def read(table: Array, t) -> Array:
    """Rows of a table at integer levels.

    Args:
      table: one number per level, float [T + 1].
      t: int levels, any shape.

    Returns:
      table[t], of the shape of t and the table's dtype; NaN at levels outside of 0..T, negative ones included.

    Raises:
      TypeError: t is not of an integer type.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import schedules
        >>> schedules.read(jnp.array([0.0, 0.25, 0.5]), jnp.array([2, 0, 3, -1])).tolist()
        [0.5, 0.0, nan, nan]
    """
    return jnp.asarray(table).at[t].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def from_betas(betas) -> Schedule:
    """Schedule with given step variances, equations (1) to (3).

    Args:
      betas: beta_1..beta_T, [T], each in (0, 1]; a last value of 1 is a zero terminal signal-to-noise ratio.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: betas are not a non-empty vector of numbers in (0, 1].

    Example::

        >>> from jaxdiff import schedules
        >>> schedule = schedules.from_betas([0.36, 0.36])  # sqrt(1 - 0.36) = 0.8
        >>> [round(float(alpha), 4) for alpha in schedule.alpha]
        [1.0, 0.8, 0.64]
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas <= 1)):
        raise ValueError("betas must be a non-empty vector of numbers in (0, 1]")
    betas = np.concatenate([[0.0], betas])
    alphas_cumprod = np.cumprod(1.0 - betas)
    tables = betas, alphas_cumprod, np.sqrt(alphas_cumprod), np.sqrt(1.0 - alphas_cumprod)
    return Schedule(*(jnp.asarray(table, jnp.float32) for table in tables))


def linear(num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta rising linearly, as in DDPM; its defaults are made for 1000 steps.

        beta_t = beta_start + (beta_end - beta_start) (t - 1) / (T - 1)        Ho et al. 2020, section 4

    Args:
      num_steps: T.
      beta_start: beta_1, in (0, 1].
      beta_end: beta_T, in (0, 1].

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, or a beta outside of (0, 1].

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(beta), 4) for beta in schedules.linear(3, 0.1, 0.3).betas]
        [0.0, 0.1, 0.2, 0.3]
    """
    return from_betas(np.linspace(beta_start, beta_end, num_steps))


def scaled_linear(num_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """sqrt(beta) rising linearly, as in latent diffusion and Stable Diffusion.

        sqrt(beta_t) = sqrt(beta_start) + (sqrt(beta_end) - sqrt(beta_start)) (t - 1) / (T - 1)    Rombach et al. 2022

    Args:
      num_steps: T; the defaults are made for 1000.
      beta_start: beta_1, in (0, 1].
      beta_end: beta_T, in (0, 1].

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, or a beta outside of (0, 1].

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(beta), 4) for beta in schedules.scaled_linear(3, 0.01, 0.09).betas]
        [0.0, 0.01, 0.04, 0.09]
    """
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, num_steps) ** 2)


def cosine(num_steps: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """alphabar following cos^2((t/T + s) / (1 + s) pi/2), Nichol and Dhariwal 2021, eq. 17; "squaredcos_cap_v2".

    Args:
      num_steps: T.
      s: small offset that keeps beta_1 from vanishing.
      beta_max: largest beta, in (0, 1], which bounds the last step.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, or a beta outside of (0, 1].

    Example::

        >>> from jaxdiff import schedules
        >>> round(float(schedules.cosine(100, s=0.0).alphas_cumprod[50]), 4)  # cos^2(pi / 4)
        0.5
    """
    alphas_cumprod = np.cos((np.arange(num_steps + 1) / num_steps + s) / (1 + s) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], beta_max))
