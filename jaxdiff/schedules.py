r"""Noise schedules as tables over T + 1 levels, level 0 being clean data: x_t = alpha_t x_0 + sigma_t eps.

Variance-preserving ones, alpha^2 + sigma^2 = 1, are made of the variances of their steps:

  (1)  q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)          Ho et al. 2020, eq. 2
  (2)  alphabar_t = prod_{i <= t} (1 - beta_i),  alphabar_0 = 1
  (3)  alpha_t = sqrt(alphabar_t),  sigma_t = sqrt(1 - alphabar_t)

Others have a falling or constant alpha and a rising sigma / alpha (Kingma et al. 2021, VDM, section 3.1):

  (4)  alpha_t = 1 - t/T,  sigma_t = t/T               rectified flow, Liu et al. 2022; Lipman et al. 2022
  (5)  alpha_t = 1,  sigma_t rising                    variance-exploding, Song et al. 2021; EDM, Karras et al. 2022
  (6)  q(x_t | x_{t-1}) = N(r x_{t-1}, beta_t I),  r = alpha_t / alpha_{t-1},  beta_t = sigma_t^2 - r^2 sigma_{t-1}^2

Tables are computed once in float64 and cast to float32.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.arguments import ABOVE_0, AT_LEAST_0, as_numbers, check_count, check_number
from jaxdiff.registry import Registry
from jaxdiff.types import AlphaSigma, Array

SCHEDULES = Registry("schedule")  # each choice is called as choice(num_levels) -> Schedule


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
        behind = _cross(rows, AlphaSigma(*(x[..., None] for x in map(xp.asarray, at)))) >= 0
        low = xp.clip(behind.sum(-1, dtype=np.int32) - 1, 0, self.num_levels - 1)
        a, b = (AlphaSigma(alpha[i], sigma[i]) for i in (low, low + 1))
        # Of the weights of `__call__` their quotient is known, that of two cross products.
        p, q = xp.maximum(_cross(a, at), 0), xp.maximum(_cross(at, b), 0)
        turn = self.bend * (xp.arctan2(b.sigma, b.alpha) - xp.arctan2(a.sigma, a.alpha))
        bent = turn > 1e-6
        w = xp.arctan2(p * xp.sin(turn), q + p * xp.cos(turn)) / xp.where(bent, turn, xp.ones_like(turn))
        return low + xp.where(bent, w, p / xp.where(p + q > 0, p + q, xp.ones_like(p)))


def _cross(a, b):
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


def from_betas(betas) -> Schedule:
    """Schedule with given step variances, equations (1) to (3).

    Args:
      betas: beta_1..beta_T, [T], each in (0, 1]; a last value of 1 is a zero terminal signal-to-noise ratio.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: betas are not a non-empty vector of numbers in (0, 1], or make levels that float32 cannot hold or tell
        apart.

    Example::

        >>> from jaxdiff import schedules
        >>> schedule = schedules.from_betas([0.36, 0.36])  # sqrt(1 - 0.36) = 0.8
        >>> [round(float(alpha), 4) for alpha in schedule.alpha]
        [1.0, 0.8, 0.64]
    """
    return _from_betas("`betas`", as_numbers("betas", betas))


def _from_betas(name, betas):
    """`from_betas` whose errors begin with the arguments that the betas were made of."""
    if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas <= 1)):
        wanted = "must be a non-empty vector of numbers" if name == "`betas`" else "must give betas"
        raise ValueError(f"{name} {wanted} in (0, 1]")
    betas = np.concatenate([[0.0], betas])
    alphas_cumprod = np.cumprod(1.0 - betas)
    return _cast(name, betas, np.sqrt(alphas_cumprod), np.sqrt(1.0 - alphas_cumprod))


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
      ValueError: log_snr is not a non-empty vector of falling numbers in this range, or float32 cannot tell two apart.

    Example::

        >>> import math
        >>> from jaxdiff import schedules
        >>> schedule = schedules.from_log_snr([math.log(4), 0.0, -math.inf])
        >>> [round(float(abar), 4) for abar in schedule.alphas_cumprod]
        [1.0, 0.8, 0.5, 0.0]
    """
    log_snr = as_numbers("log_snr", log_snr)
    in_range = (np.abs(log_snr) <= 40) | (log_snr == -np.inf)
    if log_snr.ndim != 1 or log_snr.size == 0 or not np.all(in_range) or not np.all(log_snr[1:] < log_snr[:-1]):
        raise ValueError("`log_snr` must be a non-empty vector of falling numbers from -40 to 40; the last may be -inf")
    log_snr = np.concatenate([[np.inf], log_snr])
    alpha, sigma = (np.exp(-0.5 * np.logaddexp(0, l)) for l in (-log_snr, log_snr))
    betas = np.concatenate([[0.0], -(sigma[1:] ** 2) * np.expm1(np.diff(log_snr))])
    return _cast("`log_snr`", betas, alpha, sigma)


