"""Regionally controlled sampling: each region of an image attends to its own prompt (Mix-of-Show, Gu et al. 2023).

The context is that of R + 1 prompts, concatenated; the first is the background prompt, for pixels outside of all regions.
With p the attention of a pixel to all their tokens, and r the prompts of the regions that contain it,

(1)  p_r = p 1_r / sum(p 1_r) = softmax over the tokens of prompt r only
(2)  p <- mean of p_r over the regions r of the pixel, or p_0 outside of all

A network with a fixed context length rejects R + 1 times as many tokens: `dataclasses.replace(config, context_length=0)`
has the same parameters and takes any number.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.types import Array, Cond, Guided, is_traced


class Regions(NamedTuple):
    """Edit of cross-attention by regions, row by row; a pytree for `Cond.attention_edit`.

    At sites of fewer pixels than the masks, a pixel belongs to a region that covers more than half of it. A region that
    covers no pixel so far has the pixels that it covers more than half as much as its most covered one.

    Attributes:
      masks: 1 within a region and 0 outside, float [B, R, H, W], in pixels of the image or of its latent.
    """

    masks: Array

    def __call__(self, p: Array, site, t: Array) -> Array:
        """Edited probabilities, equation (2), at all levels; self-attention is unchanged."""
        if not site.cross:
            return p
        (B, H, Q, K), num_prompts = p.shape, self.masks.shape[1] + 1
        if K % num_prompts:
            raise ValueError(
                f"a context of {K} tokens cannot be that of {num_prompts} prompts: concatenate a background prompt and one "
                "per region"
            )
        inside_BxRxQ = _inside(self.masks, site.size).reshape(B, num_prompts - 1, Q)
        background_Bx1xQ = ~inside_BxRxQ.any(1, keepdims=True)
        belongs_BxQxR = jnp.concatenate([background_Bx1xQ, inside_BxRxQ], axis=1).transpose(0, 2, 1).astype(p.dtype)
        weight_BxQxR = belongs_BxQxR / belongs_BxQxR.sum(-1, keepdims=True)  # no division by 0: one prompt at least
        p_BxHxQxRxL = p.reshape(B, H, Q, num_prompts, K // num_prompts)
        total = p_BxHxQxRxL.sum(-1, keepdims=True)
        # Probabilities that all underflow, because another prompt's are much higher, become uniform.
        normalised = jnp.where(total > 0, p_BxHxQxRxL / jnp.where(total > 0, total, 1), num_prompts / K)
        return (weight_BxQxR[:, None, :, :, None] * normalised).reshape(p.shape)


def _inside(masks, size):
    """Pixels of a site that belong to each region, bool [B, R, h, w]."""
    height, width = masks.shape[-2:]
    if height * size[1] != width * size[0]:
        raise ValueError(
            f"`masks` of {height}x{width} do not have the proportions of the image, which is {size[0]}x{size[1]} at a site"
        )
    rows, columns = (jnp.asarray(_overlaps(n, m)) for n, m in zip(size, (height, width)))
    covered = jnp.einsum("hH,brHW,wW->brhw", rows, masks.astype(jnp.float32), columns, precision="highest")
    most = covered.max((-2, -1), keepdims=True)
    half = 0.5 + 1e-5  # exactly half, up to rounding, is not more than half
    return covered > half * jnp.where(most > half, 1, most)


def _overlaps(n, m):
    """Fraction of each of n pixels that each of m pixels overlaps, along a side of the same length, float32 [n, m]."""
    start_n, start_m = np.arange(n)[:, None] / n, np.arange(m)[None] / m
    shared = np.minimum(start_n + 1 / n, start_m + 1 / m) - np.maximum(start_n, start_m)
    return np.maximum(shared * n, 0).astype(np.float32)


def regions(masks, num: int = 1) -> Regions:
    """Edit with which each region attends to its own prompt, and the rest to the background prompt.

    Args:
      masks: of R regions, bool or float in [0, 1], [R, H, W], in pixels of the image or of its latent; rounded to 0 or 1 at
        each site. Where regions overlap, pixels attend to both prompts.
      num: number of images with these regions, B.

    Returns:
      `Regions` of B rows.

    Raises:
      ValueError: masks of another rank or outside of [0, 1], or an empty one.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import editing
        >>> from jaxdiff.nets.transformer import Site
        >>> left = jnp.zeros([1, 2, 2]).at[:, :, 0].set(1)
        >>> p = jnp.full([1, 1, 4, 4], 0.25)  # of four pixels to two prompts of two tokens
        >>> editing.regions(left)(p, Site("attn2", True, (2, 2)), jnp.array([500]))[0, 0].tolist()
        [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0]]
    """
    if jnp.ndim(masks) != 3:
        raise ValueError(f"`masks` must be [R, H, W], one per region, and not {jnp.shape(masks)}")
    if not is_traced(masks):
        if not np.all((np.asarray(masks) >= 0) & (np.asarray(masks) <= 1)):  # nor NaN
            raise ValueError("`masks` must be in [0, 1]")
        for i, mask in enumerate(np.asarray(masks)):
            if not mask.any():
                raise ValueError(f"mask {i} of `masks` is empty: leave out the region and its prompt")
    masks = jnp.asarray(masks, jnp.float32)
    return Regions(jnp.broadcast_to(masks[None], (num, *masks.shape)))


def no_regions(shape: Sequence[int], num: int = 1) -> Regions:
    """Edit with which all pixels attend to the first prompt, such as for the unconditional half of guidance.

    Args:
      shape: (R, H, W) of the conditional half's masks, so that both halves run as one batch.
      num: number of images, B.

    Returns:
      `Regions` of B rows.

    Example::

        >>> from jaxdiff import editing
        >>> editing.no_regions((3, 8, 8), num=2).masks.shape
        (2, 3, 8, 8)
    """
    return Regions(jnp.zeros([num, *shape], jnp.float32))


def regional_cond(contexts: Array, negative: Array, masks, num: int = 1) -> Guided:
    """Conditions of regionally controlled sampling with classifier-free guidance, see `guidance.cfg`.

    Args:
      contexts: of R + 1 prompts, the background prompt first, [R + 1, L, D].
      negative: context of the negative prompt of the whole image, such as "", [L, D].
      masks: see `regions`.
      num: number of images, B.

    Returns:
      `Guided` with contexts [B, (R + 1) L, D]; the network's config needs context_length=0, see the head of this file.

    Raises:
      ValueError: contexts that are not R + 1, or not as long as the negative one; masks as in `regions`.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import editing
        >>> halves = jnp.eye(2)[:, None].repeat(4, 1).repeat(2, 2)  # left and right, of 4x4 pixels
        >>> guided = editing.regional_cond(jnp.zeros([3, 24, 64]), jnp.zeros([24, 64]), halves, num=5)
        >>> guided.cond.context.shape, guided.uncond.context.shape
        ((5, 72, 64), (5, 72, 64))
    """
    edit = regions(masks, num)
    num_prompts, (L, D) = edit.masks.shape[1] + 1, jnp.shape(negative)
    if jnp.shape(contexts) != (num_prompts, L, D):
        raise ValueError(
            f"`contexts` {jnp.shape(contexts)} must be [{num_prompts}, {L}, {D}]: of a background prompt and of one per "
            "region, all as long as `negative`"
        )
    rows = lambda context: jnp.broadcast_to(context.reshape(1, num_prompts * L, D), (num, num_prompts * L, D))
    negatives = jnp.broadcast_to(jnp.asarray(negative)[None], (num_prompts, L, D))
    cond = Cond(context=rows(jnp.asarray(contexts)), attention_edit=edit)
    return Guided(cond, Cond(context=rows(negatives), attention_edit=no_regions(edit.masks.shape[1:], num)))
