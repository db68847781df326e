"""PNDM in its linear multistep form (PLMS): DDIM's step with a slope extrapolated from previous ones."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arguments import check_type, plain
from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.samplers.heun import slope_gain
from jaxdiff.types import Array, Static

ADAMS_BASHFORTH = (  # weights of the newest slope and the three before, with 0, 1, 2 and 3 previous ones
    (1, 0, 0, 0),
    (3 / 2, -1 / 2, 0, 0),
    (23 / 12, -16 / 12, 5 / 12, 0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class Memory(NamedTuple):
    """Predictions of previous steps.

    Attributes:
      eps: the last three predictions, the newest first, float32 [3, B, ...].
      steps: number of steps taken, int32.
    """

    eps: Array
    steps: Array


@SAMPLERS.register("pndm")
def pndm(runge_kutta: bool = False) -> Sampler:
    r"""Pseudo linear multistep sampling, PLMS (Liu, Ren, Lin and Zhao 2022, eqs. 9 and 12), on any falling grid.

        e   = (55 eps_t - 59 eps_{t-1} + 37 eps_{t-2} - 9 eps_{t-3}) / 24       of this step and the three before
        x_s = alpha_s (x_t - sigma_t e) / alpha_t + sigma_s e

    The second and third step use the formulas of lower order, and the first the mean of eps at both of its ends, for which
    it evaluates the denoiser once more (a first step out of a level without signal or into level 0 is DDIM's). The weights
    are exact for steps even in sigma/alpha, but are used on every grid, so that the order is second instead of fourth on
    grids whose step length changes slowly. On steps even in levels, whose last ones change quickly, the measured order is
    first, with a small error nevertheless: the method was designed for these grids.

    Args:
      runge_kutta: take the first three steps by the pseudo Runge-Kutta method (eq. 13), with four evaluations each, as in
        the paper's F-PNDM; static.

    Returns:
      `Sampler`.

    Raises:
      ValueError: a runge_kutta that is no bool.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import sample, schedules, testing, timesteps
        >>> from jaxdiff.samplers import pndm
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.25)
        >>> x_T = jnp.array([[-1.0], [0.5]])
        >>> levels = timesteps.grid(1000, 50, end=1)
        >>> x, _ = sample(None, pndm(), data.denoiser(schedule), schedule, levels, x_T)
        >>> bool(jnp.allclose(x, data.flow(schedule, x_T, 1000, 1), atol=0.01))  # the exact solution
        True
    """
    runge_kutta = check_type("`runge_kutta`", plain(runge_kutta), bool)
    return Sampler(Partial(_init), Partial(_step, Static(runge_kutta)))


def _init(x_T):
    return State(x_T, Memory(jnp.zeros((3, *x_T.shape), x_T.dtype), jnp.int32(0)))


def _step(runge_kutta, keys, denoise, schedule, state, t, s, cond):
    del keys
    prediction, memory = denoise(state.x, t, cond), state.memory
    gain, sigma = slope_gain(schedule, t, s), schedule(s).sigma
    past = jnp.concatenate([prediction.eps.astype(state.x.dtype)[None], memory.eps])

    def moved(u, slope):  # from t to u
        alpha, sigma = schedule(u)
        return alpha * prediction.x0 + sigma * prediction.eps + slope_gain(schedule, t, u) * (slope - past[0])

    def mean_of_ends():
        return (past[0] + denoise(moved(s, past[0]), s, cond).eps) / 2

    def fourth_order():
        middle = t - (t - s) // 2 if jnp.issubdtype(jnp.result_type(t), jnp.integer) else (t + s) / 2
        one = denoise(moved(middle, past[0]), middle, cond).eps
        two = denoise(moved(middle, one), middle, cond).eps
        return (past[0] + 2 * one + 2 * two + denoise(moved(s, two), s, cond).eps) / 6

    def multistep():
        weights = jnp.array(ADAMS_BASHFORTH, jnp.float32)[jnp.minimum(memory.steps, 3)]
        return sum(weights[i] * past[i] for i in range(4))

    start, steps = (fourth_order, 3) if runge_kutta.value else (mean_of_ends, 1)
    slope = lax.cond((memory.steps < steps) & (sigma > 0) & (gain != 0), start, multistep)
    return State(moved(s, slope), Memory(past[:3], memory.steps + 1)), prediction