def from_alpha_sigma(alpha, sigma, bend: float | None = None) -> Schedule:
    """Schedule with given scales of data and of noise, which need not preserve the variance.

    Args:
      alpha: alpha_1..alpha_T, [T], in [0, 1] and not rising; a last value of 0 is pure noise.
      sigma: sigma_1..sigma_T, [T], above 0, sigma / alpha rising.
      bend: see `Schedule`; None is 1.0 where variance is preserved, 0.0 elsewhere.

    Returns:
      `Schedule` with T + 1 levels, level 0 having alpha = 1 and sigma = 0.

    Raises:
      ValueError: tables of other shapes, an alpha that rises or is below 0, a sigma / alpha that does not rise, levels that
        float32 cannot hold or tell apart, or a bend that is neither 0 nor 1.

    Example::

        >>> from jaxdiff import schedules
        >>> schedule = schedules.from_alpha_sigma([1.0, 1.0], [0.5, 2.0])  # variance-exploding
        >>> [round(float(x), 4) for x in (schedule(1.5).sigma, schedule.betas[2])]
        [1.25, 3.75]
    """
    alpha, sigma = as_numbers("alpha", alpha), as_numbers("sigma", sigma)
    if alpha.ndim != 1 or not alpha.size or alpha.shape != sigma.shape:
        shapes = f"{list(alpha.shape)} and {list(sigma.shape)}"
        raise ValueError(f"`alpha` and `sigma` must be vectors [T] of the same length, not of shapes {shapes}")
    if bend is not None:
        check_number("bend", bend, "be 0 or 1", lambda x: (x == 0) | (x == 1))
    return _from_alpha_sigma("`alpha` and `sigma`", alpha, sigma, bend)


def _from_alpha_sigma(name, alpha, sigma, bend=None):
    """`from_alpha_sigma` whose errors of single levels begin with the arguments that the tables were made of."""
    alpha, sigma = np.append(1.0, alpha), np.append(0.0, sigma)
    if not (np.all(np.diff(alpha) <= 0) and alpha[-1] >= 0):
        raise ValueError("`alpha` must lie in [0, 1] and not rise")
    with np.errstate(all="ignore"):  # refused below
        rises = _cross(AlphaSigma(alpha[:-1], sigma[:-1]), AlphaSigma(alpha[1:], sigma[1:])) > 0
        rises &= np.isfinite(sigma[1:])
    if not np.all(rises):
        level = 1 + rises.argmin()
        raise ValueError(f"{name}: sigma / alpha must rise, and sigma is too small, or not finite, at level {level}")
    r = alpha[1:] / alpha[:-1]
    with np.errstate(all="ignore"):
        betas = np.concatenate([[0.0], (sigma[1:] - r * sigma[:-1]) * (sigma[1:] + r * sigma[:-1])])
    bend = float(preserves_variance(alpha, sigma)) if bend is None else bend
    return _cast(name, betas, alpha, sigma, bend)


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


