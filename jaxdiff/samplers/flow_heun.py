"""Heun's method on the straight flow: that of rectified flow, on any process."""

from jax import lax
from jax.tree_util import Partial

from jaxdiff.samplers.base import SAMPLERS, Sampler, State


@SAMPLERS.register("flow_heun")
def flow_heun() -> Sampler:
    """Second-order sampling of rectified flow (Liu et al. 2022; Lipman et al. 2022), on any falling grid.

    With y = x / (alpha + sigma) and v = sigma / (alpha + sigma), which of rectified flow are x and t/T, y lies on the
    straight line y = (1 - v) x0 + v eps, so that dy/dv = eps - x0, the kind "flow". A step from t to s is

        y'  = y_t + (v_s - v_t) u_t,   u = eps - x0                          Euler, which is DDIM
        y_s = y_t + (v_s - v_t) (u_t + u'_s) / 2                             Heun

    `heun` averages eps over sigma / alpha instead, which is infinite at pure noise. A step evaluates the denoiser
    twice; into level 0, at which networks are not trained, it is Euler's.

    Returns:
      `Sampler`, deterministic.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import sample, schedules, testing, timesteps
        >>> from jaxdiff.samplers import flow_heun
        >>> schedule, data = schedules.rectified_flow(), testing.gaussian([1.0], 0.25)
        >>> x_T = jnp.array([[-1.0], [0.5]])
        >>> x, _ = sample(None, flow_heun(), data.denoiser(schedule), schedule, timesteps.grid(1000, 50), x_T)
        >>> bool(jnp.allclose(x, data.flow(schedule, x_T, 1000, 0), atol=0.01))  # the exact solution
        True
    """
    return Sampler(Partial(State), Partial(_step))


def _step(keys, denoise, schedule, state, t, s, cond):
    del keys
    prediction = denoise(state.x, t, cond)
    (alpha_t, sigma_t), (alpha, sigma) = schedule(t), schedule(s)
    gain = (alpha_t * sigma - alpha * sigma_t) / (alpha_t + sigma_t)  # (alpha_s + sigma_s) (v_s - v_t)

    def trapezoid(euler):
        ahead = denoise(euler, s, cond)
        return euler + gain / 2 * (ahead.eps - ahead.x0 - prediction.eps + prediction.x0)

    euler = alpha * prediction.x0 + sigma * prediction.eps
    return State(lax.cond(sigma > 0, trapezoid, lambda euler: euler, euler)), prediction
