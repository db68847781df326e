"""Guidance by extrapolation from a worse prediction through a better one: classifier-free guidance and autoguidance.

The scale is s in bad + s (good - bad). Papers that write (1 + w) good - w bad have s = 1 + w.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.guidance.weights import Weight, as_weight, check_weight, weight_at
from jaxdiff.types import Array, Cond, Denoiser, Guided, Prediction, as_partial, rows


def extrapolate(good: Denoiser, bad: Denoiser, scale: Weight) -> Denoiser:
    """Extrapolates from a worse prediction through a better one, as autoguidance does with a weaker model.

        x0 = x0_bad + s (x0_good - x0_bad),   eps likewise        Karras et al. 2024 (autoguidance)

    Both are evaluated, one after the other, with the same condition.

    Args:
      good: the better denoiser.
      bad: the worse one, such as a smaller network, or one that was trained for a shorter time.
      scale: s; a number, one per example [B], or a function t -> s. Traced, except for the Python number 1, which is
        `good` alone, and 0, which is `bad`.

    Returns:
      `Denoiser`, a pytree, with the `aux` of `good`.

    Raises:
      ValueError: a scale that is no finite number, unless it is traced; from the denoiser, one of another number of rows.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule = jaxdiff.schedules.linear()
        >>> constant = lambda x0: lambda x_t, t, cond: jaxdiff.process.predict_from("x0", schedule, x0 + 0 * x_t, x_t, t)
        >>> denoise = jaxdiff.guidance.extrapolate(constant(2.0), constant(1.5), 3.0)
        >>> float(denoise(jnp.zeros([1, 1]), 500, None).x0[0, 0])  # 1.5 + 3 * 0.5
        3.0
    """
    good, bad = as_partial(good, "good"), as_partial(bad, "bad")
    if _is(scale, 1):
        return good
    if _is(scale, 0):
        return bad
    return Partial(_extrapolate, good, bad, as_weight(scale))


def on_cond(denoise: Denoiser) -> Denoiser:
    """The denoiser with the first condition of a `Guided`.

    Args:
      denoise: any denoiser.

    Returns:
      `Denoiser`, a pytree, for a `Guided` condition; ValueError with any other.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Guided, Prediction, guidance
        >>> denoise = guidance.on_cond(lambda x_t, t, cond: Prediction(cond + x_t, x_t))
        >>> denoise(jnp.zeros([1, 1]), 5, Guided(jnp.ones([1, 1]), None)).x0.tolist()
        [[1.0]]
    """
    return Partial(_on_cond, as_partial(denoise, "denoise"))


def on_uncond(denoise: Denoiser) -> Denoiser:
    """The denoiser with the second condition of a `Guided`.

    With `Guided(Cond(label=y), None)` an unconditional network does not receive the label, and `classifier` around it does.

    Args:
      denoise: any denoiser.

    Returns:
      `Denoiser`, a pytree, for a `Guided` condition; ValueError with any other.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Guided, Prediction, guidance
        >>> denoise = guidance.on_uncond(lambda x_t, t, cond: Prediction(cond + x_t, x_t))
        >>> denoise(jnp.zeros([1, 1]), 5, Guided(None, jnp.ones([1, 1]))).x0.tolist()
        [[1.0]]
    """
    return Partial(_on_uncond, as_partial(denoise, "denoise"))


def cfg(denoise: Denoiser, scale: Weight) -> Denoiser:
    """Classifier-free guidance: extrapolates from the unconditional prediction through the conditional one.

        eps = eps_uncond + s (eps_cond - eps_uncond),   x0 likewise        Ho and Salimans 2021, eq. 6, with w = s - 1

    The condition is a `Guided(cond, uncond)`, where `uncond` is the null label or empty text, or a negative condition.
    Both predictions are one batch of 2B, see `halves`.

    Args:
      denoise: a denoiser whose network was trained with condition dropout.
      scale: s; a number, one per example [B], or a function t -> s. Traced, except for the Python number 1, which is the
        conditional prediction alone, and 0, which is the unconditional one: half the work. Below 0 it guides away from
        the condition.

    Returns:
      `Denoiser`, a pytree, with the `aux` of the conditional prediction; ValueError if the condition is not a `Guided`.

    Raises:
      ValueError: a scale that is no finite number, unless it is traced; from the denoiser, one of another number of rows.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import Cond, Guided, guidance
        >>> schedule = jaxdiff.schedules.linear()
        >>> def denoise(x_t, t, cond):  # data of class y is the number y; 9 is the null label
        ...     x0 = jnp.where(cond.label == 9, 4.5, cond.label)[:, None]
        ...     return jaxdiff.process.predict_from("x0", schedule, x0, x_t, jnp.asarray(t))
        >>> cond = Guided(Cond(label=jnp.array([5, 3])), Cond(label=jnp.array([9, 9])))
        >>> guidance.cfg(denoise, 3.0)(jnp.zeros([2, 1]), 500, cond).x0.tolist()  # 4.5 + 3 * 0.5, 4.5 - 3 * 1.5
        [[6.0], [0.0]]

    A negative condition, and a scale that falls with the level::

        >>> cond = Guided(Cond(label=jnp.array([5, 3])), Cond(label=jnp.array([4, 4])))  # away from 4
        >>> guidance.cfg(denoise, lambda t: 1 + t / 500)(jnp.zeros([2, 1]), 500, cond).x0.tolist()  # 4 + 2, 4 - 2
        [[6.0], [2.0]]
    """
    if _is(scale, 1):
        return on_cond(denoise)
    if _is(scale, 0):
        return on_uncond(denoise)
    return Partial(_cfg, as_partial(denoise, "denoise"), as_weight(scale))


def halves(denoise: Denoiser, x_t: Array, t, cond: Guided) -> tuple[Prediction, Prediction]:
    """Predictions for both conditions of a `Guided`: one call on 2B rows if these have the same structure and shapes.

    If they do not, as when one is None, there are two calls.

    Args:
      denoise: any denoiser.
      x_t: float [B, ...].
      t: level, scalar or [B].
      cond: both conditions.

    Returns:
      Predictions for `cond.cond` and for `cond.uncond`.

    Raises:
      ValueError: `cond` is not a `Guided`.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Guided, Prediction, guidance
        >>> shapes = []
        >>> def denoise(x_t, t, cond):
        ...     shapes.append(x_t.shape)
        ...     return Prediction(cond + x_t, x_t)
        >>> cond, uncond = guidance.halves(denoise, jnp.zeros([2, 1]), 5, Guided(jnp.ones([2, 1]), jnp.zeros([2, 1])))
        >>> shapes, cond.x0.tolist(), uncond.x0.tolist()
        ([(4, 1)], [[1.0], [1.0]], [[0.0], [0.0]])
    """
    good, bad = _guided(cond)
    if not batchable(good, bad):
        return denoise(x_t, t, good), denoise(x_t, t, bad)
    join = lambda first, second: jnp.concatenate([first, second])
    t = t if jnp.ndim(t) == 0 else join(t, t)
    both, size = denoise(join(x_t, x_t), t, jax.tree.map(join, good, bad)), x_t.shape[0]
    return jax.tree.map(lambda x: x[:size], both), jax.tree.map(lambda x: x[size:], both)


def blend(good: Prediction, bad: Prediction, scale: Array) -> Prediction:
    """bad + scale (good - bad), with the `aux` of `good`; x_t = alpha x0 + sigma eps still holds, since it is linear.

    Args:
      good: prediction with leaves [B, ...].
      bad: prediction of the same shapes.
      scale: scalar or [B].

    Returns:
      `Prediction`.

    Raises:
      ValueError: a scale of another shape.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Prediction
        >>> from jaxdiff.guidance.cfg import blend
        >>> one = jnp.ones([1, 1])
        >>> blend(Prediction(2 * one, one), Prediction(one, one), 3.0).x0.tolist()
        [[4.0]]
    """
    scale = check_weight("scale", scale, good.x0)
    mix = lambda good, bad: bad + rows(scale, good) * (good - bad)
    return Prediction(mix(good.x0, bad.x0), mix(good.eps, bad.eps), good.aux)


def batchable(one: Any, other: Any) -> bool:
    """True if two conditions can be one batch: they have the same structure, and leaves of the same shapes.

    Args:
      one: any condition.
      other: any condition.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond
        >>> from jaxdiff.guidance.cfg import batchable
        >>> label = lambda y: Cond(label=jnp.array([y]))
        >>> batchable(label(1), label(2)), batchable(label(1), None)
        (True, False)
    """
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(cond)] for cond in (one, other)]
    return jax.tree.structure(one) == jax.tree.structure(other) and shapes[0] == shapes[1]


def cond_half(cond: Any) -> Cond | None:
    """The first condition of a `Guided`; any other condition unchanged.

    Args:
      cond: a `Guided`, or a condition.

    Returns:
      A condition.

    Example::

        >>> from jaxdiff import Guided
        >>> from jaxdiff.guidance.cfg import cond_half
        >>> cond_half(Guided("a cat", "")), cond_half("a cat")
        ('a cat', 'a cat')
    """
    return cond.cond if isinstance(cond, Guided) else cond


def _is(scale, value):
    """True if `scale` is this Python number; False if it is an array or traced."""
    return isinstance(scale, int | float) and scale == value


def _guided(cond) -> Guided:
    if not isinstance(cond, Guided):
        raise ValueError(
            "guidance needs two conditions: give cond=jaxdiff.Guided(cond, uncond), uncond with the null label"
        )
    return cond


def _extrapolate(good, bad, scale, x_t, t, cond=None):
    return blend(good(x_t, t, cond), bad(x_t, t, cond), weight_at(scale, t))


def _on_cond(denoise, x_t, t, cond=None):
    return denoise(x_t, t, _guided(cond).cond)


def _on_uncond(denoise, x_t, t, cond=None):
    return denoise(x_t, t, _guided(cond).uncond)


def _cfg(denoise, scale, x_t, t, cond=None):
    return blend(*halves(denoise, x_t, t, cond), weight_at(scale, t))