def _cast(name, betas, alpha, sigma, bend=1.0):
    """Float64 tables as a `Schedule`.

    Raises:
      ValueError: float32 would round numbers to 0 or infinity, or two levels to one; it begins with `name`.
    """
    with np.errstate(all="ignore"):
        tables = [np.asarray(table, np.float32) for table in (betas, alpha**2, alpha, sigma)]
    least = np.finfo(np.float32).tiny
    held = np.all([(table >= least) & np.isfinite(table) for table in tables], axis=0)
    held |= (alpha == 0) & (tables[0] >= least) & np.isfinite(tables[3])  # pure noise
    held[0] = True
    apart = np.append(True, np.any([table[1:] != table[:-1] for table in tables[2:]], axis=0))
    if not np.all(held & apart):
        level = int((held & apart).argmin())
        found = f"alpha={alpha[level]:.4g}, sigma={sigma[level]:.4g} and beta={betas[level]:.4g}"
        why = "is the same as the one before in float32" if held[level] else "is not within what float32 holds"
        raise ValueError(f"{name}: level {level}, of {found}, {why}")
    return Schedule(*map(jnp.asarray, tables), jnp.asarray(bend, jnp.float32))


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
      ValueError: T is below 1, a beta outside of (0, 1], or levels that float32 cannot hold or tell apart.

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(beta), 4) for beta in schedules.linear(3, 0.1, 0.3).betas]
        [0.0, 0.1, 0.2, 0.3]
    """
    num_levels = check_count("num_levels", num_levels)
    _check_betas(beta_start=beta_start, beta_end=beta_end)
    name = f"`num_levels`={num_levels}, `beta_start`={beta_start} and `beta_end`={beta_end}"
    return _from_betas(name, np.linspace(beta_start, beta_end, num_levels))


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
      ValueError: T is below 1, a beta outside of (0, 1], or levels that float32 cannot hold or tell apart.

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(beta), 4) for beta in schedules.scaled_linear(3, 0.01, 0.09).betas]
        [0.0, 0.01, 0.04, 0.09]
    """
    num_levels = check_count("num_levels", num_levels)
    _check_betas(beta_start=beta_start, beta_end=beta_end)
    name = f"`num_levels`={num_levels}, `beta_start`={beta_start} and `beta_end`={beta_end}"
    return _from_betas(name, np.linspace(beta_start**0.5, beta_end**0.5, num_levels) ** 2)


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
      ValueError: T is below 1, an s below 0, a beta outside of (0, 1], or levels that float32 cannot hold or tell apart.

    Example::

        >>> from jaxdiff import schedules
        >>> round(float(schedules.cosine(100, s=0.0).alphas_cumprod[50]), 4)  # cos^2(pi / 4)
        0.5
    """
    num_levels = check_count("num_levels", num_levels)
    check_number("s", s, *AT_LEAST_0)
    _check_betas(beta_max=beta_max)
    alphas_cumprod = np.cos((np.arange(num_levels + 1) / num_levels + s) / (1 + s) * np.pi / 2) ** 2
    betas = np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], beta_max)
    return _from_betas(f"`num_levels`={num_levels}, `s`={s} and `beta_max`={beta_max}", betas)


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
    num_levels = check_count("num_levels", num_levels)
    for name, number in (("start", start), ("end", end), ("tau", tau), ("clip_min", clip_min)):
        check_number(name, number)
    if not (start < end and tau > 0):
        raise ValueError(f"`start`={start} must be below `end`={end}, and `tau`={tau} above 0")
    with np.errstate(all="ignore"):  # refused below
        v = 1 / (1 + np.exp(-np.linspace(start, end, num_levels + 1) / tau))
        alphas_cumprod = np.maximum((v[-1] - v) / (v[-1] - v[0]), clip_min)
    if not np.all(np.diff(alphas_cumprod) < 0):
        raise ValueError(
            f"levels repeat with `tau`={tau} and `clip_min`={clip_min}: use a larger `tau` or a smaller `clip_min`"
        )
    name = f"`start`={start}, `end`={end}, `tau`={tau} and `clip_min`={clip_min}"
    return _from_betas(name, 1 - alphas_cumprod[1:] / alphas_cumprod[:-1])


@SCHEDULES.register("rectified_flow", leave_out=("num_levels",))
def rectified_flow(num_levels: int = 1000) -> Schedule:
    """The straight path from data to noise of rectified flow and flow matching.

        alpha_t = 1 - t/T,   sigma_t = t/T                            Liu et al. 2022; Lipman et al. 2022

    For larger images more noise: `shift`, which Stable Diffusion 3 sets to 3 at 1024 pixels.

    Args:
      num_levels: T.

    Returns:
      `Schedule` with T + 1 levels, the last of them pure noise: train and sample with predictions "flow", "v" or "x0".

    Raises:
      ValueError: T is below 1.

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(x), 4) for x in schedules.rectified_flow(10)(2.5)]
        [0.75, 0.25]
    """
    num_levels = check_count("num_levels", num_levels)
    t = np.arange(1, num_levels + 1)
    return _from_alpha_sigma(f"`num_levels`={num_levels}", (num_levels - t) / num_levels, t / num_levels, bend=0.0)


@SCHEDULES.register("variance_exploding", leave_out=("num_levels",))
def variance_exploding(num_levels: int = 1000, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
    """Geometrically rising noise on unscaled data: the variance-exploding process.

        alpha_t = 1,   sigma_t = sigma_min (sigma_max / sigma_min)^((t - 1) / (T - 1))      Song et al. 2021 (score SDE)

    Args:
      num_levels: T.
      sigma_min: sigma_1, above 0.
      sigma_max: sigma_T, about the largest distance of two examples.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, or sigmas that are not above 0 and rising, or that float32 cannot hold or tell apart.

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(x), 4) for x in schedules.variance_exploding(3, 0.01, 1.0).sigma]
        [0.0, 0.01, 0.1, 1.0]
    """
    return _exploding(num_levels, sigma_min, sigma_max, np.log, np.exp)


@SCHEDULES.register("edm", leave_out=("num_levels",))
def edm(num_levels: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """EDM's noise levels on unscaled data, spaced by a power rho.

        alpha_t = 1,   sigma_t^(1/rho) even from sigma_min^(1/rho) to sigma_max^(1/rho)     Karras et al. 2022, eq. 5

    Args:
      num_levels: T.
      sigma_min: sigma_1, above 0.
      sigma_max: sigma_T.
      rho: above 0; a larger one has more levels of little noise.

    Returns:
      `Schedule` with T + 1 levels.

    Raises:
      ValueError: T is below 1, a rho that is not above 0, or sigmas that are not above 0 and rising, or that float32 cannot
        hold or tell apart.

    Example::

        >>> from jaxdiff import schedules
        >>> [round(float(x), 3) for x in schedules.edm(4).sigma]
        [0.0, 0.002, 0.47, 9.723, 80.0]
    """
    check_number("rho", rho, *ABOVE_0)
    rho = np.float64(rho)  # which is infinite where a float of Python raises
    return _exploding(num_levels, sigma_min, sigma_max, lambda x: x ** (1 / rho), lambda x: x**rho, f", `rho`={rho}")


def _check_betas(**betas):
    for name, beta in betas.items():
        check_number(name, beta, "lie in (0, 1]", lambda x: (x > 0) & (x <= 1))


def _exploding(num_levels, sigma_min, sigma_max, there, back, more=""):
    """Schedule of alpha = 1 and of sigmas that are even in a variable."""
    num_levels = check_count("num_levels", num_levels)
    check_number("sigma_min", sigma_min)
    check_number("sigma_max", sigma_max)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"`sigma_min`={sigma_min} must be above 0 and below `sigma_max`={sigma_max}")
    with np.errstate(all="ignore"):
        sigma = back(np.linspace(there(sigma_max), there(sigma_min), num_levels)[::-1])  # a single level has sigma_max
    name = f"`num_levels`={num_levels}, `sigma_min`={sigma_min} and `sigma_max`={sigma_max}{more}"
    return _from_alpha_sigma(name, np.ones(num_levels), sigma)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shifts and scales alpha so that level T is pure noise and level 1 is unchanged (Lin et al. 2024, algorithm 1).

        alpha'_t = alpha_1 (alpha_t - alpha_T) / (alpha_1 - alpha_T)   for t >= 1

    Train and sample with predictions "v" or "x0": at level T "eps" does not determine x0.

    Args:
      schedule: variance-preserving noise schedule of at least two levels; not traced.

    Returns:
      `Schedule` of the same length, alpha[T] = 0 and betas[T] = 1.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: the schedule has a single level, or does not preserve the variance.

    Example::

        >>> from jaxdiff import schedules
        >>> schedule = schedules.zero_terminal_snr(schedules.from_betas([0.36, 0.36, 0.36]))  # 0.8, 0.64, 0.512
        >>> [round(float(alpha), 4) for alpha in schedule.alpha]
        [1.0, 0.8, 0.3556, 0.0]
    """
    check_schedule(schedule)
    if schedule.num_levels < 2:
        raise ValueError(
            "`schedule` must have at least two levels: the first is unchanged, the last becomes pure noise"
        )
    if not preserves_variance(schedule.alpha, schedule.sigma):
        raise ValueError(
            "`schedule` does not preserve the variance: rectified flows end in pure noise, and others never"
        )
    betas, alpha = (np.asarray(table, np.float64) for table in (schedule.betas, schedule.alpha))
    # Through the decreases alpha_{t-1} - alpha_t, all positive: differences of float32 tables would lose digits.
    decrease = alpha[:-1] * betas[1:] / (1 + alpha[1:] / alpha[:-1])
    decrease[1:] *= (1 - decrease[0]) / decrease[1:].sum()
    alpha = np.append(np.cumsum(decrease[::-1])[::-1], 0.0)
    sigma = np.append(0.0, np.sqrt(np.cumsum(decrease) * (1 + alpha[1:])))  # (1 - alpha) (1 + alpha)
    betas = np.append(0.0, decrease * (alpha[:-1] + alpha[1:]) / alpha[:-1] ** 2)
    return _cast("`schedule`", betas, alpha, sigma)


