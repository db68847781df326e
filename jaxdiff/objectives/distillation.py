"""Distillation: a network is trained to match the output of another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.objectives.levels import LevelDraw, uniform
from jaxdiff.objectives.noising import Noising, checked, noised
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Apply


def distillation(
    apply: Apply,
    teacher: Apply,
    schedule: Schedule,
    null_cond: Any = None,
    cond_dropout: float = 0.0,
    levels: LevelDraw | None = None,
) -> Callable:
    """Squared distance of the outputs of two networks for the same noised images (Hinton et al. 2015).

        L = E_{x0, t, eps} |f(x_t, t, c) - g(x_t, t, c)|^2,   mean over the numbers of an image

    Args:
      apply: f, the network that is trained.
      teacher: g, the other network; it is called with the same `params`, of which it may use other entries, and has no
        gradient.
      schedule: noise schedule.
      null_cond: see `denoising`.
      cond_dropout: see `denoising`.
      levels: see `denoising`.

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss [B], (extra, metrics)), for `train.step.make_train_step`, of batches
      with "image" [B, H, W, C] and optionally "cond". Metrics are "loss".

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: cond_dropout without null_cond, or outside of [0, 1].

    Example::

        >>> import jax, jax.numpy as jnp, jaxdiff
        >>> from jaxdiff.objectives import distillation
        >>> net = lambda params, x_t, t, cond, keys=None: (params["scale"] * x_t, ())
        >>> teacher = lambda params, x_t, t, cond, keys=None: (jnp.zeros_like(x_t), ())
        >>> loss_fn = distillation(net, teacher, jaxdiff.schedules.linear())
        >>> keys, batch = jax.random.split(jax.random.key(0), 2), {"image": jnp.ones([2, 4, 4, 1])}
        >>> loss, _ = loss_fn({"scale": 0.0}, (), keys, batch)
        >>> loss.tolist()
        [0.0, 0.0]
    """
    check_schedule(schedule)
    levels = uniform() if levels is None else levels
    options = checked(Noising(levels, null_cond, cond_dropout))

    def loss_fn(params, extra, keys, batch):
        n = noised(options, schedule, extra, keys, batch)
        target = jax.lax.stop_gradient(teacher(params, n.x_t, n.t, n.cond)[0])
        error = jnp.square(apply(params, n.x_t, n.t, n.cond, keys=n.keys)[0] - target)
        loss = error.mean(tuple(range(1, error.ndim)))
        extra = levels.update(extra, batch.get("index"), n.t, loss)
        return n.weight * loss, (extra, {"loss": n.weight * loss})

    return loss_fn
