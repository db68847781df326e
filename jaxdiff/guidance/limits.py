"""Limits of guidance: rescaled contrast, and an interval of levels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arguments import FRACTION, check_number
from jaxdiff.guidance.cfg import blend, halves
from jaxdiff.guidance.threshold import with_x0
from jaxdiff.guidance.weights import Weight, as_weight, check_weight, weight_at
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Denoiser, as_partial, is_traced, rows


def rescaled(good: Denoiser, guided: Denoiser, schedule: Schedule, phi: float) -> Denoiser:
    """Rescales guided predictions to the standard deviation of unguided ones, since guidance increases contrast.

        x0' = phi (std(x0_good) / std(x0)) x0 + (1 - phi) x0        Lin et al. 2024 (common noise schedules), section 3.4

    The paper rescales the network's output; here it is the predicted x0, for networks of any kind, and eps is recomputed so
    that x_t = alpha_t x0' + sigma_t eps' still holds. Standard deviations are those within an example. If an example's is
    only due to rounding, the example is not changed.

    `good` is evaluated in addition to `guided`, even if one is part of the other: for `cfg` use `rescaled_cfg`.

    Args:
      good: the unguided denoiser.
      guided: the guided one, such as `extrapolate(good, bad, scale)` or `classifier(good, ...)`.
      schedule: their noise schedule.
      phi: weight of the rescaled image, in [0, 1], 0.7 in the paper; scalar or [B]; traced.

    Returns:
      `Denoiser`, a pytree, with the `aux` of `guided`.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: a phi outside of [0, 1], unless it is traced; from the denoiser, one of another number of rows.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.linear()
        >>> times = lambda k: lambda x_t, t, cond: jaxdiff.process.predict_from("x0", schedule, k * x_t, x_t, t)
        >>> denoise = jaxdiff.guidance.rescaled(times(1.0), times(3.0), schedule, 0.5)
        >>> denoise(jnp.array([[1.0, -1.0]]), 500, None).x0.tolist()  # halfway from 3 to 1
        [[2.0, -2.0]]
    """
    return Partial(_rescaled, as_partial(good, "good"), as_partial(guided, "guided"), *_rescaling(schedule, phi))


def rescaled_cfg(denoise: Denoiser, scale: Weight, schedule: Schedule, phi: float) -> Denoiser:
    """`cfg` with rescaled contrast: `rescaled(on_cond(denoise), cfg(denoise, scale), schedule, phi)`.

    It costs as much as `cfg`, one batch of 2B rows; these two denoisers together would evaluate 3B.

    Args:
      denoise: a denoiser whose network was trained with condition dropout.
      scale: see `cfg`; always traced.
      schedule: its noise schedule.
      phi: see `rescaled`.

    Returns:
      `Denoiser`, a pytree, with the `aux` of the conditional prediction; ValueError if the condition is not a `Guided`.

    Raises:
      TypeError, ValueError: as `rescaled` and `cfg`.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import Guided, guidance
        >>> schedule = jaxdiff.schedules.linear()
        >>> times = lambda x_t, t, cond: jaxdiff.process.predict_from("x0", schedule, cond * x_t, x_t, jnp.asarray(t))
        >>> cond = Guided(jnp.array([[2.0]]), jnp.array([[1.0]]))
        >>> denoise = guidance.rescaled_cfg(times, 3.0, schedule, 0.5)
        >>> denoise(jnp.array([[1.0, -1.0]]), 500, cond).x0.tolist()  # 1 + 3 (2 - 1), halfway to 2
        [[3.0, -3.0]]
    """
    return Partial(_rescaled_cfg, as_partial(denoise, "denoise"), as_weight(scale), *_rescaling(schedule, phi))


def _rescaling(schedule, phi):
    """Schedule and weight, checked."""
    check_schedule(schedule)
    check_number("phi", phi, *FRACTION, per_example=True)
    return schedule, jnp.asarray(phi, jnp.float32)


def within(inside: Denoiser, outside: Denoiser, t_low: float, t_high: float) -> Denoiser:
    """Guidance in an interval of levels: at high noise it reduces diversity, and at low noise it has little effect.

        inside where t_low <= t <= t_high, else outside        Kynkäänniemi et al. 2024 (limited interval)

    With one level for all examples only one of the two is evaluated; with a level per example both are.

    Args:
      inside: denoiser within the interval, ends included, such as `cfg(denoise, scale)`.
      outside: denoiser elsewhere, such as `on_cond(denoise)`; its predictions must have the same structure.
      t_low: lowest level of the interval; traced.
      t_high: highest level of the interval; traced.

    Returns:
      `Denoiser`, a pytree.

    Raises:
      ValueError: ends that are no numbers, or a t_low above t_high, unless they are traced.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.linear()
        >>> constant = lambda x0: lambda x_t, t, cond: jaxdiff.process.predict_from("x0", schedule, x0 + 0 * x_t, x_t, t)
        >>> denoise = jaxdiff.guidance.within(constant(1.0), constant(0.0), 200, 800)
        >>> [float(denoise(jnp.zeros([1, 1]), t, None).x0[0, 0]) for t in (900, 800, 500, 100)]
        [0.0, 1.0, 1.0, 0.0]
    """
    for name, end in (("t_low", t_low), ("t_high", t_high)):
        check_number(name, end, "be a level", lambda x: ~np.isnan(x))
    if not (is_traced(t_low) or is_traced(t_high)) and t_low > t_high:
        raise ValueError(f"`t_low`={t_low} must be at most `t_high`={t_high}: the interval is empty")
    ends = jnp.asarray(t_low, jnp.float32), jnp.asarray(t_high, jnp.float32)
    return Partial(_within, as_partial(inside, "inside"), as_partial(outside, "outside"), *ends)


def _rescaled(good, guided, schedule, phi, x_t, t, cond=None):
    return _mixed(good(x_t, t, cond), guided(x_t, t, cond), schedule, phi, x_t, t)


def _rescaled_cfg(denoise, scale, schedule, phi, x_t, t, cond=None):
    good, bad = halves(denoise, x_t, t, cond)
    return _mixed(good, blend(good, bad, weight_at(scale, t)), schedule, phi, x_t, t)


def _mixed(good, guided, schedule, phi, x_t, t):
    phi = check_weight("phi", phi, guided.x0)
    factor = phi * _contrast(good.x0, guided.x0) + (1 - phi)
    return with_x0(guided, rows(factor, x_t) * guided.x0, schedule, x_t, t)


def _contrast(good, guided):
    """std(good) / std(guided) of each example [B]; 1 where the latter is only due to rounding."""
    axes = tuple(range(1, guided.ndim))
    before, after = jnp.var(good, axes), jnp.var(guided, axes)
    varies = after > 1e-10 * jnp.square(guided).mean(axes)
    ratio = jnp.where(varies, before, 1.0) / jnp.where(varies, after, 1.0)
    return jnp.where(ratio > 0, jnp.sqrt(jnp.where(ratio > 0, ratio, 1.0)), 0.0)  # no infinite slope at 0


def _within(inside, outside, t_low, t_high, x_t, t, cond=None):
    t = jnp.asarray(t)
    guided = (t_low <= t) & (t <= t_high)
    if t.ndim == 0:
        return lax.cond(guided, inside, outside, x_t, t, cond)
    pick = lambda a, b: jnp.where(rows(guided, a), a, b)
    return jax.tree.map(pick, inside(x_t, t, cond), outside(x_t, t, cond))
