r"""Samplers of the probability-flow ODE, integrated over phi = atan2(sigma, alpha), where it is finite everywhere.

  (1)  dx/dt = -beta(t)/2 (x + score(x, t))                        Song et al. 2021 (score SDE), eqs. 11 and 13
  (2)  d(x / alpha) / d(sigma / alpha) = eps(x, t)                 Song et al. 2021 (DDIM), eq. 14
  (3)  dy/dphi = cos(phi) eps - sin(phi) x0,   y = x / sqrt(alpha^2 + sigma^2)        Salimans and Ho 2022, appendix D

The three are one equation in three variables. (3) has no division by alpha, so that it can start at zero signal-to-noise.
Where variance is preserved y is x, and (3) is v.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arguments import ABOVE_0, AT_LEAST_0, check_count, check_number, check_prediction
from jaxdiff.process import q_sample, target_for
from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.schedules import Schedule
from jaxdiff.types import AlphaSigma, Array, Denoiser, Static

FIRST_STEP = 16  # the first trial step of an adaptive solver is 1/16 of the path


@SAMPLERS.register("probability_flow", leave_out=("solver",))
def probability_flow(rtol: float = 1e-4, atol: float = 1e-4, max_steps: int = 1000, solver=None) -> Sampler:
    """The probability-flow ODE by an adaptive solver of diffrax (Song et al. 2021, score SDE, eq. 13).

        dy/dphi = cos(phi) eps - sin(phi) x0,   phi = atan2(sigma, alpha),   y = x / sqrt(alpha^2 + sigma^2)

    From level t to level s with as many solver steps as the tolerances require: `grid(T, 1)` is one path from end to end,
    and a finer grid adds fixed points in between. Networks are not trained below level 1, so that a step into level 0
    integrates to level 1 and ends with a DDIM step. The examples of a batch share the solver's steps, which satisfy the
    tolerances for each of them; so an example depends on the others, within the tolerances.

    Args:
      rtol: relative tolerance of a step's error in y, above 0; traced.
      atol: absolute tolerance in y; traced.
      max_steps: limit of solver steps in one step t -> s, rejected ones included.
      solver: an adaptive solver of diffrax; None is `diffrax.Tsit5()`, of order 5.

    Returns:
      `Sampler`, deterministic, for rising grids as well as falling ones, from any level of at least 1. x is NaN if
      max_steps were not enough, and on a path that starts below level 1.

    Raises:
      ValueError: max_steps below 1, an rtol that is not above 0 or an atol below 0, unless they are traced; another solver.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> from jaxdiff.samplers import probability_flow
        >>> schedule, data = jaxdiff.schedules.linear(), testing.gaussian([1.0, -1.0], 0.25)
        >>> x_T = jnp.array([[0.5, -2.0], [1.0, 0.3]])
        >>> sampler = probability_flow(rtol=1e-5, atol=1e-5)
        >>> x, _ = jaxdiff.sample(None, sampler, data.denoiser(schedule), schedule, [1000, 1], x_T)
        >>> bool(jnp.allclose(x, data.flow(schedule, x_T, 1000, 1), atol=1e-3))
        True
    """
    return Sampler(Partial(State), Partial(_step, adaptive(rtol, atol, max_steps, solver)))


@SAMPLERS.register("probability_flow_fixed", leave_out=("solver",))
def probability_flow_fixed(substeps: int = 1, solver=None) -> Sampler:
    """The probability-flow ODE by a constant number of equal steps in the angle: for pods.

    Like `probability_flow`, without tolerances: every device does the same work, and no example depends on another.

    Args:
      substeps: solver steps in one step t -> s, at least 1.
      solver: a solver of diffrax; None is `diffrax.Heun()`, of order 2, with two evaluations per step.

    Returns:
      `Sampler`, deterministic, for rising grids as well as falling ones, from any level of at least 1.

    Raises:
      ValueError: substeps below 1, or another solver.

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
    return Sampler(Partial(State), Partial(_step, fixed(substeps, solver)))


