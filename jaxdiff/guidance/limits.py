"""Guidance held back: in its contrast, and to the levels where it helps."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.guidance.cfg import blend, halves
from jaxdiff.guidance.threshold import with_x0
from jaxdiff.guidance.weights import Weight, as_weight, weight_at
from jaxdiff.schedules import Schedule
from jaxdiff.types import Denoiser, as_partial, rows


def rescaled(good: Denoiser, guided: Denoiser, schedule: Schedule, phi: float) -> Denoiser:
    """Takes back the contrast that guidance adds: each guided image gets the standard deviation of the unguided one.

        x0' = phi (std(x0_good) / std(x0)) x0 + (1 - phi) x0        Lin et al. 2024 (common noise schedules), section 3.4

    The paper rescales the network's output; here it is the predicted x0 whatever that is, and eps is worked out again, so
    that x_t = alpha_t x0' + sigma_t eps' still holds. Standard deviations are those within an example. Where an example's
    is nothing but rounding there is no contrast, and it stays as it is.

    `good` is evaluated beside `guided`, even where the one is part of the other: for `cfg` take `rescaled_cfg`.

    Args:
      good: the unguided denoiser, such as the one inside of `guided`.
      guided: the guided one, such as `extrapolate(good, bad, scale)` or `classifier(good, ...)`.
      schedule: noise schedule they were made with.
      phi: share of the rescaled image, in [0, 1], 0.7 in the paper; scalar or [B]; traced.

    Returns:
      `Denoiser`, a pytree, which keeps the `aux` of `guided`.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.linear()
        >>> says = lambda k: lambda x_t, t, cond: jaxdiff.process.predict_from("x0", schedule, k * x_t, x_t, t)
        >>> denoise = jaxdiff.guidance.rescaled(says(1.0), says(3.0), schedule, 0.5)
        >>> denoise(jnp.array([[1.0, -1.0]]), 500, None).x0.tolist()  # halfway from 3 to 1
        [[2.0, -2.0]]
    """
    return Partial(_rescaled, as_partial(good), as_partial(guided), schedule, jnp.asarray(phi, jnp.float32))


def rescaled_cfg(denoise: Denoiser, scale: Weight, schedule: Schedule, phi: float) -> Denoiser:
    """`cfg` with its contrast taken back: `rescaled(on_cond(denoise), cfg(denoise, scale), schedule, phi)`.

    It costs what `cfg` costs, one batch of 2B rows, where these two denoisers together would cost 3B.

    Args:
      denoise: a denoiser whose network was trained with conditions that were dropped now and then.
      scale: see `cfg`; always traced.
      schedule: noise schedule it was made with.
      phi: see `rescaled`.

    Returns:
      `Denoiser`, a pytree, which keeps the `aux` of the conditional half; ValueError where its condition is no `Guided`.

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
    return Partial(_rescaled_cfg, as_partial(denoise), as_weight(scale), schedule, jnp.asarray(phi, jnp.float32))


def within(inside: Denoiser, outside: Denoiser, t_low: float, t_high: float) -> Denoiser:
    """Guidance in an interval of levels only: at high noise it costs diversity, and at low noise nothing is left to guide.

        inside where t_low <= t <= t_high, else outside        Kynkäänniemi et al. 2024 (limited interval)

    Where all examples are at one level only one of the two is evaluated; with a level per example both are.

    Args:
      inside: denoiser within the interval, ends included, such as `cfg(denoise, scale)`.
      outside: denoiser elsewhere, such as `on_cond(denoise)`; what it returns has the same structure.
      t_low: lowest level of the interval; traced.
      t_high: highest level; traced.

    Returns:
      `Denoiser`, a pytree.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.linear()
        >>> says = lambda x0: lambda x_t, t, cond: jaxdiff.process.predict_from("x0", schedule, x0 + 0 * x_t, x_t, t)
        >>> denoise = jaxdiff.guidance.within(says(1.0), says(0.0), 200, 800)
        >>> [float(denoise(jnp.zeros([1, 1]), t, None).x0[0, 0]) for t in (900, 800, 500, 100)]
        [0.0, 1.0, 1.0, 0.0]
    """
    ends = jnp.asarray(t_low, jnp.float32), jnp.asarray(t_high, jnp.float32)
    return Partial(_within, as_partial(inside), as_partial(outside), *ends)


def _rescaled(good, guided, schedule, phi, x_t, t, cond=None):
    return _mixed(good(x_t, t, cond), guided(x_t, t, cond), schedule, phi, x_t, t)


def _rescaled_cfg(denoise, scale, schedule, phi, x_t, t, cond=None):
    good, bad = halves(denoise, x_t, t, cond)
    return _mixed(good, blend(good, bad, weight_at(scale, t)), schedule, phi, x_t, t)


def _mixed(good, guided, schedule, phi, x_t, t):
    factor = phi * _contrast(good.x0, guided.x0) + (1 - phi)
    return with_x0(guided, rows(factor, x_t) * guided.x0, schedule, x_t, t)


def _contrast(good, guided):
    """std(good) / std(guided) of each example [B]; 1 where the latter is nothing but rounding."""
    axes = tuple(range(1, guided.ndim))
    before, after = jnp.var(good, axes), jnp.var(guided, axes)
    some = after > 1e-10 * jnp.square(guided).mean(axes)
    ratio = jnp.where(some, before, 1.0) / jnp.where(some, after, 1.0)
    return jnp.where(ratio > 0, jnp.sqrt(jnp.where(ratio > 0, ratio, 1.0)), 0.0)  # no infinite slope at 0


def _within(inside, outside, t_low, t_high, x_t, t, cond=None):
    t = jnp.asarray(t)
    use = (t_low <= t) & (t <= t_high)
    if t.ndim == 0:
        return lax.cond(use, inside, outside, x_t, t, cond)
    pick = lambda a, b: jnp.where(rows(use, a), a, b)
    return jax.tree.map(pick, inside(x_t, t, cond), outside(x_t, t, cond))
