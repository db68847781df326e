"""Regions with conditions of their own, each of which is predicted for the whole image (Bar-Tal et al. 2023)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.guidance.cfg import alike
from jaxdiff.types import Aux, Denoiser, Prediction, as_partial, is_traced


def multidiffusion(denoise: Denoiser, masks) -> Denoiser:
    """Several conditions, each of which says what is in its own region (MultiDiffusion, Bar-Tal et al. 2023).

        x0 = sum_r m_r x0(x_t, t, c_r) / sum_r m_r,   eps likewise

    The paper takes the mean of the next x_t; where that is linear in predictions, as in DDIM, both are the same. What a
    prediction has outside of its region is lost, so a condition should say where its thing is: the paper's bootstrapping,
    which draws things into their masks, is not done here. `editing.by_region` costs one prediction, of pixels that read
    prompts of their own.

    Args:
      denoise: any denoiser, such as `cfg(denoise, scale)`: guidance goes inside.
      masks: m_r >= 0, such as 1 in a region and 0 outside, [R, H, W], in pixels of x_t, which of a latent model are those
        of the latent; none is empty, and each pixel is in one region or more, such as one of the rest. Traced; of masks
        that are tracers themselves nothing is checked, and a pixel in no region is NaN.

    Returns:
      `Denoiser`, a pytree, for a tuple of R conditions of the same structure and shapes, which run as one batch of R times
      the rows. It has no `aux`. It raises ValueError for other conditions, and for an x_t that is not [B, H, W, C].

    Raises:
      ValueError: masks of another rank or below 0, one that is empty, or a pixel without a region; one line.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Prediction, guidance
        >>> denoise = lambda x_t, t, cond: Prediction(cond.label[:, None, None, None] + 0 * x_t, x_t)  # says its label
        >>> masks = jnp.array([[[1.0, 1.0, 0.0]], [[0.0, 1.0, 1.0]]])  # left and right, of which the middle is both
        >>> told = Cond(label=jnp.array([3])), Cond(label=jnp.array([5]))
        >>> guidance.multidiffusion(denoise, masks)(jnp.zeros([1, 1, 3, 1]), 500, told).x0.ravel().tolist()
        [3.0, 4.0, 5.0]
    """
    if jnp.ndim(masks) != 3:
        raise ValueError(f"masks must be [R, H, W], one for each condition, and these are {jnp.shape(masks)}")
    if not is_traced(masks):
        _check(np.asarray(masks))
    return Partial(_multidiffusion, as_partial(denoise), jnp.asarray(masks, jnp.float32))


def _check(masks):
    if (masks < 0).any():
        raise ValueError("masks must be at least 0")
    for i, mask in enumerate(masks):
        if not mask.any():
            raise ValueError(f"mask {i} is empty: leave out the region and its condition")
    if not masks.any(0).all():
        raise ValueError("a pixel is in no region: give the rest a mask and a condition of its own")


def _multidiffusion(denoise, masks, x_t, t, conds: Any = None):
    if type(conds) is not tuple or len(conds) != len(masks):  # a `Guided` is a tuple, too, of something else
        raise ValueError(f"this denoiser reads a tuple of {len(masks)} conditions, one for each region")
    if not all(alike(conds[0], cond) for cond in conds):
        raise ValueError("conditions of regions must have the same structure and shapes")
    if x_t.ndim != 4 or x_t.shape[1:3] != masks.shape[1:]:
        raise ValueError(f"masks are of {masks.shape[1:]} pixels, and x_t is {x_t.shape}: give them of its size")
    each = jax.tree.map(lambda *leaves: jnp.stack(leaves), *conds)
    said = jax.vmap(lambda cond: denoise(x_t, t, cond)._replace(aux=Aux()))(each)
    share = (masks / masks.sum(0, keepdims=True))[:, None, :, :, None]
    mean = lambda what: (share * what).sum(0)
    return Prediction(mean(said.x0), mean(said.eps))
