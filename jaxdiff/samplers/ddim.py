"""DDIM: a family of samplers from deterministic (eta = 0) to ancestral (eta = 1)."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arguments import check_number
from jaxdiff.process import p_step
from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.samplers.keys import normal


@SAMPLERS.register("ddim")
def ddim(eta: float = 0.0) -> Sampler:
    """Denoising diffusion implicit models (Song, Meng and Ermon 2021), eqs. 12 and 16, on any falling grid.

        x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z,   std = eta sqrt(beta) sigma_s / sigma_t

    Args:
      eta: fraction of the posterior's standard deviation that is added as noise, in [0, 1]; 0 is deterministic and 1 is
        ancestral sampling. Traced: other values do not recompile.

    Returns:
      `Sampler`. Without a random key, an eta other than 0 gives NaN.

    Raises:
      ValueError: an eta outside of [0, 1], unless it is traced.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.linear()
        >>> def denoise(x_t, t, cond):  # exact where all data is the number 3
        ...     alpha, sigma = schedule(t)
        ...     return jaxdiff.Prediction(jnp.full_like(x_t, 3.0), (x_t - 3 * alpha) / sigma)
        >>> eps = jnp.array([[-1.0], [0.5]])
        >>> x_T = jaxdiff.process.q_sample(schedule, jnp.full([2, 1], 3.0), 1000, eps)
        >>> levels = jaxdiff.timesteps.grid(1000, 3, end=250)
        >>> x, _ = jaxdiff.sample(None, jaxdiff.ddim(), denoise, schedule, levels, x_T)
        >>> alpha, sigma = schedule(250)
        >>> bool(jnp.allclose(x, alpha * 3 + sigma * eps, atol=1e-4))  # the noise is unchanged, for any number of steps
        True
    """
    check_number("eta", eta, "lie in [0, 1]: 0 is deterministic, 1 ancestral", lambda x: (x >= 0) & (x <= 1))
    return Sampler(Partial(State), Partial(_step, jnp.asarray(eta, jnp.float32)))


def _step(eta, keys, denoise, schedule, state, t, s, cond):
    prediction = denoise(state.x, t, cond)
    if keys is None:
        z = jnp.full_like(state.x, jnp.where(eta == 0, 0.0, jnp.nan))
    else:
        z = normal(keys, state.x.shape[1:])
    one = lambda prediction, x, z: p_step(schedule, prediction, x, t, s, z, eta)
    return State(jax.vmap(one)(prediction, state.x, z)), prediction
