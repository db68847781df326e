"""Consistency models: networks trained to predict, from any level, the end of its path through the ODE."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arguments import ABOVE_0, check_number
from jaxdiff.denoise import check_kind, to_prediction
from jaxdiff.objectives.levels import LevelDraw, uniform
from jaxdiff.objectives.noising import Noising, noised
from jaxdiff.objectives.teachers import check_scale, guided
from jaxdiff.preconditioning import check_same_process
from jaxdiff.process import q_sample
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Apply


def consistency(
    apply: Apply,
    teacher: Apply | None,
    schedule: Schedule,
    predict: str = "eps",
    null_cond: Any = None,
    scale: float = 1.0,
    intervals: int = 50,
    phases: int = 1,
    huber: float = 0.03,
    levels: LevelDraw | None = None,
) -> Callable:
    r"""Distance of the ends that a network predicts from two levels of one path (Song et al. 2023; Luo et al. 2023).

        L = sqrt(mean |f(x_t, t) - stop_gradient f(x_s, s)|^2 + c^2) - c,   f(x_t, t) = alpha_e x0 + sigma_e eps

    t and s < t are neighbours of an even grid, 1, T/N, 2 T/N, ..., T rounded, and f is the network's DDIM step from x_t to
    the end e of its path, where f(x, e) = x. One phase ends in clean data, e = 1; K phases (Wang et al. 2024, phased
    consistency models) end at the next of the levels 1, T/K, 2 T/K, ... below t, and K steps of DDIM or `lcm` sample
    them. With a teacher, x_s is its DDIM step from x_t to s under classifier-free guidance, which f so learns too; samples
    of f have a guidance of 1. Without one, x_s has the image and the noise of x_t (consistency training).

    Args:
      apply: network that is trained, as a function of its parameters.
      teacher: diffusion model of the same kind and process, called with the same `params`, of which it may use other
        entries; it has no gradient. None is consistency training.
      schedule: noise schedule of both.
      predict: kind of their output.
      null_cond: null condition of the teacher, a `Cond` of one example; fields that are None are those of the example.
      scale: scale of the teacher's guidance; 1 is none.
      intervals: number N of the grid's steps, from 2 to T - 1.
      phases: number K of parts of the path, each with its own end; it divides N.
      huber: c, in the units of the data, at which the loss turns from squared to absolute.
      levels: random draw of t, rounded up to the grid, see `objectives.levels`; not `importance`, whose memory has every
        level. None is uniform.

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss [B], (extra, metrics)), as of `objectives.denoising`. Metrics are
      "loss".

    Raises:
      ValueError: a scale without a teacher, or without null_cond; numbers out of range; a kind or a preconditioned network
        that does not fit the schedule.

    Example::

        >>> import jax, jax.numpy as jnp, jaxdiff
        >>> from jaxdiff import objectives, testing
        >>> schedule, data = jaxdiff.schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> exact = lambda params, x, t, cond=None, keys=None: (data.denoiser(schedule)(x, t, None).x0, ())
        >>> def ends(params, x, t, cond=None, keys=None):  # closed form of the paths' ends
        ...     return jax.vmap(lambda x, t: data.flow(schedule, x, t, 0))(x, t), jaxdiff.types.Aux()
        >>> loss_fn = objectives.consistency(ends, exact, schedule, "x0", intervals=500)
        >>> keys, batch = jax.random.split(jax.random.key(0), 100), {"image": jnp.ones([100, 1])}
        >>> float(loss_fn((), (), keys, batch)[0].mean()) < 1e-3
        True
    """
    check_schedule(schedule)
    check_scale(scale, null_cond, teacher)
    check_number("huber", huber, *ABOVE_0)
    T = schedule.num_levels
    if not 2 <= intervals <= T - 1:
        raise ValueError(f"`intervals`={intervals} must be from 2 to {T - 1} with {T} levels")
    if not 1 <= phases < intervals or intervals % phases:
        raise ValueError(
            f"`phases`={phases} must be at least 1, less than the {intervals} `intervals`, and divide them"
        )
    check_kind(predict, schedule)
    check_same_process(apply, predict, schedule)
    grid = np.maximum(np.round(np.linspace(0, T, intervals + 1)), 1).astype(np.int32)
    grid, ends = np.unique(grid), np.unique(grid[:: intervals // phases])
    levels = _on_grid(uniform() if levels is None else levels, grid)

    noisy = jax.vmap(q_sample, (None, 0, 0, 0))

    def end(params, n, x, t, e):
        """f: the network's step from x at level t to the end of its path at level e."""
        output, aux = apply(params, x, t, n.cond, keys=n.keys)
        x0, eps, _ = to_prediction(predict, schedule, output, aux, x, t)
        return noisy(schedule, x0, e, eps)

    def neighbour(params, n, s):
        """x_s: the teacher's step from x_t, or the same image and noise."""
        x0, eps = n.x0, n.eps
        if teacher is not None:
            x0, eps, _ = guided(teacher, params, schedule, predict, null_cond, scale)(n.x_t, n.t, n.cond)
        return noisy(schedule, x0, s, eps)

    def loss_fn(params, extra, keys, batch):
        n = noised(Noising(levels), schedule, extra, keys, batch)
        s, e = (jnp.asarray(of)[jnp.searchsorted(of, n.t) - 1] for of in (grid, ends))
        fixed = jax.lax.stop_gradient(params)
        target = jax.lax.stop_gradient(end(fixed, n, neighbour(fixed, n, s), s, e))
        error = jnp.square(end(params, n, n.x_t, n.t, e) - target).mean(tuple(range(1, target.ndim)))
        loss = jnp.sqrt(error + huber**2) - huber
        extra = levels.update(extra, batch.get("index"), n.t, loss)
        return n.weight * loss, (extra, {"loss": n.weight * loss})

    return loss_fn


def _on_grid(levels, grid):
    """The draw with each level rounded up to one of the grid, from the second on."""

    def draw(extra, keys, index, T):
        t, weight = levels.draw(extra, keys, index, T)
        return jnp.asarray(grid)[jnp.clip(jnp.searchsorted(grid, t), 1, len(grid) - 1)], weight

    return levels._replace(draw=draw)
