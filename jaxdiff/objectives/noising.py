"""Noised examples at random levels, with condition dropout: shared by the objectives of denoisers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.arguments import AT_LEAST_0, FRACTION, check_number
from jaxdiff.objectives.levels import LevelDraw
from jaxdiff.process import q_sample
from jaxdiff.samplers import fold, normal
from jaxdiff.schedules import Schedule
from jaxdiff.types import Array, rows


class Noised(NamedTuple):
    """A batch noised to random levels; x_t = alpha_t x0 + sigma_t eps, without a perturbation of the input.

    Attributes:
      x0: images in [-1, 1], float32 [B, H, W, C].
      eps: the noise to be predicted, same shape.
      x_t: input of the network, same shape.
      t: levels, int32 [B].
      weight: weight of each loss, which corrects for the distribution of levels, float32 [B].
      cond: a `Cond`, after condition dropout, or None.
      keys: one random key per example for the network's dropout.
      dropped: whether the condition of each example was dropped, bool [B]; None without condition dropout.
    """

    x0: Array
    eps: Array
    x_t: Array
    t: Array
    weight: Array
    cond: Any
    keys: Array
    dropped: Array | None


class Noising(NamedTuple):
    """Options of `noised`; see `objectives.denoising`."""

    levels: LevelDraw
    null_cond: Any = None
    cond_dropout: float = 0.0
    offset: float = 0.0
    perturbation: float = 0.0


def checked(options: Noising) -> Noising:
    """Returns the options, if they go together.

    Raises:
      ValueError: cond_dropout without null_cond, or outside of [0, 1]; noise of a size below 0.
    """
    check_number("cond_dropout", options.cond_dropout, *FRACTION)
    for name, size in (("offset_noise", options.offset), ("input_perturbation", options.perturbation)):
        check_number(name, size, *AT_LEAST_0)
    if options.cond_dropout and options.null_cond is None:
        raise ValueError(f"`cond_dropout`={options.cond_dropout} needs `null_cond`, which replaces dropped conditions")
    return options


def noised(options: Noising, schedule: Schedule, extra, keys: Array, batch, couple: Callable | None = None) -> Noised:
    """Draws levels and noise, and drops conditions, each example by its own key.

    Args:
      options: see `Noising`.
      schedule: noise schedule.
      extra: memory of `options.levels`.
      keys: one random key per example, [B].
      batch: dict with "image" and optionally "cond" and "index".
      couple: (x0, eps, cond) -> (x0, eps), pairs of images and noise, see `objectives.couplings`; None keeps them as drawn.

    Returns:
      `Noised`.
    """
    x0, cond = to_unit_range(batch["image"]), batch.get("cond")
    level_keys, noise_keys, drop_keys, net_keys, offset_keys, input_keys = (fold(keys, i) for i in range(6))
    t, weight = options.levels.draw(extra, level_keys, batch.get("index"), schedule.num_levels)
    eps = normal(noise_keys, x0.shape[1:])
    if options.offset:
        shift = normal(offset_keys, x0.shape[-1:])
        eps = eps + options.offset * shift.reshape(-1, *(1,) * (x0.ndim - 2), x0.shape[-1])
    if couple is not None:
        x0, eps = couple(x0, eps, cond)
    perturbed = eps + options.perturbation * normal(input_keys, x0.shape[1:]) if options.perturbation else eps
    dropped = None
    if options.cond_dropout:
        dropped = jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(options.cond_dropout)))(drop_keys)
        cond = drop_cond(dropped, options.null_cond, cond)
    x_t = jax.vmap(q_sample, (None, 0, 0, 0))(schedule, x0, t, perturbed)
    return Noised(x0, eps, x_t, t, weight, cond, net_keys, dropped)


def drop_cond(dropped: Array, null_cond, cond):
    """Replaces the conditions of some examples by the null condition.

    Args:
      dropped: True for the examples whose condition is replaced, bool [B].
      null_cond: a `Cond` of one example, without a batch axis; fields that are None are not replaced, and of a vector that
        is shorter than the examples' what these have behind it, such as sizes behind a text's vector, stays.
      cond: `Cond` of the batch.

    Returns:
      A `Cond` like `cond`.

    Raises:
      ValueError: a field is None in `cond` and not in `null_cond`.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond
        >>> from jaxdiff.objectives.noising import drop_cond
        >>> cond = Cond(label=jnp.array([3, 7]), vector=jnp.ones([2, 1]))
        >>> drop_cond(jnp.array([True, False]), Cond(label=10), cond).label.tolist()
        [10, 7]
    """
    is_none = lambda x: x is None

    def replace(null, leaf):
        if leaf is None:
            raise ValueError(
                "the null condition has a field that the batch's condition does not have: give both the same"
            )
        if jnp.ndim(null) == 1 and leaf.ndim == 2 and len(null) < leaf.shape[1]:
            null = jnp.concatenate([jnp.broadcast_to(null, (len(leaf), len(null))), leaf[:, len(null) :]], axis=1)
        return jnp.where(rows(dropped, leaf), null, leaf)

    def replace_field(null, field):
        return field if null is None else jax.tree.map(replace, null, field, is_leaf=is_none)

    return jax.tree.map(replace_field, null_cond, cond or type(null_cond)(), is_leaf=is_none)


def null_conds(null_cond, cond, batch_size: int):
    """The null condition of every example of a batch, see `drop_cond`."""
    return drop_cond(jnp.ones(batch_size, bool), null_cond, cond)


def to_unit_range(image: Array) -> Array:
    """Converts uint8 images to floats in [-1, 1]: image / 127.5 - 1 (Ho et al. 2020, section 3.3).

    Args:
      image: uint8 in 0..255, any shape; any other type must be in [-1, 1] already.

    Returns:
      float32 in [-1, 1], same shape; floats unchanged.

    Raises:
      ValueError: integers of another type, whose range is not known.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.objectives import to_unit_range
        >>> to_unit_range(jnp.array([0, 255], jnp.uint8)).tolist()
        [-1.0, 1.0]
    """
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 127.5 - 1.0
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"`image` of type {image.dtype} must be uint8 in 0..255, or floats in [-1, 1]")
    return image
