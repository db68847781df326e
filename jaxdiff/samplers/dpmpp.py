"""DPM-Solver++(2M): second order in log-SNR with one evaluation per step, as an ODE or an SDE."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arguments import check_type, plain
from jaxdiff.process import p_step
from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.samplers.keys import normal
from jaxdiff.types import AlphaSigma, Array, Static


class Memory(NamedTuple):
    """Prediction of the previous step.

    Attributes:
      x0: its predicted x0, float32 [B, ...].
      level: the level that it started from; before the first step a level without signal, from which nothing is
        extrapolated.
    """

    x0: Array
    level: AlphaSigma


@SAMPLERS.register("dpmpp_2m")
def dpmpp_2m(sde: bool = False) -> Sampler:
    r"""DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2), on any falling grid.

    With lambda = log(alpha / sigma), h = lambda_s - lambda_t and x0' the prediction of the previous step, of length h',

        D   = x0 + (h / h') (x0 - x0') / 2
        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D
        x_s = (sigma_s / sigma_t) e^-h x_t + alpha_s (1 - e^-2h) D + sigma_s sqrt(1 - e^-2h) z        if sde

    Where lambda is infinite D = x0, and the step is DDIM's, or ancestral if sde: the first step, the one after a level of
    zero signal-to-noise ratio, and the one into level 0. With few steps, end at level 0: a last step to level 1 spans so
    much of lambda that its extrapolation adds error.

    Args:
      sde: use the second formula, the paper's SDE-DPM-Solver++(2M); static.

    Returns:
      `Sampler`; with sde, `sample` raises ValueError without a random key.

    Raises:
      ValueError: an sde that is no bool.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import sample, schedules, testing, timesteps
        >>> from jaxdiff.samplers import dpmpp_2m
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> x_T = jnp.array([[-1.0], [0.5]])
        >>> levels = timesteps.grid(1000, 50)
        >>> x, _ = sample(None, dpmpp_2m(), data.denoiser(schedule), schedule, levels, x_T)
        >>> bool(jnp.allclose(x, data.flow(schedule, x_T, 1000, 0), atol=0.01))  # the exact solution
        True
    """
    return Sampler(Partial(_init), Partial(_step, Static(check_type("`sde`", plain(sde), bool))))


def _init(x_T):
    return State(x_T, Memory(jnp.zeros_like(x_T), AlphaSigma(jnp.float32(0.0), jnp.float32(1.0))))


def _step(sde, keys, denoise, schedule, state, t, s, cond):
    if sde.value and keys is None:
        raise ValueError("the solver with `sde` adds noise: give sample() a random key")
    prediction = denoise(state.x, t, cond)
    z = normal(keys, state.x.shape[1:]) if sde.value else None
    return _update(schedule, prediction, state, t, s, z), prediction


def _update(schedule, prediction, state, t, s, z):
    """State at s; z is the noise of the SDE's step, None for the ODE."""
    last, now, then = state.memory.level, schedule(t), schedule(s)
    if z is None:
        x = p_step(schedule, prediction, state.x, t, s, 0.0, eta=0.0)
        power = 1
    else:
        x = p_step(schedule, prediction, state.x, t, s, z, eta=1.0)
        power = 2
    decay = now.alpha * then.sigma / (then.alpha * now.sigma)  # e^-h, also where h is infinite
    gain = then.alpha * (1 - decay**power)
    x = x + gain * _ratio(last, now, then) / 2 * (prediction.x0 - state.memory.x0)
    return State(x, Memory(prediction.x0.astype(x.dtype), now))


def _ratio(last, now, then):
    """h / h'; 0 if one of the two is infinite."""
    finite = (last.alpha > 0) & (then.sigma > 0)
    before, here, after = (half_log_snr(level) for level in (last, now, then))
    return jnp.where(finite, (after - here) / jnp.where(finite, here - before, 1.0), 0.0)


def half_log_snr(level: AlphaSigma) -> Array:
    """lambda = log(alpha / sigma); an arbitrary finite number where that is infinite, so that gradients are finite."""
    alpha, sigma = (jnp.where(x > 0, x, 1.0) for x in level)
    return jnp.log(alpha) - jnp.log(sigma)
