"""Local blend: an edited image changes only where it attends to some of its tokens (Hertz et al. 2023, section 4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.tree_util import Partial

from jaxdiff.arguments import FRACTION, check_count, check_number
from jaxdiff.editing.maps import map_shape, maps_of_size
from jaxdiff.samplers import Sampler, State
from jaxdiff.samplers.base import check_is_sampler
from jaxdiff.types import Array, Static, is_traced


class Region(NamedTuple):
    """Settings of the region that may change; a pytree, see `local_blend`."""

    token_mask: Array
    source_offset: Array
    threshold: Array
    start: Array


def local_blend(
    sampler: Sampler, token_mask: Array, source_offset: Array, size: int = 16, threshold: float = 0.3, start: int = 0
) -> Sampler:
    """A sampler that replaces edited rows by their source wherever neither of both attends to the given tokens.

    Args:
      sampler: any; the denoiser must collect attention maps, for which the condition needs a `Cond.attention_edit`.
      token_mask: 1 at the tokens whose region may change, float [B, L]; those of a source in its own row.
      source_offset: row of the source minus the row's own index, int [B], as in `AttentionEdit`.
      size: longer side of the attention maps, which are averaged over sites and steps.
      threshold: attention from which a pixel is in the region, as a fraction of the highest. Traced.
      start: number of steps before the first blend. Traced.

    Returns:
      `Sampler`; when run, it raises ValueError if the network has no cross-attention of that size.

    Raises:
      TypeError: `sampler` is no `Sampler`.
      ValueError: arrays of other shapes, a size below 1; unless they are traced, a token_mask or a threshold outside of
        [0, 1], or a start below 0.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, editing, process, sample, samplers, schedules
        >>> from jaxdiff.types import Aux
        >>> schedule, maps = schedules.cosine(), jnp.zeros([2, 16, 1]).at[:, 0].set(1.0)  # at the first of 4x4 pixels
        >>> def denoise(x_t, t, cond):  # predicts its context, at all pixels
        ...     prediction = process.predict_from("x0", schedule, cond.context + 0 * x_t, x_t, t)
        ...     return prediction._replace(aux=Aux(maps={"site": maps}))
        >>> sampler = editing.local_blend(samplers.ddim(), [[0.0], [1.0]], source_offset=[0, -1], size=4)
        >>> cond = Cond(context=jnp.array([1.0, 2.0]).reshape(2, 1, 1, 1))  # 1 for the source, 2 for the edited image
        >>> x, _ = sample(None, sampler, denoise, schedule, [1000, 500, 0], jnp.zeros([2, 4, 4, 1]), cond)
        >>> x[1, ..., 0].round(3).tolist()  # edited at the attended pixel and its neighbours
        [[2.0, 2.0, 1.0, 1.0], [2.0, 2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    check_is_sampler(sampler)
    size = check_count("size", size)
    check_number("threshold", threshold, *FRACTION)
    check_number("start", start, "be at least 0, and whole", lambda x: (x >= 0) & (x == np.round(x)))
    if np.ndim(token_mask) != 2 or np.shape(source_offset) != np.shape(token_mask)[:1]:
        shapes = f"{list(np.shape(token_mask))} and {list(np.shape(source_offset))}"
        raise ValueError(f"`token_mask` must be [B, L] and `source_offset` [B], not of shapes {shapes}")
    if not is_traced(token_mask) and not np.all((np.asarray(token_mask) >= 0) & (np.asarray(token_mask) <= 1)):
        raise ValueError("`token_mask` must lie in [0, 1]: 1 at tokens whose region may change")
    region = Region(jnp.asarray(token_mask), jnp.asarray(source_offset), jnp.float32(threshold), jnp.int32(start))
    return Sampler(
        Partial(_init, sampler.init, region, Static(size)), Partial(_step, sampler.step, region, Static(size))
    )


def _init(init, region, size, x):
    inner = init(x)
    maps = jnp.zeros([x.shape[0], *map_shape(x.shape[1:3], size.value), region.token_mask.shape[1]], jnp.float32)
    return State(inner.x, (inner.memory, jnp.int32(0), maps))


def _step(step, region, size, keys, denoise, schedule, state, t, s, cond):
    memory, i, maps = state.memory
    after, prediction = step(keys, denoise, schedule, State(state.x, memory), t, s, cond)
    maps = maps + maps_of_size(prediction.aux.maps, state.x.shape[1:3], size.value)
    mask = edit_mask(maps, region, after.x.shape[1:3])
    source = after.x[jnp.arange(after.x.shape[0]) + region.source_offset]
    blended = source + mask * (after.x - source)
    return State(jnp.where(i >= region.start, blended, after.x), (after.memory, i + 1, maps)), prediction


def edit_mask(maps: Array, region: Region, shape: tuple[int, int]) -> Array:
    """Pixels of the region of a row or of its source, 1 or 0, float32 [B, H, W, 1]."""
    attention = jnp.einsum("bhwl,bl->bhw", maps, region.token_mask)[..., None]
    attention = nn.max_pool(attention, (3, 3), padding="SAME")
    attention = jax.image.resize(attention, (attention.shape[0], *shape, 1), "nearest")
    mask = attention > region.threshold * attention.max((1, 2, 3), keepdims=True)
    return (mask | mask[jnp.arange(mask.shape[0]) + region.source_offset]).astype(jnp.float32)
