"""Schedules made of schedules: with a last level of pure noise, and shifted for larger images."""

import numpy as np

from jaxdiff.arguments import check_number
from jaxdiff.schedules.schedule import Schedule, check_schedule, preserves_variance
from jaxdiff.schedules.tables import cast, of_alpha_sigma


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
    return cast("`schedule`", betas, alpha, sigma)


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
        return of_alpha_sigma(name, alpha[1:], factor * sigma[1:])
    if np.all(np.abs(alpha + sigma - 1) < 1e-6):
        size = alpha + factor * sigma
        return of_alpha_sigma(name, (alpha / size)[1:], (factor * sigma / size)[1:], bend=0.0)
    if not preserves_variance(alpha, sigma):
        raise ValueError("`schedule` preserves neither variance nor alpha + sigma nor alpha: shift its tables yourself")
    # beta = sigma_t^2 (1 - snr_t / snr_{t-1}), and the ratio is unchanged: no difference of near-equal numbers.
    with np.errstate(all="ignore"):  # refused where the tables are cast
        size = np.hypot(alpha, factor * sigma)
        betas = np.minimum(betas * (factor / size) ** 2, 1.0)  # rounding of the tables may have made it more than 1
    return cast(name, betas, alpha / size, factor * sigma / size)
