"""Weights of guidance: a number, one number per example, or a function of the level."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arguments import check_number
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Array, as_partial

Weight = float | Array | Callable[[Array], Array]


def as_weight(weight: Weight, name: str = "scale") -> Array | Partial:
    """A weight as a pytree of float32 arrays, so that another number does not recompile.

    Args:
      weight: a number, one per example [B], or t -> weight.
      name: of the argument, for errors.

    Returns:
      An array, or the function as `Partial`.

    Raises:
      ValueError: no finite number, unless it is traced.

    Example::

        >>> from jaxdiff.guidance.weights import as_weight
        >>> as_weight(3).dtype
        dtype('float32')
    """
    if callable(weight):
        return as_partial(weight)
    check_number(name, weight, per_example=True)
    return jnp.asarray(weight, jnp.float32)


def weight_at(weight: Array | Partial, t) -> Array:
    """The value of a weight at a level.

    Args:
      weight: from `as_weight`.
      t: level, scalar or [B].

    Returns:
      float32, scalar or [B].

    Example::

        >>> from jaxdiff.guidance.weights import as_weight, weight_at
        >>> weight = as_weight(lambda t: t / 100)
        >>> weight_at(weight, 50)
        0.5
    """
    return weight(t) if callable(weight) else weight


def check_weight(name: str, weight: Array, x: Array) -> Array:
    """Returns a weight at a level; ValueError unless it is one number, or one for each of the rows of x."""
    if jnp.shape(weight) not in ((), x.shape[:1]):
        shape = list(jnp.shape(weight))
        raise ValueError(f"`{name}` must be one number, or one for each of {x.shape[0]} examples, not of shape {shape}")
    return weight


def late(schedule: Schedule, scale: float) -> Partial:
    """Weight that is large late in sampling, at low noise, where it changes texture.

        t -> scale alpha_t / sqrt(alpha_t^2 + sigma_t^2)

    Args:
      schedule: noise schedule.
      scale: upper limit of the weight; traced.

    Returns:
      t -> weight, a pytree.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: a scale that is no finite number, unless it is traced.

    Example::

        >>> from jaxdiff import guidance, schedules
        >>> weight = guidance.late(schedules.linear(), 2.0)
        >>> [round(float(weight(t)), 2) for t in (1, 500, 1000)]
        [2.0, 0.56, 0.01]
    """
    check_schedule(schedule)
    check_number("scale", scale, per_example=True)
    return Partial(_late, schedule, jnp.asarray(scale, jnp.float32))


def early(schedule: Schedule, scale: float) -> Partial:
    """Weight that is large early in sampling, at high noise, where it changes shape.

        t -> scale sigma_t / sqrt(alpha_t^2 + sigma_t^2)

    Args:
      schedule: noise schedule.
      scale: upper limit of the weight; traced.

    Returns:
      t -> weight, a pytree.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: a scale that is no finite number, unless it is traced.

    Example::

        >>> from jaxdiff import guidance, schedules
        >>> weight = guidance.early(schedules.linear(), 2.0)
        >>> [round(float(weight(t)), 2) for t in (1, 500, 1000)]
        [0.02, 1.92, 2.0]
    """
    check_schedule(schedule)
    check_number("scale", scale, per_example=True)
    return Partial(_early, schedule, jnp.asarray(scale, jnp.float32))


def stepped(above: float, below: float, level: float) -> Partial:
    """Weight with one value above a level and another at that level and below.

    A large weight at high levels, at which shape is determined, makes the image depend more on the prompt than on x_T.

    Args:
      above: weight at levels above `level`; traced.
      below: weight at `level` and below; traced.
      level: level at which it changes; traced.

    Returns:
      t -> weight, a pytree.

    Raises:
      ValueError: one of them is no finite number, unless it is traced.

    Example::

        >>> from jaxdiff import guidance
        >>> weight = guidance.stepped(20.0, 3.0, level=800)
        >>> [float(weight(t)) for t in (900, 800, 100)]
        [20.0, 3.0, 3.0]
    """
    for name, number in (("above", above), ("below", below), ("level", level)):
        check_number(name, number)
    return Partial(_stepped, *(jnp.asarray(x, jnp.float32) for x in (above, below, level)))


def _late(schedule, scale, t):
    alpha, sigma = schedule(t)
    return scale * alpha / jnp.hypot(alpha, sigma)


def _early(schedule, scale, t):
    alpha, sigma = schedule(t)
    return scale * sigma / jnp.hypot(alpha, sigma)


def _stepped(above, below, level, t):
    return jnp.where(t > level, above, below)
