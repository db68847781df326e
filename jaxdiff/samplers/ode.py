r"""The probability-flow ODE, integrated over the angle phi = atan2(sigma, alpha), in which it is finite everywhere.

  (1)  dx/dt = -beta(t)/2 (x + score(x, t))                        Song et al. 2021 (score SDE), eqs. 11 and 13
  (2)  d(x / alpha) / d(sigma / alpha) = eps(x, t)                 Song et al. 2021 (DDIM), eq. 14
  (3)  dx/dphi = cos(phi) eps - sin(phi) x0 = v                    Salimans and Ho 2022, appendix D

The three are one equation in three variables. (3) divides by nothing, so that it also begins at zero signal-to-noise.
"""

from typing import Any, NamedTuple

import diffrax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.process import q_sample, target_for
from jaxdiff.samplers.base import Sampler, State
from jaxdiff.schedules import Schedule
from jaxdiff.types import Array, Denoiser, Static

FIRST_GUESS = 16  # an adaptive path's first step is this part of it


def probability_flow(rtol: float = 1e-4, atol: float = 1e-4, max_steps: int = 1000, solver=None) -> Sampler:
    """The probability-flow ODE by an adaptive solver of diffrax (Song et al. 2021, score SDE, eq. 13).

        dx/dphi = v = alpha eps - sigma x0,   phi = atan2(sigma, alpha)

    From level t to level s by as many steps as the tolerances ask for: `grid(T, 1)` is one path from end to end, and a
    finer grid gives fixed points in between. Networks know no level below 1, so that a step into level 0 integrates to
    level 1 and ends with a DDIM step. The examples of a batch share their steps, which satisfy the tolerances in each of
    them; so an example depends on the others, within the tolerances.

    Args:
      rtol: relative tolerance of a step's error, above 0. Traced, and so is atol.
      atol: absolute tolerance.
      max_steps: of the solver in one step t -> s, rejected ones included.
      solver: an adaptive solver of diffrax; None is `diffrax.Tsit5()`, of order 5.

    Returns:
      `Sampler`, which draws no noise and goes up as well as down, from any level of at least 1. x is NaN where max_steps
      were not enough, and on a path that begins below level 1.

    Raises:
      ValueError: max_steps below 1.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> from jaxdiff.samplers import probability_flow
        >>> schedule, data = jaxdiff.schedules.linear(), testing.gaussian([1.0, -1.0], 0.25)
        >>> x_T = jnp.array([[0.5, -2.0], [1.0, 0.3]])
        >>> x, _ = jaxdiff.sample(None, probability_flow(), data.denoiser(schedule), schedule, [1000, 1], x_T)
        >>> bool(jnp.allclose(x, data.flow(schedule, x_T, 1000, 1), atol=1e-3))
        True
    """
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps} must be at least 1")
    how = Static((diffrax.Tsit5() if solver is None else solver, FIRST_GUESS, max_steps))
    tolerances = jnp.asarray(rtol, jnp.float32), jnp.asarray(atol, jnp.float32)
    return Sampler(Partial(State), Partial(_step, how, tolerances))


def probability_flow_fixed(steps: int = 1, solver=None) -> Sampler:
    """The probability-flow ODE by a constant number of equal steps in the angle: the choice for pods.

    As `probability_flow`, without its tolerances: every device does the same work, and no example depends on another.

    Args:
      steps: of the solver in one step t -> s, at least 1.
      solver: a solver of diffrax; None is `diffrax.Heun()`, of order 2, with two evaluations a step.

    Returns:
      `Sampler`, which draws no noise and goes up as well as down, from any level of at least 1.

    Raises:
      ValueError: steps below 1.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> from jaxdiff.samplers import probability_flow_fixed
        >>> schedule, data = jaxdiff.schedules.linear(), testing.gaussian([1.0, -1.0], 0.25)
        >>> x_T, levels = jnp.array([[0.5, -2.0], [1.0, 0.3]]), jaxdiff.timesteps.grid(1000, 50, end=1)
        >>> x, _ = jaxdiff.sample(None, probability_flow_fixed(), data.denoiser(schedule), schedule, levels, x_T)
        >>> bool(jnp.allclose(x, data.flow(schedule, x_T, 1000, 1), atol=1e-2))
        True
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    how = Static((diffrax.Heun() if solver is None else solver, steps, steps))
    return Sampler(Partial(State), Partial(_step, how, None))


def _step(how, tolerances, keys, denoise, schedule, state, t, s, cond):
    del keys
    prediction = denoise(state.x, t, cond)  # of no use but to `collect`: without it the compiler leaves it out
    lowest = jnp.maximum(s, 1)
    path = _Path(denoise, schedule, cond, *(_angle(schedule, level) for level in (t, lowest)))
    x = _integrate(how.value, tolerances, path, state.x)

    def ddim(x):
        x0, eps, _ = denoise(x, lowest, cond)
        return q_sample(schedule, x0, s, eps)

    x = lax.cond(s < 1, ddim, lambda x: x, x)
    return state._replace(x=jnp.where(t >= 1, x, jnp.nan)), prediction


class _Path(NamedTuple):
    denoise: Denoiser
    schedule: Schedule
    cond: Any
    begin: Array
    end: Array


def _integrate(how, tolerances, path, x):
    """Equation (3) over u in 0..steps, which runs evenly from the angle `path.begin` to `path.end`."""
    solver, steps, max_steps = how
    if tolerances is None:
        controller = diffrax.ConstantStepSize()
    else:
        controller = diffrax.PIDController(*tolerances, norm=_largest)
    rate = (path.end - path.begin) / steps
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_field),
        solver,
        t0=0.0,
        t1=float(steps),
        dt0=1.0,
        y0=x,
        args=(path, rate),
        stepsize_controller=controller,
        max_steps=max_steps,
        throw=False,
    )
    return jnp.where(solution.result == diffrax.RESULTS.successful, solution.ys[-1], jnp.nan)


def _field(u, x, args):
    path, rate = args
    level = _level(path.schedule, path.begin + rate * u)
    prediction = path.denoise(x, level, path.cond)
    return rate * target_for("v", path.schedule, prediction.x0, prediction.eps, level)


def _angle(schedule, t):
    alpha, sigma = schedule(t)
    return jnp.arctan2(sigma, alpha)


def _level(schedule, angle):
    """The float level in [1, T] at which the schedule has this angle; its interpolation inverted."""
    levels = jnp.arange(1, schedule.num_steps + 1)
    return jnp.interp(angle, _angle(schedule, levels), levels.astype(jnp.float32))


def _largest(error):
    """The largest root mean square of an example."""
    return jnp.sqrt(jnp.square(error).mean(range(1, error.ndim)).max())