class Method(NamedTuple):
    """ODE solver and step sizes, from `adaptive` or `fixed`; a pytree, of which the tolerances are traced.

    Attributes:
      static: `Static` of (solver, n, max_steps): the first step is 1/n of the path, and there are at most max_steps.
      tolerances: (rtol, atol), or None for constant steps.
    """

    static: Static
    tolerances: Any


def adaptive(rtol: float = 1e-4, atol: float = 1e-4, max_steps: int = 1000, solver=None) -> Method:
    """Adaptive steps: as many as the tolerances require.

    Args:
      rtol: relative tolerance of a step's error in each example, above 0; traced.
      atol: absolute tolerance; traced.
      max_steps: limit of steps on one path, rejected ones included.
      solver: an adaptive solver of diffrax; None is `diffrax.Tsit5()`, of order 5.

    Returns:
      `Method`.

    Raises:
      ValueError: max_steps below 1, an rtol that is not above 0 or an atol below 0, unless they are traced; another solver.

    Example::

        >>> from jaxdiff.samplers import ode
        >>> [round(float(tolerance), 6) for tolerance in ode.adaptive(rtol=1e-5).tolerances]
        [1e-05, 0.0001]
    """
    import diffrax  # here, because importing it takes half a second

    max_steps = check_count("max_steps", max_steps)
    check_number("rtol", rtol, *ABOVE_0)  # at 0 no step is good enough wherever atol is 0 too
    check_number("atol", atol, *AT_LEAST_0)
    _check_solver(solver, diffrax.AbstractAdaptiveSolver, "an adaptive solver of diffrax, such as diffrax.Dopri5()")
    static = Static((diffrax.Tsit5() if solver is None else solver, FIRST_STEP, max_steps))
    return Method(static, (jnp.asarray(rtol, jnp.float32), jnp.asarray(atol, jnp.float32)))


def fixed(substeps: int = 1, solver=None) -> Method:
    """A constant number of equal steps: the same work for all devices, and no example depends on another.

    Args:
      substeps: number of steps on one path, at least 1.
      solver: a solver of diffrax; None is `diffrax.Heun()`, of order 2, with two evaluations per step.

    Returns:
      `Method`.

    Raises:
      ValueError: substeps below 1, or another solver.

    Example::

        >>> from jaxdiff.samplers import ode
        >>> ode.fixed(20).tolerances is None
        True
    """
    import diffrax

    substeps = check_count("substeps", substeps)
    _check_solver(solver, diffrax.AbstractSolver, "a solver of diffrax, such as diffrax.Heun()")
    return Method(Static((diffrax.Heun() if solver is None else solver, substeps, substeps)), None)


def _check_solver(solver, kind, wanted):
    if solver is not None and not isinstance(solver, kind):
        shown = f"the class {solver.__name__}" if isinstance(solver, type) else repr(solver)
        raise ValueError(f"`solver` must be {wanted}, not {shown}")


def integrate(method: Method, field: Partial, y, begin: Array, end: Array):
    """Solves dy/dphi = field(phi, y) from one angle to another, for a batch.

    Args:
      method: from `adaptive` or `fixed`. With `adaptive` the error of a step, as the root mean square over a leaf's
        numbers, is within the tolerances in each leaf of each example.
      field: (phi scalar, y) -> dy/dphi, a `Partial` over its arrays.
      y: pytree of float32 leaves [B, ...] at `begin`.
      begin: scalar angle.
      end: scalar angle, above or below `begin`.

    Returns:
      y at `end`; NaN if the method's max_steps were not enough.

    Example::

        >>> import math
        >>> import jax.numpy as jnp
        >>> from jax.tree_util import Partial
        >>> from jaxdiff.samplers import ode
        >>> y = ode.integrate(ode.adaptive(1e-5, 1e-5), Partial(lambda phi, y: -y), jnp.ones([1]), 0.0, 1.0)
        >>> abs(float(y[0]) - math.exp(-1)) < 1e-4
        True
    """
    import diffrax

    solver, steps, max_steps = method.static.value
    if method.tolerances is None:
        controller = diffrax.ConstantStepSize()
    else:
        controller = diffrax.PIDController(*method.tolerances, norm=_largest)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_in_steps),
        solver,
        t0=jnp.float32(0.0),
        t1=jnp.float32(steps),
        dt0=jnp.float32(1.0),
        y0=y,
        args=(field, begin, (end - begin) / steps),
        stepsize_controller=controller,
        max_steps=max_steps,
        throw=False,
    )
    ended = solution.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda y: jnp.where(ended, y[-1], jnp.nan), solution.ys)


