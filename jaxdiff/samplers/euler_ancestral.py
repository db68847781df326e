"""Ancestral sampling by Euler's method: a step to less noise than the next level has, then fresh noise."""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.samplers.keys import normal


@SAMPLERS.register("euler_ancestral")
def euler_ancestral() -> Sampler:
    r"""Ancestral sampling with Euler steps (Karras et al. 2022's variables; k-diffusion), on any falling grid.

    With y = x / alpha and w = sigma / alpha:

        w_up^2 = w_s^2 (w_t^2 - w_s^2) / w_t^2,   w_down^2 = w_s^2 - w_up^2
        y_s    = y_t + (w_down - w_t) eps + w_up z

    This is the step of `ddpm` with the posterior's variance, in other variables: alpha_s w_down = alpha_s w_s^2 / w_t is
    the factor of eps in the posterior's mean, and alpha_s w_up its standard deviation.

    Returns:
      `Sampler`; without a random key `sample` raises ValueError.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import ddpm, sample, schedules, testing, timesteps
        >>> from jaxdiff.samplers import euler_ancestral
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> arguments = data.denoiser(schedule), schedule, timesteps.grid(1000, 20), jnp.array([[-1.0], [0.5]])
        >>> x, _ = sample(jax.random.key(0), euler_ancestral(), *arguments)
        >>> y, _ = sample(jax.random.key(0), ddpm(), *arguments)
        >>> bool(jnp.allclose(x, y, atol=1e-4))
        True
    """
    return Sampler(Partial(State), Partial(_step))


def _step(keys, denoise, schedule, state, t, s, cond):
    if keys is None:
        raise ValueError("ancestral sampling adds noise: give sample() a random key")
    prediction = denoise(state.x, t, cond)
    return State(_update(schedule, prediction, t, s, normal(keys, state.x.shape[1:]))), prediction


def _update(schedule, prediction, t, s, z):
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    ratio = alpha_t * sigma_s / (alpha_s * sigma_t)  # w_s / w_t, also where w_t is infinite
    down, up = sigma_s * ratio, sigma_s * jnp.sqrt((1 - ratio) * (1 + ratio))
    return alpha_s * prediction.x0 + down * prediction.eps + up * z
