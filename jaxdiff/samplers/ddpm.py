"""Ancestral sampling, the sampler of DDPM."""

import jax
from jax.tree_util import Partial

from jaxdiff.errors import check_known
from jaxdiff.process import VARIANCES, Variance, p_step
from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.samplers.keys import normal
from jaxdiff.types import Static


@SAMPLERS.register("ddpm")
def ddpm(variance: Variance = "posterior") -> Sampler:
    """Ancestral sampling (Ho, Jain and Abbeel 2020, algorithm 2), also on grids that skip levels.

        x_s = (alpha_s beta x0 + r sigma_s^2 x_t) / sigma_t^2 + std z,   r = alpha_t / alpha_s,
        beta = sigma_t^2 - r^2 sigma_s^2,   std = sqrt(beta) sigma_s / sigma_t ("posterior")

    Args:
      variance: "posterior" (the paper's fixed-small), "beta" (fixed-large) or "learned"; see `process.p_posterior`.

    Returns:
      `Sampler`; `sample` raises ValueError without a random key, and with "learned" also if the network has no variance.

    Raises:
      ValueError: unknown variance.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule, key = jaxdiff.schedules.linear(), jax.random.key(0)
        >>> def denoise(x_t, t, cond):  # exact where all data is the number 3
        ...     alpha, sigma = schedule(t)
        ...     return jaxdiff.Prediction(jnp.full_like(x_t, 3.0), (x_t - 3 * alpha) / sigma)
        >>> x_T = jaxdiff.samplers.noise(jaxdiff.samplers.keys_for(key, 5000), (1,))
        >>> levels = jaxdiff.timesteps.grid(1000, 3, end=250)
        >>> x, _ = jaxdiff.sample(key, jaxdiff.ddpm(), denoise, schedule, levels, x_T)
        >>> alpha, sigma = schedule(250)  # x is distributed as q(x_250) = N(3 alpha, sigma^2)
        >>> abs(float(x.mean() - 3 * alpha)) < 0.05, abs(float(x.std() - sigma)) < 0.05
        (True, True)
    """
    check_known("variance", variance, VARIANCES)
    return Sampler(Partial(State), Partial(_step, Static(variance)))


def _step(variance, keys, denoise, schedule, state, t, s, cond):
    if keys is None:
        raise ValueError("ancestral sampling adds noise: give sample() a random key")
    prediction = denoise(state.x, t, cond)
    z = normal(keys, state.x.shape[1:])
    ancestral = lambda prediction, x, z: p_step(schedule, prediction, x, t, s, z, variance=variance.value)
    return State(jax.vmap(ancestral)(prediction, state.x, z)), prediction
