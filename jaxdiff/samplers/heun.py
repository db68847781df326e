"""Heun's method on the probability flow over sigma/alpha, with churn: the sampler of EDM."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arguments import check_number
from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.samplers.keys import normal
from jaxdiff.types import AlphaSigma, Array, is_traced

NO_SIGNAL = 1e-3  # a level whose alpha is below this counts as one without signal


class Churn(NamedTuple):
    """Amount of noise that is added before each step; see `heun`."""

    gamma: Array
    s_min: Array
    s_max: Array
    s_noise: Array


@SAMPLERS.register("heun")
def heun(churn: float = 0.0, s_min: float = 0.0, s_max: float = float("inf"), s_noise: float = 1.0) -> Sampler:
    r"""Second-order sampling (Karras, Aittala, Aila and Laine 2022, EDM, algorithm 2), on any falling grid.

    With y = x / alpha and w = sigma / alpha the probability flow is dy/dw = eps, and a step from t to s is

        y'  = y_t + (w_s - w_t) eps(x_t, t)                                  Euler, which is DDIM
        y_s = y_t + (w_s - w_t) (eps(x_t, t) + eps(x', s)) / 2               Heun

    With churn, noise z is first added, which raises t to the (fractional) level that has the larger w:

        w_t <- (1 + gamma) w_t,   y_t <- y_t + sqrt((1 + gamma)^2 - 1) w_t s_noise z,   gamma = min(churn, sqrt(2) - 1)

    A step evaluates the denoiser twice. Into level 0, at which networks are not trained, and out of a level without
    signal (alpha below 0.001, which the paper's is never) the step is Euler's and evaluates it once. Steps are best
    spaced evenly in a power of w (Karras spacing), not in levels.

    Args:
      churn: gamma, the paper's S_churn / N for N steps, at least 0; values above sqrt(2) - 1 count as that, and no level is
        raised above T. With the number 0 there is no churn, which is a separate compilation; otherwise traced.
      s_min: smallest w at which noise is added; traced.
      s_max: largest w at which noise is added; traced.
      s_noise: standard deviation of z, traced; slightly above 1 compensates for detail that denoisers remove.

    Returns:
      `Sampler`; with churn, `sample` raises ValueError without a random key.

    Raises:
      ValueError: a number below 0, or s_min above s_max, unless they are traced.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import sample, schedules, testing, timesteps
        >>> from jaxdiff.samplers import heun
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> x_T = jnp.array([[-1.0], [0.5]])
        >>> levels = timesteps.grid(1000, 50, end=1)
        >>> x, _ = sample(None, heun(), data.denoiser(schedule), schedule, levels, x_T)
        >>> bool(jnp.allclose(x, data.flow(schedule, x_T, 1000, 1), atol=0.01))  # the exact solution
        True
    """
    wanted = "be at least 0: the fraction by which each step raises the noise"
    check_number("churn", churn, wanted, lambda x: x >= 0)
    for name, number in (("s_min", s_min), ("s_max", s_max), ("s_noise", s_noise)):
        check_number(name, number, "be at least 0", lambda x: x >= 0)
    if not (is_traced(s_min) or is_traced(s_max)) and s_min > s_max:
        raise ValueError(f"`s_min`={s_min} must be at most `s_max`={s_max}: between them noise is added")
    if not is_traced(churn) and churn == 0:
        return Sampler(Partial(State), Partial(_step, None))
    return Sampler(Partial(State), Partial(_step, Churn(*(jnp.float32(x) for x in (churn, s_min, s_max, s_noise)))))


def _step(churn, keys, denoise, schedule, state, t, s, cond):
    x = state.x
    if churn is not None:
        if keys is None:
            raise ValueError("`churn` adds noise: give sample() a random key, or leave `churn` at 0")
        x, t = _raise(churn, schedule, x, t, normal(keys, x.shape[1:]))
    prediction = denoise(x, t, cond)
    alpha, sigma = schedule(s)
    gain = slope_gain(schedule, t, s)

    def trapezoid(euler):
        return euler + gain * (denoise(euler, s, cond).eps - prediction.eps) / 2

    euler = alpha * prediction.x0 + sigma * prediction.eps
    return State(lax.cond((sigma > 0) & (gain != 0), trapezoid, lambda euler: euler, euler)), prediction


def slope_gain(schedule, t, s) -> Array:
    """Derivative of x_s with respect to the slope: alpha_s (w_s - w_t); 0 out of a level without signal (infinite w)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    no_signal = alpha_t < NO_SIGNAL
    return jnp.where(no_signal, 0.0, sigma_s - alpha_s * sigma_t / jnp.where(no_signal, 1.0, alpha_t))


def _raise(churn, schedule, x, t, z):
    """x and its level, float, after noise z is added."""
    alpha, sigma = schedule(t)
    w = sigma / alpha
    gamma = jnp.where((churn.s_min <= w) & (w <= churn.s_max), jnp.minimum(churn.gamma, jnp.sqrt(2.0) - 1), 0.0)
    raised = jnp.where(gamma > 0, schedule.level_of(AlphaSigma(alpha, (1 + gamma) * sigma)), t)
    alpha_up, sigma_up = schedule(raised)
    r = jnp.where(alpha > 0, alpha_up / jnp.where(alpha > 0, alpha, 1.0), 1.0)
    beta = (sigma_up - r * sigma) * (sigma_up + r * sigma)
    std = jnp.where(beta > 0, jnp.sqrt(jnp.where(beta > 0, beta, 1.0)), 0.0)
    return r * x + std * churn.s_noise * z, raised
