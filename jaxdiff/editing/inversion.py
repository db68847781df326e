"""DDIM inversion: from data to the noise from which DDIM samples it, and back.

A step from level s to a higher level t

(1)  x_t = alpha_t x0 + sigma_t eps,   x0 = (x_s - sigma_s eps) / alpha_s,   eps = eps(x_s, t)

evaluates the network at x_s with level t (Mokady et al. 2023, section 3.2; Song et al. 2021, section 4.3), so that clean
data is no special case and the network only gets levels that it was trained on. Its output at x_t is a little different,
and by so much a DDIM step from x_t misses x_s. The iteration

(2)  x_t <- x_t + (x_s - ddim(x_t, t -> s)) (alpha_t^2 + sigma_t^2) / (alpha_t alpha_s + sigma_t sigma_s)

has the x_t whose DDIM step ends at x_s as its fixed point (Pan et al. 2023, Garibi et al. 2024); the factor is one over
the derivative of a DDIM step with respect to x_t for a network whose v is constant.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arguments import check_number
from jaxdiff.process import predict_from
from jaxdiff.samplers import Sampler, State, ddim, sample
from jaxdiff.samplers.base import check_levels, check_x
from jaxdiff.schedules import Schedule, check_schedule, from_betas
from jaxdiff.types import Array, Denoiser, Guided, Prediction, as_partial, is_traced, rows


def ddim_inversion(refine: int = 0) -> Sampler:
    """DDIM inversion as a sampler, equations (1) and (2), for ascending grids of levels.

    Args:
      refine: number of fixed-point iterations (2) per step, at least 0; r of them take r + 1 calls of the denoiser, and the
        iterate with the smallest error is returned. Traced: other numbers do not recompile.

    Returns:
      Deterministic `Sampler`, for grids that start at level 0 or 1; give `sample` rising=True.

    Raises:
      ValueError: a number of iterations that is negative or not whole, unless it is traced.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import editing, sample, schedules, testing
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> sampler, denoise = editing.ddim_inversion(refine=3), data.denoiser(schedule)
        >>> sample(None, sampler, denoise, schedule, [0, 500, 1000], jnp.ones([2, 1]), rising=True)[0].shape
        (2, 1)
    """
    wanted = "be at least 0, and whole: it is a number of iterations"
    check_number("refine", refine, wanted, lambda x: (x >= 0) & (x == np.round(x)))
    return Sampler(Partial(State), Partial(_step, jnp.asarray(refine, jnp.int32)))


class Candidate(NamedTuple):
    """Best x_t so far.

    Attributes:
      x: x_t, float32 [B, ...].
      residual: x_s minus its DDIM step, shape of x_t.
      distance: squared norm of the residual [B].
      step_size: factor of the residual in iteration (2) [B].
    """

    x: Array
    residual: Array
    distance: Array
    step_size: Array


def _step(refine, keys, denoise, schedule, state, s, t, cond):
    """One step of the inversion, from level s to a higher level t."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    x_s, prediction = state.x, denoise(state.x, t, cond)
    x0 = (x_s - sigma_s * prediction.eps) / alpha_s
    gain = (alpha_t**2 + sigma_t**2) / (alpha_t * alpha_s + sigma_t * sigma_s)

    def iterate(_, carry):
        x_t, best = carry
        residual = x_s - ddim().step(None, denoise, schedule, State(x_t), t, s, cond)[0].x
        new = Candidate(x_t, residual, jnp.square(residual).reshape(residual.shape[0], -1).sum(1), best.step_size)
        old = best._replace(step_size=best.step_size / 2)
        best = jax.tree.map(lambda a, b: jnp.where(rows(new.distance < best.distance, a), a, b), new, old)
        return best.x + rows(best.step_size * gain, x_t) * best.residual, best

    x_t, ones = alpha_t * x0 + sigma_t * prediction.eps, jnp.ones(x_s.shape[0], jnp.float32)
    start = x_t, Candidate(x_t, jnp.zeros_like(x_t), jnp.inf * ones, ones)
    calls = jnp.where(refine > 0, refine + 1, 0)  # the last one only measures the last iterate
    _, best = lax.fori_loop(0, calls, iterate, start)
    return State(best.x), Prediction(x0, prediction.eps, prediction.aux)


