"""Local blend: what is edited changes only where its words look (Hertz et al. 2023, section 4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial

from jaxdiff.editing.maps import at_size, sides
from jaxdiff.samplers import Sampler, State
from jaxdiff.types import Array, Static


class Look(NamedTuple):
    """Where words look; a pytree.

    Attributes:
      words: which tokens count in each row, 1 or 0, float [B, L].
      source: how many rows further the source is, int [B].
      threshold: share of the highest value above which a pixel is edited, float32.
      start: steps before the blend begins, int32.
    """

    words: Array
    source: Array
    threshold: Array
    start: Array


def local_blend(
    sampler: Sampler, token_mask: Array, source_offset: Array, size: int = 16, threshold: float = 0.3, start: int = 0
) -> Sampler:
    """A sampler that puts the source back where neither it nor the edited image shows the words.

    Args:
      sampler: any; the denoiser must collect attention maps, so that there is a `Cond.attention_edit`.
      token_mask: the tokens that are looked for, 1 or 0, float [B, L]; those of a source in its own row.
      source_offset: how many rows further the source is, int [B], as in `AttentionEdit`.
      size: longer side of the maps that are averaged.
      threshold: share of the highest value. Traced.
      start: steps before the blend begins. Traced.

    Returns:
      `Sampler`; it raises ValueError where the network has no cross-attention at that size.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, editing, process, sample, samplers, schedules
        >>> from jaxdiff.types import Aux
        >>> schedule, looks = schedules.cosine(), jnp.zeros([2, 16, 1]).at[:, 0].set(1.0)  # at the first of 4x4 places
        >>> def denoise(x_t, t, cond):  # predicts its context, everywhere
        ...     said = process.predict_from("x0", schedule, cond.context + 0 * x_t, x_t, t)
        ...     return said._replace(aux=Aux(maps={"site": looks}))
        >>> sampler = editing.local_blend(samplers.ddim(), [[0.0], [1.0]], source_offset=[0, -1], size=4)
        >>> cond = Cond(context=jnp.array([1.0, 2.0]).reshape(2, 1, 1, 1))  # the source is drawn as 1
        >>> x, _ = sample(None, sampler, denoise, schedule, [1000, 500, 0], jnp.zeros([2, 4, 4, 1]), cond)
        >>> x[1, ..., 0].round(3).tolist()  # 2 where the word looks, and beside it
        [[2.0, 2.0, 1.0, 1.0], [2.0, 2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    look = Look(jnp.asarray(token_mask), jnp.asarray(source_offset), jnp.float32(threshold), jnp.int32(start))
    return Sampler(Partial(_init, sampler.init, look, Static(size)), Partial(_step, sampler.step, look, Static(size)))


def _init(init, look, size, x):
    inner = init(x)
    maps = jnp.zeros([x.shape[0], *sides(x.shape[1:3], size.value), look.words.shape[1]])
    return State(inner.x, (inner.memory, jnp.int32(0), maps))


def _step(step, look, size, keys, denoise, schedule, state, t, s, cond):
    memory, i, maps = state.memory
    after, said = step(keys, denoise, schedule, State(state.x, memory), t, s, cond)
    maps = maps + at_size(said.aux.maps, state.x.shape[1:3], size.value)
    mask = where(maps, look, after.x.shape[1:3])
    there = after.x[jnp.arange(after.x.shape[0]) + look.source]
    blended = there + mask * (after.x - there)
    return State(jnp.where(i >= look.start, blended, after.x), (after.memory, i + 1, maps)), said


def where(maps: Array, look: Look, shape: tuple[int, int]) -> Array:
    """Where the words of a row or of its source look, 1 or 0, [B, H, W, 1]."""
    heat = jnp.einsum("bhwl,bl->bhw", maps, look.words)[..., None]
    heat = jax.image.resize(nn.max_pool(heat, (3, 3), padding="SAME"), (heat.shape[0], *shape, 1), "nearest")
    mask = heat > look.threshold * heat.max((1, 2, 3), keepdims=True)
    return (mask | mask[jnp.arange(mask.shape[0]) + look.source]).astype(jnp.float32)