def shift(schedule: Schedule, factor: float) -> Schedule:
    """Shifts the log-SNR of a schedule to another image size, since larger images need more noise to hide the same signal.

        log_snr'_t = log_snr_t - 2 log(factor)        Hoogeboom, Heek and Salimans 2023 (simple diffusion), section 3.1

    As a ratio this is sigma' / alpha' = factor sigma / alpha, which also holds at clean data and at pure noise. Of
    rectified flows it is Stable Diffusion 3's shift, sigma' = factor sigma / (1 + (factor - 1) sigma) (Esser et al. 2024).

    Args:
      schedule: noise schedule; not traced.
      factor: new side / old side, above 0.

    Returns:
      `Schedule` of the same length that preserves what the other does: variance, alpha + sigma = 1, or alpha = 1.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: a factor that is not a finite number above 0, or after which float32 cannot hold the levels or tell them
        apart; a schedule that preserves none of these.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import schedules
        >>> schedule = schedules.from_log_snr([2.0, 1.0, 0.0])
        >>> levels = schedules.shift(schedule, 2.0)(jnp.arange(4))  # lower by 2 log(2) = 1.3863
        >>> [round(float(l), 4) for l in levels.log_snr]
        [inf, 0.6137, -0.3863, -1.3863]
    """
    check_schedule(schedule)
    wanted = "be a finite number above 0, such as new side / old side"
    check_number("factor", factor, wanted, lambda x: (x > 0) & np.isfinite(x))
    betas, _, alpha, sigma, _ = (np.asarray(table, np.float64) for table in schedule)
    name, factor = f"`factor`={factor}", np.float64(factor)
    if np.all(alpha == 1):
        return _from_alpha_sigma(name, alpha[1:], factor * sigma[1:])
    if np.all(np.abs(alpha + sigma - 1) < 1e-6):
        size = alpha + factor * sigma
        return _from_alpha_sigma(name, (alpha / size)[1:], (factor * sigma / size)[1:], bend=0.0)
    if not preserves_variance(alpha, sigma):
        raise ValueError("`schedule` preserves neither variance nor alpha + sigma nor alpha: shift its tables yourself")
    # beta = sigma_t^2 (1 - snr_t / snr_{t-1}), and the ratio is unchanged: no difference of near-equal numbers.
    with np.errstate(all="ignore"):  # refused where the tables are cast
        size = np.hypot(alpha, factor * sigma)
        betas = np.minimum(betas * (factor / size) ** 2, 1.0)  # rounding of the tables may have made it more than 1
    return _cast(name, betas, alpha / size, factor * sigma / size)