def invert(denoise: Denoiser, schedule: Schedule, timesteps, x0: Array, cond=None, refine: int = 0) -> Array:
    """DDIM inversion of data: its trajectory up to the noise from which DDIM samples it.

    Args:
      denoise: the denoiser that later samples along the trajectory; for editing, the one without guidance. It must not clip
        its predictions.
      schedule: noise schedule.
      timesteps: levels, descending, int [N + 1], as for `sample`; the last is the level of x0.
      x0: clean data, float32 [B, ...].
      cond: conditions, one row per example, the same at every step; also with control inputs.
      refine: number of fixed-point iterations per step, see `ddim_inversion`. Traced.

    Returns:
      float32 [N + 1, B, ...] in the order of the levels: x_T first, x0 last.

    Raises:
      ValueError: an x0 of integers; levels that do not fall; otherwise as `sample`.
      TypeError: as `sample`.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import editing, testing
        >>> schedule, data = jaxdiff.schedules.linear(), testing.gaussian([0.5, -0.3], [[0.5, 0.2], [0.2, 0.3]])
        >>> levels, x0 = jaxdiff.timesteps.grid(1000, 50), jnp.array([[0.0, 0.0], [1.0, 0.4]])
        >>> trajectory = editing.invert(data.denoiser(schedule), schedule, levels, x0, refine=10)
        >>> again = editing.reconstruct(data.denoiser(schedule), schedule, levels, trajectory[0])
        >>> trajectory.shape, bool(jnp.allclose(again, x0, atol=1e-3))
        ((51, 2, 2), True)
    """
    check_schedule(schedule)
    check_x("x0", x0)
    ascending = check_levels(timesteps, schedule)[::-1]
    sampler = ddim_inversion(refine)
    _, trajectory = sample(None, sampler, denoise, schedule, ascending, x0, cond, collect=_x, rising=True)
    return jnp.concatenate([x0[None], trajectory])[::-1]


def _x(state, prediction):
    return state.x


def check_trajectory(levels: Array, trajectory: Array) -> None:
    """Raises ValueError for a trajectory that does not have one point per level."""
    if len(trajectory) != len(levels):
        raise ValueError(
            f"`trajectory` has {len(trajectory)} points and `timesteps` has {len(levels)} levels: invert on these levels"
        )


def check_leaf(guided: Guided, half: str, leaf: str) -> None:
    """Raises TypeError for what is no `Guided`, and ValueError if a half of it lacks the leaf."""
    if not isinstance(guided, Guided):
        raise TypeError(f"`guided` must be a Guided(cond, uncond), not {type(guided).__name__}")
    if getattr(getattr(guided, half), leaf, None) is None:
        raise ValueError(f"`leaf`={leaf!r} must be the name of an array in `guided.{half}`, such as 'context'")


def check_deterministic(sampler: Sampler) -> None:
    """Raises ValueError for a sampler that adds noise, because its samples leave the trajectory of an inversion.

    The innermost of nested samplers takes one step without a random key on a problem of one number; samplers that add noise
    then raise an error or return NaN.
    """
    message = "`sampler` adds noise: only a deterministic one, such as ddim(), follows the trajectory of an inversion"
    try:
        x = _one_step(*map(_innermost, sampler), from_betas([0.5, 0.5]))
    except ValueError as error:
        raise ValueError(message) from error
    if not is_traced(x) and not jnp.isfinite(x).all():
        raise ValueError(message)


def _innermost(function):
    """The function of the sampler within `inpaint`, `local_blend` and the like, which have it as their first argument."""
    while isinstance(function, Partial) and function.args and isinstance(function.args[0], Partial):
        function = function.args[0]
    return as_partial(function)


@jax.jit
def _one_step(init, step, schedule):
    denoise = lambda x_t, t, cond: predict_from("x0", schedule, jnp.zeros_like(x_t), x_t, t)
    return step(None, denoise, schedule, init(jnp.ones([1, 1], jnp.float32)), 2, 1, Guided(None, None))[0].x


def reconstruct(denoise: Denoiser, schedule: Schedule, timesteps, x_T: Array, cond=None, cond_axes=None) -> Array:
    """Deterministic DDIM from noise to data: the inverse of `invert`.

    Args:
      denoise: any denoiser, also one with guidance.
      schedule: noise schedule.
      timesteps: levels, descending, int [N + 1].
      x_T: float32 [B, ...], the first row of `invert`.
      cond: conditions.
      cond_axes: leaves of `cond` with one row per step, such as embeddings from `null_text`; see `sample`.

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
