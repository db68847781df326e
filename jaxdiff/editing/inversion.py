"""DDIM inversion: from data up to the noise that DDIM would draw it from, and back down.

A step from level s up to t > s

(1)  x_t = alpha_t x0 + sigma_t eps,   x0 = (x_s - sigma_s eps) / alpha_s,   eps = eps(x_s, t)

asks the network about x_s as if it were at the level that is entered (Mokady et al. 2023, section 3.2; Song et al. 2021,
section 4.3), so that clean data needs no case of its own and the network only sees levels that it was trained on. What it
says of x_t differs a little, and by that much a DDIM step back misses x_s. Rounds of

(2)  x_t <- x_t + (x_s - ddim(x_t, t -> s)) / (alpha_t alpha_s + sigma_t sigma_s)

have as their fixed point the x_t from which it does not (Pan et al. 2023, Garibi et al. 2024); the divisor is what a change
of x_t is multiplied by in that step, where the network says the same v.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.samplers import Sampler, State, ddim, sample
from jaxdiff.schedules import Schedule
from jaxdiff.types import Array, Denoiser, Prediction, is_traced, rows


def ddim_inversion(refine: int = 0) -> Sampler:
    """DDIM backwards, equations (1) and (2), on a rising grid.

    Args:
      refine: rounds of equation (2) in each step, at least 0; r of them are r + 1 calls of the denoiser, and what missed
        least is kept. Traced: other numbers compile nothing.

    Returns:
      `Sampler` that draws nothing, for grids that rise from level 0 or 1.

    Raises:
      ValueError: fewer rounds than none, where it is a number and not traced.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import editing, sample, schedules, testing
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> sampler, denoise = editing.ddim_inversion(refine=3), data.denoiser(schedule)
        >>> sample(None, sampler, denoise, schedule, [0, 500, 1000], jnp.ones([2, 1]))[0].shape
        (2, 1)
    """
    if not is_traced(refine) and refine < 0:
        raise ValueError(f"refine={refine} must be 0 or more rounds")
    return Sampler(Partial(State), Partial(_step, jnp.asarray(refine, jnp.int32)))


class Near(NamedTuple):
    """The x_t that misses x_s least so far, by which vector and squared distance [B], and how far rounds go [B]."""

    x: Array
    missed: Array
    distance: Array
    damping: Array


def _step(refine, keys, denoise, schedule, state, s, t, cond):
    """From level s up to t."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    x_s, said = state.x, denoise(state.x, t, cond)
    x0 = (x_s - sigma_s * said.eps) / alpha_s

    def closer(_, found):
        x_t, best = found
        missed = x_s - ddim().step(None, denoise, schedule, State(x_t), t, s, cond)[0].x
        near = Near(x_t, missed, jnp.square(missed).reshape(missed.shape[0], -1).sum(1), best.damping)
        far = best._replace(damping=best.damping / 2)
        best = jax.tree.map(lambda a, b: jnp.where(rows(near.distance < best.distance, a), a, b), near, far)
        return best.x + rows(best.damping, x_t) * best.missed / (alpha_t * alpha_s + sigma_t * sigma_s), best

    x_t, ones = alpha_t * x0 + sigma_t * said.eps, jnp.ones(x_s.shape[0])
    begin = x_t, Near(x_t, jnp.zeros_like(x_t), jnp.inf * ones, ones)
    calls = jnp.where(refine > 0, refine + 1, 0)  # the last only tells whether the last round came nearer
    _, best = lax.fori_loop(0, calls, closer, begin)
    return State(best.x), Prediction(x0, said.eps, said.aux)


def invert(denoise: Denoiser, schedule: Schedule, timesteps, x0: Array, cond=None, refine: int = 0) -> Array:
    """The path of data up to the noise that DDIM draws it from.

    Args:
      denoise: the denoiser that it is gone back down with, or, for editing, that one without its guidance; nothing may clip
        what it predicts.
      schedule: noise schedule.
      timesteps: levels, falling, int [N + 1], as for `sample`; the last is the level of x0.
      x0: clean data, float32 [B, ...].
      cond: conditions, one row per example, the same at every step.
      refine: rounds of equation (2) in each step, see `ddim_inversion`. Traced.

    Returns:
      float32 [N + 1, B, ...], aligned with the levels: first x_T, last x0.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import editing, testing
        >>> schedule, data = jaxdiff.schedules.linear(), testing.gaussian([0.5, -0.3], [[0.5, 0.2], [0.2, 0.3]])
        >>> levels, x0 = jaxdiff.timesteps.grid(1000, 50), jnp.array([[0.0, 0.0], [1.0, 0.4]])
        >>> path = editing.invert(data.denoiser(schedule), schedule, levels, x0, refine=10)
        >>> again = editing.reconstruct(data.denoiser(schedule), schedule, levels, path[0])
        >>> path.shape, bool(jnp.allclose(again, x0, atol=1e-3))
        ((51, 2, 2), True)
    """
    rising = jnp.asarray(timesteps)[::-1]
    _, path = sample(None, ddim_inversion(refine), denoise, schedule, rising, x0, cond, collect=_x)
    return jnp.concatenate([x0[None], path])[::-1]


def check_path(levels: Array, trajectory: Array) -> None:
    """Raises ValueError where a trajectory has not one point for each level."""
    if len(trajectory) != len(levels):
        raise ValueError(
            f"a trajectory of {len(trajectory)} points is none of {len(levels)} levels: invert on the same ones"
        )


def _x(state, prediction):
    return state.x


def reconstruct(denoise: Denoiser, schedule: Schedule, timesteps, x_T: Array, cond=None, cond_axes=None) -> Array:
    """Data from its noise, by DDIM without noise: `sample` as `invert` is undone by it.

    Args:
      denoise: any denoiser, such as one with guidance.
      schedule: noise schedule.
      timesteps: levels, falling, int [N + 1].
      x_T: float32 [B, ...], the first row of `invert`.
      cond: conditions.
      cond_axes: which leaves of them have one row per step, see `sample`; such as what null-text inversion has found.

    Returns:
      float32 [B, ...].

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import editing, schedules, testing
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> editing.reconstruct(data.denoiser(schedule), schedule, [1000, 500, 0], jnp.ones([2, 1])).shape
        (2, 1)
    """
    return sample(None, ddim(), denoise, schedule, timesteps, x_T, cond, cond_axes=cond_axes)[0]
