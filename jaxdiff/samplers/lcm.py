"""Multistep consistency sampling, the sampler of latent consistency models."""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arguments import ABOVE_0, check_number
from jaxdiff.process import q_sample
from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.samplers.keys import normal
from jaxdiff.types import Array, Prediction, rows

TIMESTEP_SCALING, SIGMA_DATA = 10.0, 0.5  # of published models


@SAMPLERS.register("lcm")
def lcm(timestep_scaling: float = TIMESTEP_SCALING, sigma_data: float = SIGMA_DATA) -> Sampler:
    r"""The sampler of latent consistency models (Luo et al. 2023, multistep sampling), on any falling grid.

        f   = c_skip x_t + c_out x0(x_t, t)                            the end of the path of x_t in clean data
        x_s = alpha_s f + sigma_s z                                    noised again to s
        c_skip = d^2 / (tau^2 + d^2),   c_out = tau / sqrt(tau^2 + d^2),   tau = timestep_scaling (t - 1),   d = sigma_data

    It is for consistency models, distilled to predict the end of the path; with other denoisers it does not solve the ODE.
    Into level 0 no noise is added. At level 1, the published timestep 0, f is x_t (the boundary condition).

    Args:
      timestep_scaling: factor of the published timestep t - 1; traced.
      sigma_data: d, standard deviation of the data; traced.

    Returns:
      `Sampler`; without a random key `sample` raises ValueError.

    Raises:
      ValueError: a number that is not above 0, unless it is traced.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import Prediction, sample, schedules, testing
        >>> from jaxdiff.samplers import lcm
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> def jump(x_t, t, cond):  # a perfect consistency model of this data
        ...     alpha, sigma = schedule(t)
        ...     x0 = data.flow(schedule, x_t, t, 0)
        ...     return Prediction(x0, (x_t - alpha * x0) / sigma)
        >>> x_T = jnp.linspace(-2.0, 2.0, 5)[:, None]
        >>> x, _ = sample(jax.random.key(0), lcm(), jump, schedule, jnp.array([1000, 0]), x_T)
        >>> bool(jnp.allclose(x, 1.0 + 0.5 * x_T, atol=0.01))  # one step from N(0, 1) to N(1, 0.25)
        True
    """
    for name, number in (("timestep_scaling", timestep_scaling), ("sigma_data", sigma_data)):
        check_number(name, number, *ABOVE_0)
    return Sampler(Partial(State), Partial(_step, jnp.float32(timestep_scaling), jnp.float32(sigma_data)))


def _step(timestep_scaling, sigma_data, keys, denoise, schedule, state, t, s, cond):
    if keys is None:
        raise ValueError("consistency sampling adds noise: give sample() a random key")
    prediction = denoise(state.x, t, cond)
    end = end_of_path(timestep_scaling, sigma_data, prediction, state.x, t)
    return State(q_sample(schedule, end, s, normal(keys, state.x.shape[1:]))), prediction


def end_of_path(timestep_scaling, sigma_data, prediction: Prediction, x: Array, t) -> Array:
    """Returns f, the end of the path of x in clean data, see `lcm`; at level 1 it is x."""
    tau = timestep_scaling * (t - 1)  # published timesteps are one less than levels
    scale = jnp.hypot(tau, sigma_data)
    return rows((sigma_data / scale) ** 2, x) * x + rows(tau / scale, x) * prediction.x0
