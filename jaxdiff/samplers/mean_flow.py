"""Sampler of networks that predict average velocities."""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.types import Cond, Guided


@SAMPLERS.register("mean_flow", takes_end=True)
def mean_flow() -> Sampler:
    """Steps along average velocities (Geng et al. 2025, eq. 3), on any falling grid; one step is enough.

        x_s = alpha_s x0 + sigma_s eps,   x0 and eps of the network's prediction for the path from t to s

    On rectified flow this is x_s = x_t - (t - s)/T u. The denoiser is called with `Cond.end` = s, and is that of a network
    trained by `objectives.mean_flow`; any other sampler draws from the same network by its velocities. x0 is where the line
    from x_t through x_s meets clean data, which may lie outside of [-1, 1]: it is not clipped.

    Returns:
      `Sampler`.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import process, sample, schedules
        >>> from jaxdiff.samplers import mean_flow
        >>> schedule = schedules.rectified_flow()
        >>> def denoise(x, t, cond):  # average velocities of the data 3: paths are straight, so v itself
        ...     return process.predict_from("flow", schedule, (x - 3.0) / schedule(t).sigma, x, t)
        >>> x, _ = sample(None, mean_flow(), denoise, schedule, jnp.array([1000, 0]), jnp.array([[-1.0], [0.5]]))
        >>> x.tolist()
        [[3.0], [3.0]]
    """
    return Sampler(Partial(State), Partial(_step))


def _step(keys, denoise, schedule, state, t, s, cond):
    del keys
    end = jnp.full(len(state.x), s, jnp.float32)
    prediction = denoise(state.x, t, _until(cond, end))
    alpha, sigma = schedule(s)
    return State(alpha * prediction.x0 + sigma * prediction.eps), prediction


def _until(cond, end):
    if isinstance(cond, Guided):
        return Guided(*(_until(one, end) for one in cond))
    return (cond or Cond())._replace(end=end)
