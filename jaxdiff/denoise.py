"""From flax module to `Apply` to `Denoiser`: the one place where levels meet network times."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial

from jaxdiff.errors import unknown
from jaxdiff.process import KINDS, predict_from
from jaxdiff.schedules import Schedule
from jaxdiff.types import Apply, Array, Aux, Denoiser, Prediction, Static


@functools.cache
def network(module: nn.Module) -> Apply:
    """The module as a pure function of its parameters, taking levels.

    Networks trained on T levels are conditioned on t - 1 in 0..T - 1, as published checkpoints expect; this subtraction
    is written here and nowhere else. Equal modules give the same function, so that they share compilations.

    Args:
      module: called as `module(x_t, time, cond, keys)`, time float32 or int [B].

    Returns:
      apply(params, x_t, t, cond=None, keys=None) -> (output, Aux), with x_t [B, ...], t a scalar level or [B] in 1..T, and
      keys one random key per example for dropout, None for none.
    """

    def apply(params, x_t, t, cond=None, keys=None):
        time = jnp.broadcast_to(jnp.asarray(t) - 1, x_t.shape[:1])
        return module.apply({"params": params}, x_t, time, cond, keys), Aux()

    return apply


def denoiser(apply: Apply, params, schedule: Schedule, predict: str = "eps") -> Denoiser:
    """Reads a network's output as a `Prediction`.

    A network with twice the image's channels also says a variance (Nichol and Dhariwal 2021): the second half of its
    output travels in `Prediction.aux.variance`.

    Args:
      apply: network as a function of its parameters, from `network`.
      params: its parameters.
      schedule: noise schedule it was trained with.
      predict: what it was trained to output, "eps", "x0", "v" or "score".

    Returns:
      `Denoiser`, a pytree: other parameters or another schedule of the same length compile nothing.

    Raises:
      ValueError: unknown kind; "eps" or "score" with a schedule of zero terminal signal-to-noise ratio, at whose last
        level they say nothing about x0.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> net = jaxdiff.UNet(jaxdiff.UNetConfig(out_channels=1, channels=(32, 64), groups=8))
        >>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros([1, 28, 28, 1]), jnp.zeros([1]))["params"]
        >>> denoise = jaxdiff.denoiser(jaxdiff.network(net), params, jaxdiff.schedules.linear())
        >>> denoise(jnp.ones([2, 28, 28, 1]), 500, None).x0.shape
        (2, 28, 28, 1)
    """
    if predict not in KINDS:
        raise unknown("kind of prediction", predict, KINDS)
    if predict in ("eps", "score") and _ends_in_pure_noise(schedule):
        raise ValueError(
            f"predict={predict!r} cannot start from zero signal-to-noise: use 'v' or 'x0' with this schedule"
        )
    return Partial(_denoise, Static(apply), Static(predict), params, schedule)


def _denoise(apply: Static, predict: Static, params, schedule, x_t: Array, t, cond=None) -> Prediction:
    output, aux = apply.value(params, x_t, t, cond)
    channels = x_t.shape[-1]
    if output.shape[-1] == 2 * channels:
        aux = aux._replace(variance=output[..., channels:])
        output = output[..., :channels]
    t = jnp.broadcast_to(jnp.asarray(t), x_t.shape[:1])
    kind = functools.partial(predict_from, predict.value)
    return jax.vmap(kind, in_axes=(None, 0, 0, 0))(schedule, output, x_t, t)._replace(aux=aux)


def _ends_in_pure_noise(schedule: Schedule) -> bool:
    last = jnp.asarray(schedule.alpha)[-1]
    return not isinstance(last, jax.core.Tracer) and float(last) == 0.0
