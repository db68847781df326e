"""Grids of levels for sampling: falling from near T to `end`.

`levels` makes a grid of a registered spacing, with the options of that spacing; `grid` and `grid_by_sigma` are the two
families of spacings as plain functions.
"""

from typing import Literal

import numpy as np

from jaxdiff.arguments import check_count, check_type, plain
from jaxdiff.errors import check_known
from jaxdiff.registry import Choice, Registry
from jaxdiff.schedules import Schedule
from jaxdiff.types import AlphaSigma

SPACINGS = Registry("spacing")  # each choice is called as choice(schedule, num_steps) -> levels [N + 1]


def levels(spacing: str | Choice, schedule: Schedule, num_steps: int) -> np.ndarray:
    """Levels that a sampler visits, falling to clean data unless the spacing has another `end`.

    Args:
      spacing: name of one of `SPACINGS`, for its default options, or a `Choice` of one.
      schedule: noise schedule of T levels; not traced.
      num_steps: N, the number of sampling steps.

    Returns:
      NumPy array [N + 1], int32, or float32 where levels lie between those of training.

    Raises:
      ValueError: unknown spacing; numbers for which there is no such grid, see `grid` and `grid_by_sigma`.

    Example::

        >>> from jaxdiff import schedules, timesteps
        >>> timesteps.levels("trailing", schedules.linear(), 4).tolist()
        [1000, 750, 500, 250, 0]
        >>> timesteps.levels(timesteps.SPACINGS["leading"](offset=1, end=1), schedules.linear(), 4).tolist()
        [752, 502, 252, 2, 1]
    """
    return SPACINGS.choice(spacing)(schedule, num_steps)


@SPACINGS.register("trailing")
def trailing(schedule: Schedule, num_steps: int, start: int | None = None, end: int = 0) -> np.ndarray:
    """Even steps from level T: round(T - i T / N), i < N (Lin et al. 2024, table 2).

    Args:
      schedule: noise schedule of T levels.
      num_steps: N.
      start: level that takes the place of T; None is T.
      end: last level; 0 is clean data.

    Returns:
      int32 [N + 1]; see `grid`.
    """
    return grid(schedule.num_levels, num_steps, "trailing", start=start, end=end)


@SPACINGS.register("leading")
def leading(
    schedule: Schedule,
    num_steps: int,
    offset: int = 0,
    start: int | None = None,
    end: int = 0,
    drop_lowest: bool = False,
) -> np.ndarray:
    """Even steps of whole length: 1 + offset + i (T // N), i < N, as in DDPM's and DDIM's papers.

    Args:
      schedule: noise schedule of T levels.
      num_steps: N.
      offset: added to the levels; Stable Diffusion has offset 1 and end 1.
      start: level that takes the place of T; None is T.
      end: last level; 0 is clean data.
      drop_lowest: the lowest of N + 1 levels is not visited, as in DPM-Solver++ and UniPC of diffusers.

    Returns:
      int32 [N + 1]; see `grid`.
    """
    return grid(schedule.num_levels, num_steps, "leading", offset, start, end, drop_lowest)


@SPACINGS.register("linspace")
def linspace(
    schedule: Schedule,
    num_steps: int,
    start: int | None = None,
    end: int = 0,
    drop_lowest: bool = False,
    rounded: bool = True,
) -> np.ndarray:
    """Even steps between level T and level 1, both included: 1 + round(linspace(0, T - 1, N)).

    Args:
      schedule: noise schedule of T levels.
      num_steps: N.
      start: level that takes the place of T; None is T.
      end: last level; 0 is clean data.
      drop_lowest: the lowest of N + 1 levels is not visited, as in DPM-Solver++ and UniPC of diffusers.
      rounded: False leaves levels between those of training, as in Euler's methods of diffusers.

    Returns:
      int32 [N + 1], or float32 where not rounded; see `grid`.
    """
    return grid(schedule.num_levels, num_steps, "linspace", 0, start, end, drop_lowest, rounded)