def velocity(denoise: Denoiser, schedule: Schedule, cond, phi: Array, y: Array) -> Array:
    """Vector field of the probability flow, equation (3).

    Args:
      denoise: any denoiser.
      schedule: noise schedule.
      cond: conditions, one row per example.
      phi: scalar angle, between those of level 1 and T.
      y: x_t / sqrt(alpha_t^2 + sigma_t^2), float32 [B, ...].

    Returns:
      dy/dphi, shape of y.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import schedules, testing
        >>> from jaxdiff.samplers import ode
        >>> schedule, data = schedules.linear(), testing.gaussian([1.0], 0.0)  # x_t = cos(phi) + sin(phi) eps
        >>> v = ode.velocity(data.denoiser(schedule), schedule, None, jnp.pi / 4, jnp.array([[2**0.5]]))  # eps = 1
        >>> abs(float(v[0, 0])) < 1e-3  # -sin(phi) + cos(phi) eps
        True
    """
    t = level_at(schedule, phi)
    size = schedule.std(t)
    x0, eps, _ = check_prediction(denoise(size * y, t, cond), y)
    return target_for("v", schedule, x0, eps, t) / size


def angle_of(schedule: Schedule, t) -> Array:
    """phi = atan2(sigma_t, alpha_t), from 0 at clean data to pi/2 at pure noise.

    Args:
      schedule: noise schedule.
      t: int level in 0..T or float level in [0, T], any shape.

    Returns:
      float32, shape of t.

    Example::

        >>> import math
        >>> from jaxdiff import schedules
        >>> from jaxdiff.samplers import ode
        >>> round(math.degrees(ode.angle_of(schedules.from_betas([0.5]), 1)), 3)
        45.0
    """
    alpha, sigma = schedule(t)
    return jnp.arctan2(sigma, alpha)


def level_at(schedule: Schedule, phi) -> Array:
    """The level at which the schedule has an angle, by inverting its interpolation.

    Args:
      schedule: noise schedule.
      phi: angle, any shape; clipped to the range from level 1 to T.

    Returns:
      Float levels in [1, T], shape of phi.

    Example::

        >>> from jaxdiff import schedules
        >>> from jaxdiff.samplers import ode
        >>> schedule = schedules.linear()
        >>> round(float(ode.level_at(schedule, ode.angle_of(schedule, 123.4))), 1)
        123.4
    """
    return jnp.maximum(schedule.level_of(AlphaSigma(jnp.cos(phi), jnp.sin(phi))), 1.0)


def _step(method, keys, denoise, schedule, state, t, s, cond):
    del keys
    prediction = denoise(state.x, t, cond)  # only for `collect`: without it the compiler removes this
    lowest = jnp.maximum(s, 1)
    field = Partial(velocity, denoise, schedule, cond)
    y = integrate(method, field, state.x / schedule.std(t), angle_of(schedule, t), angle_of(schedule, lowest))
    x = schedule.std(lowest) * y

    def ddim(x):
        x0, eps, _ = denoise(x, lowest, cond)
        return q_sample(schedule, x0, s, eps)

    x = lax.cond(s < 1, ddim, lambda x: x, x)
    return state._replace(x=jnp.where(t >= 1, x, jnp.nan)), prediction


def _in_steps(u, y, args):
    """The field in the variable u, which is 0 at the start and increases by 1 in each of the equal steps."""
    field, begin, rate = args
    return jax.tree.map(lambda slope: rate * slope, field(begin + rate * u, y))


def _largest(errors):
    """The largest root mean square of an example's leaf."""
    each = lambda error: jnp.sqrt(jnp.square(error).mean(tuple(range(1, error.ndim)))).max()
    return jnp.stack([each(error) for error in jax.tree.leaves(errors)]).max()
