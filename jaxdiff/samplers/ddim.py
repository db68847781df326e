"""DDIM: one family of steps, from deterministic (eta = 0) to ancestral (eta = 1)."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.process import p_step
from jaxdiff.samplers.base import Sampler, State, normal


def ddim(eta: float = 0.0) -> Sampler:
    """Denoising diffusion implicit models (Song, Meng and Ermon 2021), eqs. 12 and 16, on any falling grid.

        x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z,   std = eta sqrt(beta) sigma_s / sigma_t

    Args:
      eta: share of the posterior's standard deviation that is added as noise, in [0, 1]; 0 is deterministic and 1 is
        ancestral sampling. Traced: other values compile nothing.

    Returns:
      `Sampler`. Without a random key only eta = 0 makes sense; any other eta then gives NaN and not a silent zero.

    Raises:
      ValueError: an eta outside of [0, 1].
    """
    if not isinstance(eta, jax.core.Tracer) and not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} must lie in [0, 1]: 0 is deterministic, 1 ancestral")
    return Sampler(Partial(State), Partial(_step, jnp.asarray(eta, jnp.float32)))


def _step(eta, keys, denoise, schedule, state, t, s, cond):
    prediction = denoise(state.x, t, cond)
    if keys is None:
        z = jnp.full_like(state.x, jnp.where(eta == 0, 0.0, jnp.nan))
    else:
        z = normal(keys, state.x.shape[1:])
    one = lambda prediction, x, z: p_step(schedule, prediction, x, t, s, z, eta)
    return State(jax.vmap(one)(prediction, state.x, z)), prediction
