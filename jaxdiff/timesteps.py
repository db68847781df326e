"""Which levels a sampler visits: falling grids from near T down to `end`."""

import numpy as np

from jaxdiff.errors import unknown


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
    num_train_steps: int,
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

    Args:
      num_train_steps: T, the number of levels the network was trained on.
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
    top = num_train_steps if start is None else start
    if not 1 <= top <= num_train_steps:
        raise ValueError(f"start={top} is not one of the levels 1..{num_train_steps}")
    if not 1 <= num_steps <= top:
        raise ValueError(f"num_steps={num_steps} must be from 1 to {top}, the number of levels")
    levels = np.append(SPACINGS[spacing](top, num_steps, offset), end).astype(np.int32)
    if np.any(np.diff(levels) >= 0):
        raise ValueError(f"{num_steps} {spacing} steps down to level {end} repeat a level: use fewer steps")
    if levels[0] > num_train_steps or end < 0:
        raise ValueError(
            f"offset={offset} and end={end} lead outside of the levels 0..{num_train_steps}: "
            "use fewer steps or a smaller offset"
        )
    return levels
