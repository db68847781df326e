r"""Noise schedules as tables over T + 1 levels, level 0 being clean data.

  (1)  q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)          Ho et al. 2020, eq. 2
  (2)  alphabar_t = prod_{i <= t} (1 - beta_i),  alphabar_0 = 1
  (3)  alpha_t = sqrt(alphabar_t),  sigma_t = sqrt(1 - alphabar_t)       x_t = alpha_t x_0 + sigma_t eps

Tables are computed once in float64 and cast to float32.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.arguments import check_type, plain
from jaxdiff.registry import Registry
from jaxdiff.types import AlphaSigma, Array

SCHEDULES = Registry("schedule")  # each choice is called as choice(num_levels) -> Schedule


class Schedule(NamedTuple):
    """Variance-preserving noise schedule: a pytree of tables with one row per level 0..T.

    Calling it returns the scales of a level, equation (3).

    Attributes:
      betas: float32 [T + 1], in [0, 1], betas[0] = 0; equation (1).
      alphas_cumprod: float32 [T + 1], falling from 1; equation (2).
      alpha: float32 [T + 1], square root of `alphas_cumprod`.
      sigma: float32 [T + 1], square root of one minus it, computed in float64.

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

    @property
    def num_levels(self) -> int:
        """T, the noisiest level."""
        return self.betas.shape[-1] - 1

    def __call__(self, t) -> AlphaSigma:
        """Scales at level t, equation (3).

        Integer levels are looked up. Float levels interpolate linearly in the angle atan2(sigma, alpha), which is
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
            return AlphaSigma(lookup(self.alpha, t), lookup(self.sigma, t))
        low = jnp.clip(jnp.floor(t), 0, self.num_levels - 1).astype(jnp.int32)
        a, b = (AlphaSigma(lookup(self.alpha, i), lookup(self.sigma, i)) for i in (low, low + 1))
        turn = jnp.arctan2(b.sigma, b.alpha) - jnp.arctan2(a.sigma, a.alpha)
        w = jnp.where((t >= 0) & (t <= self.num_levels), t - low, jnp.nan)
        # The point at angle_a + w turn as a sum of a and b: a cosine would lose alpha's digits near pure noise.
        weight = lambda w: w * jnp.sinc(w * turn / jnp.pi) / jnp.sinc(turn / jnp.pi)  # sin(w turn) / sin(turn)
        return AlphaSigma(*(weight(1 - w) * x + weight(w) * y for x, y in zip(a, b)))


def check_schedule(schedule) -> None:
    """Raises TypeError for what is no `Schedule`, such as its name, or the function that makes one."""
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"`schedule` must be a Schedule, such as jaxdiff.schedules.linear(), not {type(schedule).__name__}"
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
        raise ValueError("`betas` must be a non-empty vector of numbers in (0, 1]")
    betas = np.concatenate([[0.0], betas])
    alphas_cumprod = np.cumprod(1.0 - betas)
    return _cast(betas, np.sqrt(alphas_cumprod), np.sqrt(1.0 - alphas_cumprod))


def from_log_snr(log_snr) -> Schedule:
    """Schedule with given log signal-to-noise ratios l_t = log(alpha_t^2 / sigma_t^2), variance-preserving.

        alpha_t^2 = sigmoid(l_t),   sigma_t^2 = sigmoid(-l_t),   beta_t = sigma_t^2 (1 - exp(l_t - l_{t-1})),   l_0 = inf
                                                                          Kingma et al. 2021 (VDM), section 3.2

    Args:
      log_snr: l_1..l_T, [T], falling, from -40 to 40, beyond which float32 angles are not accurate; the last may be -inf,
        which is a zero terminal signal-to-noise ratio.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: log_snr is not a non-empty vector of falling numbers in this range.

    Example::

        >>> import math
        >>> from jaxdiff import schedules
        >>> schedule = schedules.from_log_snr([math.log(4), 0.0, -math.inf])
        >>> [round(float(abar), 4) for abar in schedule.alphas_cumprod]
        [1.0, 0.8, 0.5, 0.0]
    """
    log_snr = np.asarray(log_snr, np.float64)
    in_range = (np.abs(log_snr) <= 40) | (log_snr == -np.inf)
    if log_snr.ndim != 1 or log_snr.size == 0 or not np.all(in_range) or not np.all(log_snr[1:] < log_snr[:-1]):
        raise ValueError("`log_snr` must be a non-empty vector of falling numbers from -40 to 40; the last may be -inf")
    log_snr = np.concatenate([[np.inf], log_snr])
    alpha, sigma = (np.exp(-0.5 * np.logaddexp(0, l)) for l in (-log_snr, log_snr))
    betas = np.concatenate([[0.0], -(sigma[1:] ** 2) * np.expm1(np.diff(log_snr))])
    return _cast(betas, alpha, sigma)


def _cast(betas, alpha, sigma):
    """Float64 tables as a `Schedule`."""
    return Schedule(*(jnp.asarray(table, jnp.float32) for table in (betas, alpha**2, alpha, sigma)))


@SCHEDULES.register("linear", leave_out=("num_levels",))
def linear(num_levels: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Linear beta, as in DDPM.

        beta_t = beta_start + (beta_end - beta_start) (t - 1) / (T - 1)        Ho et al. 2020, section 4

    Args:
      num_levels: T; the defaults of the betas are meant for 1000.
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
    num_levels = check_type("`num_levels`", plain(num_levels), int)
    return from_betas(np.linspace(beta_start, beta_end, num_levels))


@SCHEDULES.register("scaled_linear", leave_out=("num_levels",))
def scaled_linear(num_levels: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """Linear sqrt(beta), as in latent diffusion and Stable Diffusion.

        sqrt(beta_t) = sqrt(beta_start) + (sqrt(beta_end) - sqrt(beta_start)) (t - 1) / (T - 1)    Rombach et al. 2022

    Args:
      num_levels: T; the defaults of the betas are meant for 1000.
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
    num_levels = check_type("`num_levels`", plain(num_levels), int)
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, num_levels) ** 2)