@SPACINGS.register("flow_match")
def flow_match(schedule: Schedule, num_steps: int) -> np.ndarray:
    """Even steps between level T and level T sigma_1, both included, then clean data: T linspace(1, sigma_1, N).

    The grid of diffusers for rectified flow, whose `schedules.shift` it has twice in the lowest level.

    Args:
      schedule: noise schedule of T levels, with alpha + sigma = 1.
      num_steps: N.

    Returns:
      float32 [N + 1].

    Raises:
      ValueError: another schedule, or fewer than one step or more than T.
    """
    T, sigma = schedule.num_levels, np.asarray(schedule.sigma, np.float64)
    if not np.allclose(np.asarray(schedule.alpha) + sigma, 1, atol=1e-5):
        raise ValueError("the spacing flow_match is of rectified flow: choose another `spacing`")
    if not 1 <= check_type("`num_steps`", plain(num_steps), int) <= T:
        raise ValueError(f"`num_steps`={num_steps} must be from 1 to {T}, the number of levels")
    return np.append(T * np.linspace(1, sigma[1], num_steps), 0).astype(np.float32)


@SPACINGS.register("consistency")
def consistency(schedule: Schedule, num_steps: int, original_steps: int = 50, end: int = 0) -> np.ndarray:
    """Levels that a latent consistency model was distilled on, evenly thinned out (Luo et al. 2023).

    Of the levels i (T // K), i = K..1, those at floor(j K / N), j < N.

    Args:
      schedule: noise schedule of T levels.
      num_steps: N, at most K.
      original_steps: K, number of levels of the distillation; at most T are taken.
      end: last level; 0 is clean data.

    Returns:
      int32 [N + 1].

    Raises:
      ValueError: more steps than levels of the distillation, or an end that is not below them.
    """
    T = schedule.num_levels
    K = min(original_steps, T)
    if not 1 <= num_steps <= K:
        raise ValueError(f"`num_steps`={num_steps} must be from 1 to `original_steps`={K}")
    places = np.floor(np.linspace(0, K, num_steps, endpoint=False)).astype(int)
    points = (K - places) * (T // K)
    if not 0 <= check_type("`end`", plain(end), int) < points[-1]:
        raise ValueError(f"`end`={end} must be from 0 to {points[-1] - 1}, below the lowest of {num_steps} levels")
    return np.append(points, end).astype(np.int32)


@SPACINGS.register("quadratic")
def quadratic(schedule: Schedule, num_steps: int, start: int | None = None, end: int = 0) -> np.ndarray:
    """Steps that shorten towards clean data: 1 + floor(linspace(0, sqrt(0.8 T), N)^2) (Song et al. 2021, appendix D.2).

    Args:
      schedule: noise schedule of T levels.
      num_steps: N.
      start: level that takes the place of T; None is T.
      end: last level; 0 is clean data.

    Returns:
      int32 [N + 1]; see `grid`.
    """
    return grid(schedule.num_levels, num_steps, "quadratic", start=start, end=end)


@SPACINGS.register("karras")
def karras(
    schedule: Schedule, num_steps: int, rho: float = 7.0, start: float | None = None, end: Literal[0, 1] = 0
) -> np.ndarray:
    """Steps that are even in (sigma / alpha)^(1/rho) (Karras et al. 2022, eq. 5), between the levels of training.

    Args:
      schedule: noise schedule of T levels.
      num_steps: N.
      rho: above 0; a larger one takes shorter steps at low noise.
      start: first level, in [1, T]. None is T - 1: level T may have no signal, or be much noisier than the one below.
      end: last level; 0 is one step further, from level 1 to clean data.

    Returns:
      float32 [N + 1]; see `grid_by_sigma`.
    """
    return grid_by_sigma(schedule, num_steps, "karras", rho, _below(schedule, start), end)


@SPACINGS.register("exponential")
def exponential(schedule: Schedule, num_steps: int, start: float | None = None, end: Literal[0, 1] = 0) -> np.ndarray:
    """Steps that are even in log-SNR, between the levels of training.

    Args:
      schedule: noise schedule of T levels.
      num_steps: N.
      start: first level, in [1, T]. None is T - 1: level T may have no signal, or be much noisier than the one below.
      end: last level; 0 is one step further, from level 1 to clean data.

    Returns:
      float32 [N + 1]; see `grid_by_sigma`.
    """
    return grid_by_sigma(schedule, num_steps, "exponential", start=_below(schedule, start), end=end)


def _below(schedule, start):
    """T - 1, because of long last steps, or T where alpha is constant, as of EDM."""
    return schedule.num_levels - (schedule.alpha[-1] < 1) if start is None else start


# Levels before the last: of T levels in N steps.
LEVEL_SPACINGS = {
    "leading": lambda T, N: 1 + np.arange(N)[::-1] * (T // N),
    "trailing": lambda T, N: np.round(T - np.arange(N) * (T / N)),
    "linspace": lambda T, N: 1 + np.round(np.linspace(0, T - 1, N))[::-1],
    "quadratic": lambda T, N: 1 + np.floor(np.linspace(0, np.sqrt(0.8 * T), N) ** 2)[::-1],
}
UNROUNDED = {"linspace": lambda T, N: 1 + np.linspace(0, T - 1, N)[::-1]}
# sigma / alpha at u from 0 to 1.
SIGMA_SPACINGS = {
    "karras": lambda top, bottom, u, rho: ((1 - u) * top ** (1 / rho) + u * bottom ** (1 / rho)) ** rho,
    "exponential": lambda top, bottom, u, rho: top ** (1 - u) * bottom**u,
}


def grid(
    num_levels: int,
    num_steps: int,
    spacing: str = "trailing",
    offset: int = 0,
    start: int | None = None,
    end: int = 0,
    drop_lowest: bool = False,
    rounded: bool = True,
) -> np.ndarray:
    """Levels that a sampler visits, falling to `end`, at levels of training.

    With T levels and N steps the levels before the last are

    * ``leading``: 1 + offset + i (T // N), i < N (DDPM's and DDIM's papers; Stable Diffusion with offset 1, end 1)
    * ``trailing``: round(T - i T / N), i < N (Lin et al. 2024, table 2); begins at T
    * ``linspace``: 1 + round(linspace(0, T - 1, N)); begins at T (a single step is taken at level 1)
    * ``quadratic``: 1 + floor(linspace(0, sqrt(0.8 T), N)^2) (Song et al. 2021, appendix D.2); begins near 0.8 T

    For spacings of the noise itself, between the levels of training, see `grid_by_sigma`.

    Args:
      num_levels: T, the number of levels of training.
      num_steps: N, the number of sampling steps.
      spacing: one of the names above.
      offset: added to the levels, in published timesteps.
      start: spread the levels over 1..start in place of 1..T, as SDEdit and image-to-image do.
      end: last level; 0 is clean data.
      drop_lowest: of N + 1 levels of the formula, the lowest is not visited.
      rounded: False, of ``linspace`` only, leaves levels between those of training.

    Returns:
      int32 NumPy array [N + 1]; float32 where not rounded.

    Raises:
      ValueError: unknown spacing, more steps than levels, or a grid that repeats a level or is not within end..T.

    Example::

        >>> from jaxdiff import timesteps
        >>> timesteps.grid(1000, 4).tolist()
        [1000, 750, 500, 250, 0]
    """
    check_known("spacing", spacing, LEVEL_SPACINGS)
    num_levels = check_count("num_levels", num_levels)
    num_steps, offset, end = (
        check_type(f"`{name}`", plain(value), int)
        for name, value in (("num_steps", num_steps), ("offset", offset), ("end", end))
    )
    start = check_type("`start`", plain(start), int | None)
    if not rounded and spacing not in UNROUNDED:
        raise ValueError(f"`rounded`=False is of the spacing linspace, not {spacing}")
    top = num_levels if start is None else start
    if not 1 <= top <= num_levels:
        raise ValueError(f"`start`={top} is not one of the levels 1..{num_levels}")
    if not 1 <= num_steps <= top:
        raise ValueError(f"`num_steps`={num_steps} must be from 1 to {top}, the number of levels")
    points = (LEVEL_SPACINGS if rounded else UNROUNDED)[spacing](top, num_steps + drop_lowest)[:num_steps]
    visited = np.append(points + offset, end).astype(np.int32 if rounded else np.float32)
    _check_grid(visited, num_levels, spacing, offset, end)
    return visited


def _check_grid(visited, num_levels, spacing, offset, end):
    """Refuses a grid that repeats a level or leaves those that there are, by the argument that does so."""
    num_steps = len(visited) - 1
    if end < 0:
        raise ValueError(f"`end`={end} leads outside of the levels 0..{num_levels}: 0, the last, is clean data")
    if visited[0] > num_levels or (offset < 0 and visited[-2] < 1):
        advice = "use a larger `offset`" if offset < 0 else "use fewer `num_steps` or a smaller `offset`"
        raise ValueError(f"`offset`={offset} leads outside of the levels 0..{num_levels}: {advice}")
    if np.any(np.diff(visited) >= 0):
        ways = ["fewer `num_steps`"] * (num_steps > 1) + ["a lower `end`"] * (end > 0)
        raise ValueError(
            f"{num_steps} {spacing} steps down to `end`={end} repeat a level: use {' or '.join(ways) or 'more levels'}"
        )


def grid_by_sigma(
    schedule: Schedule,
    num_steps: int,
    spacing: str = "karras",
    rho: float = 7.0,
    start: float | None = None,
    end: int = 1,
) -> np.ndarray:
    """Levels at which the noise, as lambda = sigma / alpha, is spaced by a formula; they lie between those of training.

    From lambda_max at level `start` to lambda_min at level 1, both of them visited, at even u from 0 to 1:

    * ``karras``: lambda^(1/rho) = (1 - u) lambda_max^(1/rho) + u lambda_min^(1/rho) (Karras et al. 2022, eq. 5)
    * ``exponential``: lambda = lambda_max^(1 - u) lambda_min^u, even steps of log-SNR; the limit of large rho

    At each level `schedule` has this lambda to a relative 1e-4; except where the last step to level T is long (cosine,
    sigmoid): many levels then lie within it, as close as float32 allows. Start at T - 1 there.

    Args:
      schedule: noise schedule; not traced.
      num_steps: N, the number of sampling steps.
      spacing: one of the names above.
      rho: above 0; of ``karras`` only. A larger one takes shorter steps at low noise.
      start: first level, in [1, T], T if None; a schedule with zero terminal signal-to-noise ratio needs one below T.
      end: last level, 1 or 0. 0 is one step further, from level 1 to clean data.

    Returns:
      float32 NumPy array [N + 1], falling strictly.

    Raises:
      ValueError: unknown spacing; a rho that is not above 0, or that the spacing does not have; a start outside of [1, T]
        or at pure noise; another end; no steps, or more than float32 levels can separate.

    Example::

        >>> from jaxdiff import schedules, timesteps
        >>> levels = timesteps.grid_by_sigma(schedules.linear(), 4)
        >>> [round(float(level), 1) for level in levels]
        [1000.0, 844.4, 594.0, 142.8, 1.0]
    """
    check_known("spacing", spacing, SIGMA_SPACINGS)
    num_steps = check_type("`num_steps`", plain(num_steps), int)
    if not rho > 0 or (spacing != "karras" and rho != 7.0):
        raise ValueError(f"`rho`={rho} must be above 0, and left at 7 with spacings other than 'karras'")
    T = schedule.num_levels
    start = T if start is None else start
    if not 1 <= start <= T or end not in (0, 1):
        raise ValueError(f"`start`={start} must be a level from 1 to {T}, and `end`={end} either 1 or 0")
    if num_steps < 1:
        raise ValueError(f"`num_steps`={num_steps} must be at least 1")
    ends = map(schedule, (start, 1))
    top, bottom = (np.float64(sigma) / np.float64(alpha) if alpha > 0 else np.inf for alpha, sigma in ends)
    if top == np.inf:
        raise ValueError(
            f"sigma / alpha is infinite at level {start}, pure noise: set `start` below it, such as to {T - 1}"
        )
    ratios = SIGMA_SPACINGS[spacing](top, bottom, np.linspace(0, 1, num_steps + end), rho)
    tables = Schedule(*(np.asarray(table, np.float64) for table in schedule))
    visited = tables.level_of(AlphaSigma(np.ones_like(ratios), ratios)).astype(np.float32)
    visited[-1], visited[0] = 1, start  # in this order, for there may be one level only
    visited = np.append(visited, np.zeros(1 - end, np.float32))
    if np.any(np.diff(visited) >= 0):
        raise ValueError(f"{num_steps} steps from level {start} to {end} repeat a level: use fewer `num_steps`")
    return visited
