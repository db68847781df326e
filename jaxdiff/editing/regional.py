"""Regionally controlled sampling: each region of an image reads a prompt of its own (Mix-of-Show, Gu et al. 2023).

The context is that of R + 1 prompts, one behind the other, of which the first is for wherever there is no region. With p
the attention of a pixel to all their keys, and r the prompts of the regions that it lies in,

(1)  p_r = p 1_r / sum(p 1_r) = softmax over the keys of prompt r alone
(2)  p <- mean of p_r over the regions r of the pixel, or p_0 where there is none

A network that asks for a number of tokens refuses R + 1 times as many: one of `dataclasses.replace(config,
context_length=0)` takes any number, and its parameters are the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.types import Array, Cond, Guided, is_traced


class Regions(NamedTuple):
    """Which pixels read which prompt, row by row; a pytree that `Cond.attention_edit` takes.

    A site of fewer pixels than the masks has a pixel in a region that covers more than half of it. A region that covers no
    pixel so far does not vanish: it then has the pixels that it covers more than half as much as its most covered one.

    Attributes:
      masks: 1 in a region and 0 outside, float [B, R, H, W], in pixels of the image or of its latent.
    """

    masks: Array

    def __call__(self, p: Array, site, t: Array) -> Array:
        """Edited probabilities, equation (2), at all levels; self-attention as it is."""
        if not site.cross:
            return p
        (B, H, Q, K), prompts = p.shape, self.masks.shape[1] + 1
        if K % prompts:
            raise ValueError(
                f"a context of {K} tokens is not that of {prompts} prompts: give one for each region, and one"
            )
        inside_BxRxQ = _inside(self.masks, site.size).reshape(B, prompts - 1, Q)
        nowhere_Bx1xQ = ~inside_BxRxQ.any(1, keepdims=True)
        reads_BxQxR = jnp.concatenate([nowhere_Bx1xQ, inside_BxRxQ], axis=1).transpose(0, 2, 1).astype(p.dtype)
        share_BxQxR = reads_BxQxR / reads_BxQxR.sum(-1, keepdims=True)  # each pixel reads one prompt at least
        p_BxHxQxRxL = p.reshape(B, H, Q, prompts, K // prompts)
        total = p_BxHxQxRxL.sum(-1, keepdims=True)
        # A prompt whose keys are all below the smallest number, beside those of another, is read as a whole.
        own = jnp.where(total > 0, p_BxHxQxRxL / jnp.where(total > 0, total, 1), prompts / K)
        return (share_BxQxR[:, None, :, :, None] * own).reshape(p.shape)


def _inside(masks, size):
    """Which pixels of a site [B, R, h, w] lie in which region."""
    height, width = masks.shape[-2:]
    if height * size[1] != width * size[0]:
        raise ValueError(
            f"masks of {height}x{width} are not of the shape of an image that is {size[0]}x{size[1]} at a site"
        )
    down, across = (jnp.asarray(_areas(n, m)) for n, m in zip(size, (height, width)))
    covered = jnp.einsum("hH,brHW,wW->brhw", down, masks.astype(jnp.float32), across, precision="highest")
    most = covered.max((-2, -1), keepdims=True)
    half = 0.5 + 1e-5  # rounding is not more than half
    return covered > half * jnp.where(most > half, 1, most)


def _areas(n, m):
    """What part of each of n pixels each of m pixels is, along one side of the same length, float32 [n, m]."""
    begin_n, begin_m = np.arange(n)[:, None] / n, np.arange(m)[None] / m
    shared = np.minimum(begin_n + 1 / n, begin_m + 1 / m) - np.maximum(begin_n, begin_m)
    return np.maximum(shared * n, 0).astype(np.float32)


def regions(masks, num: int = 1) -> Regions:
    """Each region reads a prompt of its own, and the rest the first one.

    Args:
      masks: of R regions, bool or float in [0, 1], [R, H, W], in pixels of the image or of its latent, cut at a half.
        Where they overlap, both prompts are read.
      num: B, of images with the same regions.

    Returns:
      `Regions` of B rows.

    Raises:
      ValueError: masks of another rank or beyond [0, 1], or one that is empty.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import editing
        >>> from jaxdiff.nets.transformer import Site
        >>> left = jnp.zeros([1, 2, 2]).at[:, :, 0].set(1)
        >>> p = jnp.full([1, 1, 4, 4], 0.25)  # four pixels look at two prompts of two words
        >>> editing.regions(left)(p, Site("attn2", True, (2, 2)), jnp.array([500]))[0, 0].tolist()
        [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0]]
    """
    if jnp.ndim(masks) != 3:
        raise ValueError(f"masks must be [R, H, W], one for each region, and these are {jnp.shape(masks)}")
    if not is_traced(masks):
        if np.min(masks) < 0 or np.max(masks) > 1:
            raise ValueError("masks must be in [0, 1]")
        for i, mask in enumerate(np.asarray(masks)):
            if not mask.any():
                raise ValueError(f"mask {i} is empty: leave out the region and its prompt")
    masks = jnp.asarray(masks, jnp.float32)
    return Regions(jnp.broadcast_to(masks[None], (num, *masks.shape)))


def no_regions(shape: Sequence[int], num: int = 1) -> Regions:
    """All pixels read the first prompt, such as in the half of guidance that is led away from.

    Args:
      shape: (R, H, W) of the other half's masks, so that both halves run as one batch.
      num: B.

    Returns:
      `Regions` of B rows.

    Example::

        >>> from jaxdiff import editing
        >>> editing.no_regions((3, 8, 8), num=2).masks.shape
        (2, 3, 8, 8)
    """
    return Regions(jnp.zeros([num, *shape]))


def regional_cond(contexts: Array, negative: Array, masks, num: int = 1) -> Guided:
    """Both conditions of regionally controlled sampling, for `guidance.cfg`.

    Args:
      contexts: of R + 1 prompts, the first for wherever there is no region, [R + 1, L, D].
      negative: of what all of the image is led away from, such as that of "", [L, D].
      masks: see `regions`.
      num: B.

    Returns:
      `Guided`, contexts [B, (R + 1) L, D]: the network's config must have context_length=0, see the head of this file.

    Raises:
      ValueError: not one prompt for each region and one for elsewhere, all as long as the negative one, or an empty mask.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import editing
        >>> halves = jnp.eye(2)[:, None].repeat(4, 1).repeat(2, 2)  # left and right, of 4x4 pixels
        >>> told = editing.regional_cond(jnp.zeros([3, 24, 64]), jnp.zeros([24, 64]), halves, num=5)
        >>> told.cond.context.shape, told.uncond.context.shape
        ((5, 72, 64), (5, 72, 64))
    """
    edit = regions(masks, num)
    prompts, (L, D) = edit.masks.shape[1] + 1, jnp.shape(negative)
    if jnp.shape(contexts) != (prompts, L, D):
        raise ValueError(
            f"contexts {jnp.shape(contexts)} must be [{prompts}, {L}, {D}]: of a prompt for elsewhere, then of one for "
            f"each region, all as long as the negative one"
        )
    rows = lambda context: jnp.broadcast_to(context.reshape(1, prompts * L, D), (num, prompts * L, D))
    nothing = jnp.broadcast_to(jnp.asarray(negative)[None], (prompts, L, D))
    cond = Cond(context=rows(jnp.asarray(contexts)), attention_edit=edit)
    return Guided(cond, Cond(context=rows(nothing), attention_edit=no_regions(edit.masks.shape[1:], num)))