@SCHEDULES.register("cosine", leave_out=("num_levels",))
def cosine(num_levels: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """Cosine schedule; "squaredcos_cap_v2" in diffusers.

        alphabar_t = f(t) / f(0),   f(t) = cos^2((t/T + s) / (1 + s) pi/2)        Nichol and Dhariwal 2021, eq. 17

    Args:
      num_levels: T.
      s: small offset that keeps beta_1 from vanishing.
      beta_max: upper limit of beta, in (0, 1], which takes effect in the last steps.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, or a beta outside of (0, 1].

    Example::

        >>> from jaxdiff import schedules
        >>> round(float(schedules.cosine(100, s=0.0).alphas_cumprod[50]), 4)  # cos^2(pi / 4)
        0.5
    """
    num_levels = check_type("`num_levels`", plain(num_levels), int)
    alphas_cumprod = np.cos((np.arange(num_levels + 1) / num_levels + s) / (1 + s) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], beta_max))


@SCHEDULES.register("sigmoid", leave_out=("num_levels",))
def sigmoid(
    num_levels: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0, clip_min: float = 1e-9
) -> Schedule:
    """Sigmoid schedule: alphabar falls as a section of a sigmoid, slowly at both ends.

        alphabar_t = max(clip_min, (v_T - v_t) / (v_T - v_0)),   v_t = sigmoid((start + (end - start) t / T) / tau)
                                                           Jabri, Fleet and Chen 2022; Chen 2023 (noise scheduling)

    Args:
      num_levels: T.
      start: argument of the sigmoid at level 0.
      end: argument at level T, above `start`.
      tau: temperature, above 0; a smaller one is steeper in the middle.
      clip_min: lower limit of alphabar, reached at level T; 0 gives a zero terminal signal-to-noise ratio.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: `start` is not below `end`, tau not above 0, T below 1, or two levels have the same alphabar.

    Example::

        >>> from jaxdiff import schedules
        >>> round(float(schedules.sigmoid(100).alphas_cumprod[50]), 4)  # halfway by symmetry
        0.5
    """
    num_levels = check_type("`num_levels`", plain(num_levels), int)
    if not (start < end and tau > 0):
        raise ValueError(f"`start`={start} must be below `end`={end}, and `tau`={tau} above 0")
    v = 1 / (1 + np.exp(-np.linspace(start, end, num_levels + 1) / tau))
    alphas_cumprod = np.maximum((v[-1] - v) / (v[-1] - v[0]), clip_min)
    if not np.all(np.diff(alphas_cumprod) < 0):
        raise ValueError(
            f"levels repeat with `tau`={tau} and `clip_min`={clip_min}: use a larger `tau` or a smaller `clip_min`"
        )
    return from_betas(1 - alphas_cumprod[1:] / alphas_cumprod[:-1])


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shifts and scales alpha so that level T is pure noise and level 1 is unchanged (Lin et al. 2024, algorithm 1).

        alpha'_t = alpha_1 (alpha_t - alpha_T) / (alpha_1 - alpha_T)   for t >= 1

    Train and sample with predictions "v" or "x0": at level T "eps" does not determine x0.

    Args:
      schedule: noise schedule of at least two levels; not traced.

    Returns:
      `Schedule` of the same length, alpha[T] = 0 and betas[T] = 1.

    Raises:
      ValueError: the schedule has a single level.

    Example::

        >>> from jaxdiff import schedules
        >>> schedule = schedules.zero_terminal_snr(schedules.from_betas([0.36, 0.36, 0.36]))  # 0.8, 0.64, 0.512
        >>> [round(float(alpha), 4) for alpha in schedule.alpha]
        [1.0, 0.8, 0.3556, 0.0]
    """
    if schedule.num_levels < 2:
        raise ValueError(
            "`schedule` must have at least two levels: the first is unchanged, the last becomes pure noise"
        )
    betas, alpha = (np.asarray(table, np.float64) for table in (schedule.betas, schedule.alpha))
    # Through the decreases alpha_{t-1} - alpha_t, all positive: differences of float32 tables would lose digits.
    decrease = alpha[:-1] * betas[1:] / (1 + alpha[1:] / alpha[:-1])
    decrease[1:] *= (1 - decrease[0]) / decrease[1:].sum()
    alpha = np.append(np.cumsum(decrease[::-1])[::-1], 0.0)
    sigma = np.append(0.0, np.sqrt(np.cumsum(decrease) * (1 + alpha[1:])))  # (1 - alpha) (1 + alpha)
    betas = np.append(0.0, decrease * (alpha[:-1] + alpha[1:]) / alpha[:-1] ** 2)
    return _cast(betas, alpha, sigma)


def shift(schedule: Schedule, factor: float) -> Schedule:
    """Shifts the log-SNR of a schedule to another image size, since larger images need more noise to hide the same signal.

        log_snr'_t = log_snr_t - 2 log(factor)        Hoogeboom, Heek and Salimans 2023 (simple diffusion), section 3.1

    As a ratio this is sigma' / alpha' = factor sigma / alpha, which also holds at clean data and at pure noise.

    Args:
      schedule: noise schedule; not traced.
      factor: new side / old side, above 0.

    Returns:
      `Schedule` of the same length.

    Raises:
      ValueError: a factor that is not a finite number above 0.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import schedules
        >>> schedule = schedules.from_log_snr([2.0, 1.0, 0.0])
        >>> levels = schedules.shift(schedule, 2.0)(jnp.arange(4))  # lower by 2 log(2) = 1.3863
        >>> [round(float(l), 4) for l in levels.log_snr]
        [inf, 0.6137, -0.3863, -1.3863]
    """
    if not 0 < factor < np.inf:
        raise ValueError(f"`factor`={factor} must be a finite number above 0, such as new side / old side")
    betas, _, alpha, sigma = (np.asarray(table, np.float64) for table in schedule)
    size = np.hypot(alpha, factor * sigma)
    # beta = sigma_t^2 (1 - snr_t / snr_{t-1}), and the ratio is unchanged: no difference of near-equal numbers.
    betas = np.minimum(betas * (factor / size) ** 2, 1.0)  # rounding of the tables may have made it more than 1
    return _cast(betas, alpha / size, factor * sigma / size)
