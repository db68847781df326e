r"""MeanFlow: networks trained to predict the average velocity of a path between two levels, with which one step is enough.

On rectified flow, with z_t = (1 - t) x0 + t eps and v = eps - x0, the average velocity from t back to r obeys
(Geng et al. 2025, eqs. 3, 6 and 8)

  (1)  u(z_t, r, t) = 1 / (t - r) integral_r^t v dtau
  (2)  u = v - (t - r) du/dt,   du/dt = v d_z u + d_t u
  (3)  z_r = z_t - (t - r) u(z_t, r, t)

du/dt is one derivative along (v, 0, 1), by `jax.jvp`. `samplers.mean_flow` makes the steps (3).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arguments import AT_LEAST_0, FRACTION, check_number
from jaxdiff.objectives.levels import LevelDraw, logit_normal
from jaxdiff.objectives.noising import Noising, checked, noised, null_conds
from jaxdiff.preconditioning import check_same_process
from jaxdiff.samplers import fold
from jaxdiff.schedules import Schedule, check_schedule, equal, rectified_flow
from jaxdiff.types import Apply, Cond, rows

OF_THE_OTHER_LEVEL, OF_THE_CHOICE = 100, 101  # folded into an example's key, beside those of `noised`


def mean_flow(
    apply: Apply,
    schedule: Schedule,
    null_cond: Any = None,
    cond_dropout: float = 0.0,
    *,
    levels: LevelDraw | None = None,
    apart: float = 0.25,
    power: float = 1.0,
    scale: float = 1.0,
) -> Callable:
    r"""MeanFlow: squared distance of an average velocity from its identity, one value per example (Geng et al. 2025).

        L = w |u(z_t, r, t) - stop_gradient(v - (t - r) du/dt)|^2,   w = 1 / stop_gradient(|...|^2 + 0.001)^power

    |...|^2 is a mean over the numbers of an image. t and r are the larger and the smaller of two draws; r lies one level
    lower than its draw, so that clean data is reached, and equals t in all but a share of the examples, in which the
    network learns the velocity v itself.

    Args:
      apply: network as a function of its parameters, from `denoise.network`, that takes `Cond.end` (`takes_end` of its
        specification) and has a forward mode, as with the attention kernel "plain"; its output is of kind "flow".
      schedule: rectified flow.
      null_cond: see `denoising`.
      cond_dropout: see `denoising`.
      levels: random draw, by the example's key alone, of each of both levels, such as `levels.uniform`; not `stratified`,
        whose two draws would be one, and not `importance`. None is logit-normal with mean -0.4, as in the paper.
      apart: share of examples, in [0, 1], with r < t.
      power: of the weights w; 0 is a plain squared error, and 1 the paper's.
      scale: classifier-free guidance that the network learns, with a `null_cond`: scale v + (1 - scale) u(z_t, t, t; null)
        in place of v (section 4.2 there), where the condition is not dropped. 1 is none.

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss [B], (extra, metrics)), as of `denoising`. Metrics are "loss" and
      "error", the mean square before its weight.

    Raises:
      ValueError: another schedule; a preconditioned network; numbers out of range; cond_dropout or a scale without
        null_cond. From loss_fn: an output that does not have the image's shape.

    Example::

        >>> import jax, jax.numpy as jnp, jaxdiff
        >>> from jaxdiff import objectives, schedules
        >>> exact = lambda params, z, t, cond=None, keys=None: (z * 1000 / t[:, None], ())  # of images of zeros
        >>> loss_fn = objectives.mean_flow(exact, schedules.rectified_flow(), apart=1.0)
        >>> keys, batch = jax.random.split(jax.random.key(0), 4), {"image": jnp.zeros([4, 2])}
        >>> bool((loss_fn((), (), keys, batch)[0] < 1e-6).all())
        True
    """
    check_schedule(schedule)
    check_same_process(apply, "flow", schedule)
    check_number("apart", apart, *FRACTION)
    check_number("power", power, *AT_LEAST_0)
    check_number("scale", scale)
    T = schedule.num_levels
    if not equal(schedule, rectified_flow(T)):
        raise ValueError("`schedule` must be rectified_flow: the paths of mean_flow are straight and even")
    if scale != 1 and null_cond is None:
        raise ValueError(f"`scale`={scale} needs `null_cond`, from which it leads away")
    levels = logit_normal(-0.4) if levels is None else levels
    options = checked(Noising(_larger(levels), null_cond, cond_dropout))

    def loss_fn(params, extra, keys, batch):
        n = noised(options, schedule, extra, keys, batch)
        t, r = n.t.astype(jnp.float32), _ends(levels, extra, keys, batch.get("index"), n.t, T, apart)
        cond, v = n.cond or Cond(), n.eps - n.x0
        if scale != 1:
            null = null_conds(null_cond, cond, len(t))
            away = scale * v + (1 - scale) * jax.lax.stop_gradient(apply(params, n.x_t, t, null, keys=n.keys)[0])
            v = away if n.dropped is None else jnp.where(rows(n.dropped, v), v, away)
        u_at = lambda z, t: apply(params, z, t, cond._replace(end=r), keys=n.keys)[0]
        u, change = jax.jvp(u_at, (n.x_t, t), (v, jnp.full_like(t, T)))  # a unit of time has T levels
        if u.shape != v.shape:
            raise ValueError(f"the network's output has shape {u.shape}, and x_t has shape {v.shape}")
        target = jax.lax.stop_gradient(v - rows((t - r) / T, v) * change)
        error = jnp.square(u - target).mean(tuple(range(1, u.ndim)))
        loss = n.weight * error / jax.lax.stop_gradient(error + 1e-3) ** power
        extra = levels.update(extra, batch.get("index"), n.t, error)
        return loss, (extra, {"loss": loss, "error": error})

    return loss_fn


def _two(levels, extra, keys, index, T):
    """Two draws of levels, and the weight of the first."""
    t, weight = levels.draw(extra, keys, index, T)
    return t, levels.draw(extra, fold(keys, OF_THE_OTHER_LEVEL), index, T)[0], weight


def _larger(levels):
    """The draw of the larger of two levels."""

    def draw(extra, keys, index, T):
        one, other, weight = _two(levels, extra, keys, index, T)
        return jnp.maximum(one, other), weight

    return levels._replace(draw=draw)


def _ends(levels, extra, keys, index, t, T, apart):
    """r: one less than the smaller level, in a share of the examples; else t."""
    one, other, _ = _two(levels, extra, fold(keys, 0), index, T)  # the keys by which `noised` draws levels
    chosen = jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(apart)))(fold(keys, OF_THE_CHOICE))
    return jnp.where(chosen, jnp.minimum(one, other) - 1, t).astype(jnp.float32)
