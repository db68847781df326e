"""What the objectives of a denoiser share: examples at random levels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.objectives.levels import Levels
from jaxdiff.process import q_sample
from jaxdiff.samplers import fold, normal
from jaxdiff.schedules import Schedule
from jaxdiff.types import Array, rows


class Noised(NamedTuple):
    """A batch at random levels; x_t = alpha_t x0 + sigma_t eps, but for a perturbation of the input.

    Attributes:
      x0: images in [-1, 1], float32 [B, H, W, C].
      eps: the noise that is to be found again, same shape.
      x_t: what the network sees, same shape.
      t: levels, int32 [B].
      weight: of each loss, for having drawn its level more or less often, float32 [B].
      cond: a `Cond`, in which some examples' may have been replaced by the null one, or None.
      keys: one random key per example for the network's dropout.
    """

    x0: Array
    eps: Array
    x_t: Array
    t: Array
    weight: Array
    cond: Any
    keys: Array


class Noising(NamedTuple):
    """How a batch is noised; see `objectives.denoising` for what each means."""

    levels: Levels
    null: Any = None
    drop: float = 0.0
    offset: float = 0.0
    perturbation: float = 0.0


def checked(how: Noising) -> Noising:
    """The same, if its parts go together.

    Raises:
      ValueError: a drop without a null.
    """
    if how.drop and how.null is None:
        raise ValueError("drop needs a null condition to put in the place of the dropped ones")
    return how


def noised(how: Noising, schedule: Schedule, extra, keys: Array, batch) -> Noised:
    """Draws levels and noise, and drops conditions, each example by its own key.

    Args:
      how: see `Noising`.
      schedule: noise schedule.
      extra: what `how.levels` remembers.
      keys: one random key per example, [B].
      batch: dict with "image" and perhaps "cond" and "index".

    Returns:
      `Noised`.
    """
    x0, cond = to_unit_range(batch["image"]), batch.get("cond")
    level_keys, noise_keys, drop_keys, net_keys, offset_keys, input_keys = (fold(keys, i) for i in range(6))
    t, weight = how.levels.draw(extra, level_keys, batch.get("index"), schedule.num_levels)
    eps = normal(noise_keys, x0.shape[1:])
    if how.offset:
        shift = normal(offset_keys, x0.shape[-1:])
        eps = eps + how.offset * shift.reshape(-1, *(1,) * (x0.ndim - 2), x0.shape[-1])
    seen = eps + how.perturbation * normal(input_keys, x0.shape[1:]) if how.perturbation else eps
    if how.drop:
        dropped = jax.vmap(lambda key: jax.random.bernoulli(key, how.drop))(drop_keys)
        cond = without(dropped, how.null, cond)
    x_t = jax.vmap(q_sample, (None, 0, 0, 0))(schedule, x0, t, seen)
    return Noised(x0, eps, x_t, t, weight, cond, net_keys)


def without(dropped: Array, null, cond):
    """The conditions of a batch, some of which become the null one.

    Args:
      dropped: whose conditions, bool [B].
      null: a `Cond` of one example, without a batch axis; what it lacks (None) is kept in `cond` as it is.
      cond: `Cond` of the batch.

    Returns:
      A `Cond` like `cond`.

    Raises:
      ValueError: `cond` lacks what `null` has.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond
        >>> from jaxdiff.objectives.noising import without
        >>> cond = Cond(label=jnp.array([3, 7]), vector=jnp.ones([2, 1]))
        >>> without(jnp.array([True, False]), Cond(label=10), cond).label.tolist()
        [10, 7]
    """

    def one(no, yes):
        if yes is None:
            raise ValueError("the null condition has something that the batch's condition has not: give both the same")
        return jnp.where(rows(dropped, yes), no, yes)

    def kept(no, yes):
        return yes if no is None else jax.tree.map(one, no, yes, is_leaf=lambda x: x is None)

    return jax.tree.map(kept, null, cond or type(null)(), is_leaf=lambda x: x is None)


def to_unit_range(image: Array) -> Array:
    """uint8 images to floats in [-1, 1]: image / 127.5 - 1 (Ho et al. 2020, section 3.3).

    Args:
      image: uint8 in 0..255, any shape; anything of another type is taken to be in [-1, 1] already.

    Returns:
      float32 in [-1, 1], same shape; another type than uint8 comes back as it is.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.objectives import to_unit_range
        >>> to_unit_range(jnp.array([0, 255], jnp.uint8)).tolist()
        [-1.0, 1.0]
    """
    return image.astype(jnp.float32) / 127.5 - 1.0 if image.dtype == jnp.uint8 else image
