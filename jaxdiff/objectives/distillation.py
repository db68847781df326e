"""Matching: a network learns to say what another one says."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.objectives.levels import Levels, uniform
from jaxdiff.objectives.noising import Noising, checked, noised
from jaxdiff.schedules import Schedule
from jaxdiff.types import Apply


def distillation(
    apply: Apply, teacher: Apply, schedule: Schedule, null: Any = None, drop: float = 0.0, levels: Levels | None = None
) -> Callable:
    """The squared distance of what two networks say of the same noised images: distillation (Hinton et al. 2015).

        L = E_{x0, t, eps} |f(x_t, t, c) - g(x_t, t, c)|^2,   mean over the numbers of an image

    Args:
      apply: f, network that learns.
      teacher: g, network that does not; it has the same `params`, of which it may take another part, and no gradient.
      schedule: noise schedule.
      null: `Cond` of one example without a batch axis, see `denoising`.
      drop: probability, in [0, 1], with which an example's condition is replaced by `null`.
      levels: which levels t are drawn; None is `uniform`.

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss [B], (extra, metrics)), for `train.step.make_train_step`, of batches
      with "image" [B, H, W, C] and perhaps "cond". Metrics are "loss".

    Raises:
      ValueError: a drop without a null.

    Example::

        >>> import jax, jax.numpy as jnp, jaxdiff
        >>> from jaxdiff.objectives import distillation
        >>> net = lambda params, x_t, t, cond, keys=None: (params["scale"] * x_t, ())
        >>> still = lambda params, x_t, t, cond, keys=None: (jnp.zeros_like(x_t), ())
        >>> loss_fn = distillation(net, still, jaxdiff.schedules.linear())
        >>> keys, batch = jax.random.split(jax.random.key(0), 2), {"image": jnp.ones([2, 4, 4, 1])}
        >>> loss, _ = loss_fn({"scale": 0.0}, (), keys, batch)
        >>> loss.tolist()
        [0.0, 0.0]
    """
    levels = levels or uniform()
    noising = checked(Noising(levels, null, drop))

    def loss_fn(params, extra, keys, batch):
        n = noised(noising, schedule, extra, keys, batch)
        wanted = jax.lax.stop_gradient(teacher(params, n.x_t, n.t, n.cond)[0])
        error = jnp.square(apply(params, n.x_t, n.t, n.cond, keys=n.keys)[0] - wanted)
        loss = error.mean(tuple(range(1, error.ndim)))
        extra = levels.update(extra, batch.get("index"), n.t, loss)
        return n.weight * loss, (extra, {"loss": n.weight * loss})

    return loss_fn
