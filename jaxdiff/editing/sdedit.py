"""SDEdit: image editing by adding noise up to a level and sampling from there (Meng et al. 2022)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import timesteps
from jaxdiff.arguments import check_count, check_number
from jaxdiff.process import q_sample
from jaxdiff.samplers import Sampler, each_key, noise, sample
from jaxdiff.samplers.base import check_levels, check_x
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Array, Denoiser


def strength_grid(num_levels: int, num_steps: int, strength: float) -> np.ndarray:
    """Levels for SDEdit, from that of the given strength to clean data.

    Args:
      num_levels: T.
      num_steps: number of steps; limited to the number of levels below the first.
      strength: first level as a fraction of T, in [0, 1]: 0 returns the image unchanged, 1 uses nothing of it.

    Returns:
      int32 [N + 1]; only [0] for strength 0.

    Raises:
      ValueError: a strength outside of [0, 1], or no steps.

    Example::

        >>> from jaxdiff import editing
        >>> editing.strength_grid(1000, 5, 0.5).tolist()
        [500, 400, 300, 200, 100, 0]
    """
    wanted = "lie in [0, 1]: 0 keeps the image, 1 uses nothing of it"
    check_number("strength", strength, wanted, lambda x: (x >= 0) & (x <= 1))
    num_levels, num_steps = check_count("num_levels", num_levels), check_count("num_steps", num_steps)
    start = round(strength * num_levels)
    if start == 0:
        return np.zeros([1], np.int32)
    return timesteps.grid(num_levels, min(num_steps, start), start=start)


def sdedit(
    key: Array, sampler: Sampler, denoise: Denoiser, schedule: Schedule, timesteps, x0: Array, cond=None
) -> Array:
    """Samples images that resemble given ones: adds noise up to the first level, and samples from there.

        x_t = alpha_t x0 + sigma_t eps, t < T;   x_T = eps        Meng et al. 2022, section 3

    At level T nothing is left of the image, although alpha_T > 0 for most schedules.

    Args:
      key: random key, or one per example [B], for the added noise and the sampler's.
      sampler: any; `inpaint` around it restricts the edit to a part of the image.
      denoise: any denoiser.
      schedule: noise schedule.
      timesteps: levels, descending, such as from `strength_grid`.
      x0: images or latents, such as photographs or rough paintings, float32 [B, ...].
      cond: conditions.

    Returns:
      float32 [B, ...].

    Raises:
      ValueError: an x0 of integers; otherwise as `sample`.
      TypeError: as `sample`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import editing, testing
        >>> schedule, data = jaxdiff.schedules.linear(), testing.gaussian([1.0], 0.01)
        >>> levels, x0 = editing.strength_grid(1000, 20, 0.6), jnp.zeros([500, 1])
        >>> x = editing.sdedit(jax.random.key(0), jaxdiff.ddim(), data.denoiser(schedule), schedule, levels, x0)
        >>> abs(float(x.mean()) - 1) < 0.05  # zeros are not of this distribution
        True
    """
    check_schedule(schedule)
    check_x("x0", x0)
    levels = check_levels(timesteps, schedule)
    keys = each_key(key, x0.shape[0])
    eps = noise(keys, x0.shape[1:])
    first = levels[0]
    x_t = jax.vmap(q_sample, (None, 0, None, 0))(schedule, x0, first, eps)
    x_t = jnp.where(first == schedule.num_levels, schedule.std(first) * eps, x_t)
    return sample(keys, sampler, denoise, schedule, timesteps, x_t, cond)[0]
