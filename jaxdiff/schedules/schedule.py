"""A noise schedule: its tables, its scales at a level, and what may be asked of it."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.types import AlphaSigma, Array


class Schedule(NamedTuple):
    """Noise schedule: a pytree of tables with one row per level 0..T.

    Calling it returns the scales of a level.

    Attributes:
      betas: float32 [T + 1], variance of the step into a level, betas[0] = 0; equations (1) and (6).
      alphas_cumprod: float32 [T + 1], alpha^2, falling from 1 or constant; equation (2).
      alpha: float32 [T + 1].
      sigma: float32 [T + 1], from 0.
      bend: 1.0 where levels between two rows are on the circle alpha^2 + sigma^2 = 1, 0.0 where they are on the straight
        line between the two, as those of rectified flows and variance-exploding schedules.

    Example::

        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.linear()
        >>> schedule.num_levels
        1000
        >>> alpha, sigma = schedule(500)
        >>> round(float(alpha**2 + sigma**2), 5)
        1.0
    """

    betas: Array
    alphas_cumprod: Array
    alpha: Array
    sigma: Array
    bend: Array

    @property
    def num_levels(self) -> int:
        """T, the noisiest level."""
        return self.betas.shape[-1] - 1

    def std(self, t) -> Array:
        """Standard deviation of x_t of data with variance 1, sqrt(alpha_t^2 + sigma_t^2).

        Sampling begins with noise of this size: 1 where variance is preserved and at pure noise, about sigma_t of
        variance-exploding schedules.

        Args:
          t: int level in 0..T or float level in [0, T], any shape.

        Returns:
          float32, shape of t.

        Example::

            >>> from jaxdiff import schedules
            >>> float(schedules.from_alpha_sigma([1.0], [0.75]).std(1))
            1.25
        """
        size = jnp.hypot(*self(t))
        return jnp.where(self.bend == 1, jnp.ones_like(size), size)  # 1 without rounding

    def __call__(self, t) -> AlphaSigma:
        """Scales at level t.

        Integer levels are looked up. Float levels interpolate linearly in the angle atan2(sigma, alpha) where variance is
        preserved, so that alpha^2 + sigma^2 = 1 holds between levels too, and else in alpha and sigma; both are finite
        where the signal-to-noise ratio is zero. This includes [0, 1), between clean data and level 1; networks are trained
        on 1..T only.

        Args:
          t: int level in 0..T or float level in [0, T], any shape.

        Returns:
          `AlphaSigma` of float32 scales, of the shape of t; NaN at levels outside of these ranges.

        Example::

            >>> import math
            >>> import jaxdiff
            >>> schedule = jaxdiff.schedules.from_betas([0.5])  # an angle of 45 degrees at level 1
            >>> [round(math.degrees(math.atan2(*reversed(schedule(t)))), 3) for t in (0, 0.5, 1)]
            [0.0, 22.5, 45.0]
        """
        t = jnp.asarray(t)
        if jnp.issubdtype(t.dtype, jnp.integer):
            return AlphaSigma(lookup(self.alpha, t), lookup(self.sigma, t))
        low = jnp.clip(jnp.floor(t), 0, self.num_levels - 1).astype(jnp.int32)
        a, b = (AlphaSigma(lookup(self.alpha, i), lookup(self.sigma, i)) for i in (low, low + 1))
        turn = self.bend * (jnp.arctan2(b.sigma, b.alpha) - jnp.arctan2(a.sigma, a.alpha))
        w = jnp.where((t >= 0) & (t <= self.num_levels), t - low, jnp.nan)
        # The point at angle_a + w turn as a sum of a and b: a cosine would lose alpha's digits near pure noise. Where
        # `bend` is 0 the weights are 1 - w and w.
        weight = lambda w: w * jnp.sinc(w * turn / jnp.pi) / jnp.sinc(turn / jnp.pi)  # sin(w turn) / sin(turn)
        return AlphaSigma(*(weight(1 - w) * x + weight(w) * y for x, y in zip(a, b)))

    def level_of(self, at: AlphaSigma) -> Array:
        """The level with a ratio sigma / alpha: the inverse of calling the schedule, whatever the size of both.

        Args:
          at: scales, any shape; a ratio outside of the schedule's is clipped to that of level 0 or T.

        Returns:
          Float levels in [0, T], of that shape.

        Example::

            >>> from jaxdiff import schedules
            >>> schedule = schedules.rectified_flow(10)
            >>> round(float(schedule.level_of(schedule(7.3))), 4)
            7.3
        """
        xp = np if all(isinstance(x, np.ndarray) for x in (self.alpha, *at)) else jnp  # NumPy keeps float64
        alpha, sigma = (xp.asarray(table) for table in (self.alpha, self.sigma))
        # How many rows have less noise, by the sign of a cross product: angles near pi / 2 would lose digits.
        rows = AlphaSigma(*(table.reshape(*(1,) * np.ndim(at.alpha), -1) for table in (alpha, sigma)))
        behind = cross(rows, AlphaSigma(*(x[..., None] for x in map(xp.asarray, at)))) >= 0
        low = xp.clip(behind.sum(-1, dtype=np.int32) - 1, 0, self.num_levels - 1)
        a, b = (AlphaSigma(alpha[i], sigma[i]) for i in (low, low + 1))
        # Of the weights of `__call__` their quotient is known, that of two cross products.
        p, q = xp.maximum(cross(a, at), 0), xp.maximum(cross(at, b), 0)
        turn = self.bend * (xp.arctan2(b.sigma, b.alpha) - xp.arctan2(a.sigma, a.alpha))
        bent = turn > 1e-6
        w = xp.arctan2(p * xp.sin(turn), q + p * xp.cos(turn)) / xp.where(bent, turn, xp.ones_like(turn))
        return low + xp.where(bent, w, p / xp.where(p + q > 0, p + q, xp.ones_like(p)))


def cross(a, b):
    """Cross product of two (alpha, sigma): above 0 where b has more noise."""
    return a.alpha * b.sigma - a.sigma * b.alpha


def check_schedule(schedule, name: str = "schedule") -> None:
    """Raises TypeError for what is no `Schedule`, such as its name, or the function that makes one."""
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"`{name}` must be a Schedule, such as jaxdiff.schedules.linear(), not {type(schedule).__name__}"
        )


def lookup(table: Array, t) -> Array:
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
        >>> schedules.lookup(jnp.array([0.0, 0.25, 0.5]), jnp.array([2, 0, 3, -1])).tolist()
        [0.5, 0.0, nan, nan]
    """
    return jnp.asarray(table).at[t].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def equal(one: Schedule, other: Schedule) -> bool:
    """Returns True for schedules of the same process: equal numbers of levels and, up to rounding, scales.

    Raises:
      TypeError: one of them is no `Schedule`.
    """
    check_schedule(one, "one")
    check_schedule(other, "other")
    tables = [np.stack([schedule.alpha, schedule.sigma]) for schedule in (one, other)]
    return tables[0].shape == tables[1].shape and np.allclose(*tables, rtol=1e-5, atol=1e-6)


def preserves_variance(alpha, sigma) -> bool:
    """Returns True where alpha^2 + sigma^2 = 1, up to rounding of float32, in all rows of two tables."""
    return bool(np.all(np.abs(np.hypot(np.asarray(alpha, np.float64), np.asarray(sigma, np.float64)) - 1) < 1e-6))
