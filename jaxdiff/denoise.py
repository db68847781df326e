"""From flax module to `Apply` to `Denoiser`; the only place that converts levels to network times."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors, traverse_util
from flax import linen as nn
from jax.tree_util import Partial

from jaxdiff.arguments import check_cond, check_floats
from jaxdiff.errors import check_known
from jaxdiff.preconditioning import check_same_process
from jaxdiff.process import KINDS, predict_from
from jaxdiff.schedules import Schedule
from jaxdiff.types import Apply, Array, Aux, Denoiser, Guided, Prediction, Static, is_traced


@functools.cache
def network(module: nn.Module, time: Callable | None = None) -> Apply:
    """A module as a pure function of its parameters and of levels.

    Networks trained on T levels are conditioned on t - 1 in 0..T - 1, as published checkpoints expect; this subtraction
    is written here and nowhere else. Others get `preconditioning.network_time`. Equal arguments give the same function, so
    that they share compilations.

    `cond.attention_edit` is a callable pytree (probabilities [B, H, Q, K], `nets.transformer.Site`, levels [B]) ->
    probabilities. If present, it is applied to all attention, and `Aux.maps` holds the edited cross-attention averaged
    over heads [B, Q, K], by the name of its site; under jit, maps that are not used are not computed.

    Args:
      module: called as `module(x_t, time, cond, keys)`, time float32 or int [B].
      time: level -> time, hashable; None is t - 1.

    Returns:
      apply(params, x_t, t, cond=None, keys=None) -> (output, Aux), with x_t [B, ...], t a scalar level or [B] in 1..T (0
      for a classifier of clean images), and keys one random key per example for dropout, None for no dropout.
    """

    def run(params, *args, **kwargs):
        try:
            return module.apply({"params": params}, *args, **kwargs)
        except errors.ScopeParamShapeError as error:
            where = str(error).partition("(http")[0]
            raise ValueError(f"`x_t` or `cond` does not fit the network's parameters: {where}") from None

    def apply(params, x_t, t, cond=None, keys=None):
        if isinstance(cond, Guided):
            raise ValueError(
                "a network takes one condition: wrap the denoiser in jaxdiff.guidance.cfg, or give `cond`.cond"
            )
        check_cond(cond)
        if np.shape(t) not in ((), (1,), x_t.shape[:1]):
            raise ValueError(f"`t` must be one level, or one for each of {len(x_t)} examples, not {list(np.shape(t))}")
        t = jnp.broadcast_to(jnp.asarray(t), x_t.shape[:1])
        moment = t - 1 if time is None else time(t)
        if cond is not None and cond.end is not None:
            cond = cond._replace(end=cond.end - 1 if time is None else time(cond.end))
        if cond is None or cond.attention_edit is None:
            return run(params, x_t, moment, cond, keys), Aux()
        cond = cond._replace(attention_edit=Partial(_edit_at, cond.attention_edit, t))
        output, sown = run(params, x_t, moment, cond, keys, mutable="maps")
        maps = {path[:-1]: maps for path, maps in traverse_util.flatten_dict(sown.get("maps", {})).items()}
        return output, Aux(maps={"/".join(path): averaged for path, averaged in maps.items()})

    return apply


def _edit_at(edit, t, probabilities, site):
    return edit(probabilities, site, t)


@functools.cache
def on_training_levels(apply: Apply) -> Apply:
    """Network that sees the nearest level of training in place of one between: apply -> apply.

    The noise of x_t stays that of the level between, as in the solvers of diffusers with spacings even in sigma. Equal
    arguments give the same function.
    """

    def apply_rounded(params, x_t, t, cond=None, keys=None):
        return apply(params, x_t, jnp.round(t), cond, keys)

    return apply_rounded


def denoiser(apply: Apply, params, schedule: Schedule, predict: str = "eps") -> Denoiser:
    """Denoiser of a trained network: its output converted to a `Prediction`.

    A network with twice the image's channels also predicts a variance (Nichol and Dhariwal 2021): the second half of its
    output becomes `Prediction.aux.variance`.

    Args:
      apply: network as a function of its parameters, from `network`.
      params: its parameters.
      schedule: noise schedule it was trained with.
      predict: kind of its output, "eps", "x0", "v", "score" or "flow".

    Returns:
      `Denoiser`, a pytree: other parameters or another schedule of the same length do not recompile. Run it with
      `jaxdiff.call`, or pass it to a jitted function as an argument: `jax.jit(denoise)` makes constants of the parameters.

    Raises:
      ValueError: unknown kind; "eps" or "score" with a schedule of zero terminal signal-to-noise ratio, at whose last
        level they do not determine x0; a preconditioned network with another kind than "x0", or another schedule.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> net = jaxdiff.UNet(jaxdiff.UNetConfig(out_channels=1, channels=(32, 64), groups=8))
        >>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros([1, 28, 28, 1]), jnp.zeros([1]))["params"]
        >>> denoise = jaxdiff.denoiser(jaxdiff.network(net), params, jaxdiff.schedules.linear())
        >>> jaxdiff.call(denoise, jnp.ones([2, 28, 28, 1]), 500, None).x0.shape
        (2, 28, 28, 1)
    """
    check_kind(predict, schedule)
    check_same_process(apply, predict, schedule)
    return Partial(_denoise, Static(apply), Static(predict), params, schedule)


def to_prediction(predict: str, schedule: Schedule, output: Array, aux: Aux, x_t: Array, t) -> Prediction:
    """Converts a network's output for a batch to a `Prediction`; the second half of 2C channels is the variance.

    Args:
      predict: kind of the output, "eps", "x0", "v", "score" or "flow".
      schedule: noise schedule it was trained with.
      output: [B, ..., C] or [B, ..., 2C].
      aux: its further outputs.
      x_t: its input, [B, ..., C].
      t: level, scalar or [B].

    Returns:
      `Prediction` with leaves of the shape of x_t.

    Raises:
      ValueError: unknown kind; an output that has neither x_t's shape nor twice its channels.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.denoise import to_prediction
        >>> schedule = jaxdiff.schedules.from_betas([0.36])  # alpha_1 = 0.8, sigma_1 = 0.6
        >>> output, x_t = jnp.array([[2.0, 0.5]]), jnp.array([[2.2]])
        >>> prediction = to_prediction("x0", schedule, output, jaxdiff.types.Aux(), x_t, 1)
        >>> round(float(prediction.eps[0, 0]), 4), float(prediction.aux.variance[0, 0])
        (1.0, 0.5)
    """
    channels = x_t.shape[-1]
    if output.shape == (*x_t.shape[:-1], 2 * channels):
        output, aux = output[..., :channels], aux._replace(variance=output[..., channels:])
    if output.shape != x_t.shape:
        raise ValueError(f"the network's output has shape {output.shape}, and x_t has shape {x_t.shape}")
    t = jnp.broadcast_to(jnp.asarray(t), x_t.shape[:1])
    one = functools.partial(predict_from, predict)
    return jax.vmap(one, in_axes=(None, 0, 0, 0))(schedule, output, x_t, t)._replace(aux=aux)


def check_kind(predict: str, schedule: Schedule) -> None:
    """Refuses a kind of prediction that the schedule cannot be used with.

    Args:
      predict: "eps", "x0", "v", "score" or "flow".
      schedule: noise schedule; a traced one is not checked.

    Raises:
      ValueError: unknown kind; "eps" or "score" with zero terminal signal-to-noise ratio.

    Example::

        >>> from jaxdiff import schedules
        >>> from jaxdiff.denoise import check_kind
        >>> check_kind("v", schedules.zero_terminal_snr(schedules.linear()))
    """
    check_known("kind of prediction", predict, KINDS)
    last = jnp.asarray(schedule.alpha)[-1]
    if predict in ("eps", "score") and not is_traced(last) and float(last) == 0.0:
        raise ValueError(
            f"`predict`={predict!r} cannot start from zero signal-to-noise: use 'v', 'flow' or 'x0' with this schedule"
        )


def _denoise(apply: Static, predict: Static, params, schedule, x_t: Array, t, cond=None) -> Prediction:
    check_floats("x_t", x_t)
    output, aux = apply.value(params, x_t, t, cond)
    return to_prediction(predict.value, schedule, output, aux, x_t, t)
