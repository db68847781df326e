"""Schedules of tables that are given: of variances of steps, of signal-to-noise ratios, of scales."""

import jax.numpy as jnp
import numpy as np

from jaxdiff.arguments import as_numbers, check_number
from jaxdiff.schedules.schedule import Schedule, cross, preserves_variance
from jaxdiff.types import AlphaSigma


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
    return of_betas("`betas`", as_numbers("betas", betas))


def of_betas(name, betas):
    """`from_betas` whose errors begin with the arguments that the betas were made of."""
    if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas <= 1)):
        wanted = "must be a non-empty vector of numbers" if name == "`betas`" else "must give betas"
        raise ValueError(f"{name} {wanted} in (0, 1]")
    betas = np.concatenate([[0.0], betas])
    alphas_cumprod = np.cumprod(1.0 - betas)
    return cast(name, betas, np.sqrt(alphas_cumprod), np.sqrt(1.0 - alphas_cumprod))


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
    return cast("`log_snr`", betas, alpha, sigma)


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
    return of_alpha_sigma("`alpha` and `sigma`", alpha, sigma, bend)


def of_alpha_sigma(name, alpha, sigma, bend=None):
    """`from_alpha_sigma` whose errors of single levels begin with the arguments that the tables were made of."""
    alpha, sigma = np.append(1.0, alpha), np.append(0.0, sigma)
    if not (np.all(np.diff(alpha) <= 0) and alpha[-1] >= 0):
        raise ValueError("`alpha` must lie in [0, 1] and not rise")
    with np.errstate(all="ignore"):  # refused below
        rises = cross(AlphaSigma(alpha[:-1], sigma[:-1]), AlphaSigma(alpha[1:], sigma[1:])) > 0
        rises &= np.isfinite(sigma[1:])
    if not np.all(rises):
        level = 1 + rises.argmin()
        raise ValueError(f"{name}: sigma / alpha must rise, and sigma is too small, or not finite, at level {level}")
    r = alpha[1:] / alpha[:-1]
    with np.errstate(all="ignore"):
        betas = np.concatenate([[0.0], (sigma[1:] - r * sigma[:-1]) * (sigma[1:] + r * sigma[:-1])])
    bend = float(preserves_variance(alpha, sigma)) if bend is None else bend
    return cast(name, betas, alpha, sigma, bend)


def cast(name, betas, alpha, sigma, bend=1.0):
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
