"""Which levels a sampler visits: falling grids from near T down to `end`."""

import numpy as np

from jaxdiff.errors import unknown
from jaxdiff.schedules import Schedule


def _leading(T, N, offset):
    return 1 + offset + np.arange(N)[::-1] * (T // N)


def _trailing(T, N, offset):
    return np.round(T - np.arange(N) * (T / N)) + offset


def _linspace(T, N, offset):
    return 1 + np.round(np.linspace(0, T - 1, N))[::-1] + offset


def _quadratic(T, N, offset):
    return 1 + np.floor(np.linspace(0, np.sqrt(0.8 * T), N) ** 2)[::-1] + offset


SPACINGS = {"leading": _leading, "trailing": _trailing, "linspace": _linspace, "quadratic": _quadratic}


def grid(
    num_levels: int,
    num_steps: int,
    spacing: str = "trailing",
    offset: int = 0,
    start: int | None = None,
    end: int = 0,
) -> np.ndarray:
    """Levels that a sampler visits, falling, the last being `end`.

    With T levels and N steps the levels before the last are

    * ``leading``: 1 + offset + i (T // N), i < N (DDPM's and DDIM's papers; Stable Diffusion with offset 1, end 1)
    * ``trailing``: round(T - i T / N), i < N (Lin et al. 2024, table 2); begins at T
    * ``linspace``: 1 + round(linspace(0, T - 1, N)); begins at T (a single step is taken at level 1)
    * ``quadratic``: 1 + floor(linspace(0, sqrt(0.8 T), N)^2) (Song et al. 2021, appendix D.2); begins near 0.8 T

    For spacings of the noise itself, between the levels of training, see `grid_by_sigma`.

    Args:
      num_levels: T, the number of levels the network was trained on.
      num_steps: N, how many steps to take.
      spacing: one of the names above.
      offset: added to the levels, in published timesteps.
      start: spread the levels over 1..start in place of 1..T, as SDEdit and image-to-image do.
      end: last level; 0 is clean data.

    Returns:
      int32 NumPy array [N + 1].

    Raises:
      ValueError: unknown spacing, more steps than levels, or a grid that repeats a level or leaves end..T.

    Example::

        >>> from jaxdiff import timesteps
        >>> timesteps.grid(1000, 4).tolist()
        [1000, 750, 500, 250, 0]
    """
    if spacing not in SPACINGS:
        raise unknown("spacing", spacing, SPACINGS)
    top = num_levels if start is None else start
    if not 1 <= top <= num_levels:
        raise ValueError(f"start={top} is not one of the levels 1..{num_levels}")
    if not 1 <= num_steps <= top:
        raise ValueError(f"num_steps={num_steps} must be from 1 to {top}, the number of levels")
    levels = np.append(SPACINGS[spacing](top, num_steps, offset), end).astype(np.int32)
    if np.any(np.diff(levels) >= 0):
        raise ValueError(f"{num_steps} {spacing} steps down to level {end} repeat a level: use fewer steps")
    if levels[0] > num_levels or end < 0:
        raise ValueError(
            f"offset={offset} and end={end} lead outside of the levels 0..{num_levels}: "
            "use fewer steps or a smaller offset"
        )
    return levels


def _karras(top, bottom, u, rho):
    return ((1 - u) * top ** (1 / rho) + u * bottom ** (1 / rho)) ** rho


def _exponential(top, bottom, u, rho):
    return top ** (1 - u) * bottom**u


SIGMA_SPACINGS = {"karras": _karras, "exponential": _exponential}


def grid_by_sigma(
    schedule: Schedule,
    num_steps: int,
    spacing: str = "karras",
    rho: float = 7.0,
    start: float | None = None,
    end: int = 1,
) -> np.ndarray:
    """Levels at which the noise, as lambda = sigma / alpha, is spaced by a formula; they fall between those of training.

    From lambda_max at level `start` to lambda_min at level 1, both of them visited, at even u from 0 to 1:

    * ``karras``: lambda^(1/rho) = (1 - u) lambda_max^(1/rho) + u lambda_min^(1/rho) (Karras et al. 2022, eq. 5)
    * ``exponential``: lambda = lambda_max^(1 - u) lambda_min^u, even steps of log-SNR; the limit of large rho

    A level is where `schedule`, which interpolates in the angle, has this lambda, to 1e-4 of it; except where the last step
    to level T is long (cosine, sigmoid): many levels then fall within it, as close as float32 allows. Start at T - 1 there.

    Args:
      schedule: noise schedule; not traced.
      num_steps: N, how many steps to take.
      spacing: one of the names above.
      rho: above 0; of ``karras`` only. A larger one takes shorter steps at low noise.
      start: where to begin, in [1, T], T if None; a schedule with zero terminal signal-to-noise ratio needs one below T.
      end: last level, 1 or 0. 0 is one step further, from level 1 to clean data.

    Returns:
      float32 NumPy array [N + 1], falling strictly.

    Raises:
      ValueError: unknown spacing; a rho that is not above 0, or not read; a start outside of [1, T] or at pure noise;
        another end; no steps, or more than float32 levels can tell apart.

    Example::

        >>> from jaxdiff import schedules, timesteps
        >>> levels = timesteps.grid_by_sigma(schedules.linear(), 4)
        >>> [round(float(level), 1) for level in levels]
        [1000.0, 844.4, 594.0, 142.8, 1.0]
    """
    if spacing not in SIGMA_SPACINGS:
        raise unknown("spacing", spacing, SIGMA_SPACINGS)
    if not rho > 0 or (spacing != "karras" and rho != 7.0):
        raise ValueError(f"rho={rho} must be above 0, and left at 7 with spacings other than 'karras'")
    T = schedule.num_levels
    start = T if start is None else start
    if not 1 <= start <= T or end not in (0, 1):
        raise ValueError(f"start={start} must be a level from 1 to {T}, and end={end} either 1 or 0")
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    angles = np.arctan2(np.asarray(schedule.sigma, np.float64), np.asarray(schedule.alpha, np.float64))
    top, bottom = np.interp(start, np.arange(T + 1), angles), angles[1]
    if top >= np.pi / 2:
        raise ValueError(f"sigma / alpha is infinite at level {start}, pure noise: start below it, such as at {T - 1}")
    ratios = SIGMA_SPACINGS[spacing](np.tan(top), np.tan(bottom), np.linspace(0, 1, num_steps + end), rho)
    levels = np.interp(np.arctan(ratios), angles, np.arange(T + 1)).astype(np.float32)
    levels = np.append(levels, np.zeros(1 - end, np.float32))
    if np.any(np.diff(levels) >= 0):
        raise ValueError(f"{num_steps} steps from level {start} to {end} repeat a level: use fewer steps")
    return levels
