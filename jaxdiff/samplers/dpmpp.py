"""DPM-Solver++(2M): second order in log-SNR with one evaluation a step, as an ODE or an SDE."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.process import p_step
from jaxdiff.samplers.base import Sampler, State, normal
from jaxdiff.types import AlphaSigma, Array, Static


class Memory(NamedTuple):
    """What the step before left behind.

    Attributes:
      x0: its prediction, float32 [B, ...].
      level: where it started; before the first step a level without signal, of which nothing is extrapolated.
    """

    x0: Array
    level: AlphaSigma


def dpmpp_2m(sde: bool = False) -> Sampler:
    r"""DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2), on any falling grid.

    With lambda = log(alpha / sigma), h = lambda_s - lambda_t and x0' the prediction of the step before, h' long,

        D   = x0 + (h / h') (x0 - x0') / 2
        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D
        x_s = (sigma_s / sigma_t) e^-h x_t + alpha_s (1 - e^-2h) D + sigma_s sqrt(1 - e^-2h) z        if sde

    Where lambda is infinite D = x0, and the step is DDIM's, or ancestral if sde: the first step, the one after a level of
    zero signal-to-noise ratio, and the one into level 0. End there when steps are few: a last step to level 1 spans so
    much of lambda that its extrapolation costs more than it gains.

    Args:
      sde: takes the second formula, the paper's SDE-DPM-Solver++(2M); static.

    Returns:
      `Sampler`; with sde, `sample` raises ValueError where it has no random key.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import sample, schedules, testing, timesteps
        >>> from jaxdiff.samplers import dpmpp_2m
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> x_T = jnp.array([[-1.0], [0.5]])
        >>> levels = timesteps.grid(1000, 50)
        >>> x, _ = sample(None, dpmpp_2m(), data.denoiser(schedule), schedule, levels, x_T)
        >>> bool(jnp.allclose(x, data.flow(schedule, x_T, 1000, 0), atol=0.01))  # where the exact flow ends
        True
    """
    return Sampler(Partial(_init), Partial(_step, Static(bool(sde))))


def _init(x_T):
    return State(x_T, Memory(jnp.zeros_like(x_T), AlphaSigma(jnp.float32(0.0), jnp.float32(1.0))))


def _step(sde, keys, denoise, schedule, state, t, s, cond):
    if sde.value and keys is None:
        raise ValueError("the SDE's solver draws noise: give sample() a random key")
    prediction = denoise(state.x, t, cond)
    z = normal(keys, state.x.shape[1:]) if sde.value else None
    return _update(schedule, prediction, state, t, s, z), prediction


def _update(schedule, prediction, state, t, s, z):
    """The state at s; z is the noise of the SDE's step, and None for the ODE's."""
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
    """h / h', and 0 where one of the two is infinite."""
    finite = (last.alpha > 0) & (then.sigma > 0)
    before, here, after = (half_log_snr(level) for level in (last, now, then))
    return jnp.where(finite, (after - here) / jnp.where(finite, here - before, 1.0), 0.0)


def half_log_snr(level: AlphaSigma) -> Array:
    """lambda = log(alpha / sigma); some finite number where that is infinite, so that gradients are finite, too."""
    alpha, sigma = (jnp.where(x > 0, x, 1.0) for x in level)
    return jnp.log(alpha) - jnp.log(sigma)
