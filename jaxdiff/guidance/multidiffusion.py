"""MultiDiffusion: regions with their own conditions, each predicted for the whole image (Bar-Tal et al. 2023)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.guidance.cfg import batchable
from jaxdiff.types import Aux, Denoiser, Prediction, as_partial, is_traced


def multidiffusion(denoise: Denoiser, masks) -> Denoiser:
    """Weighted mean of predictions with several conditions, each in its own region (MultiDiffusion, Bar-Tal et al. 2023).

        x0 = sum_r m_r x0(x_t, t, c_r) / sum_r m_r,   eps likewise

    The paper takes the mean of the next x_t, which is the same if that is linear in the prediction, as in DDIM. A
    prediction is discarded outside of its region, so a condition should name the position of its object: the paper's
    bootstrapping, which forces objects into their masks, is not implemented. `editing.regional_cond` needs one
    prediction, with a prompt per region in cross-attention.

    Args:
      denoise: any denoiser, such as `cfg(denoise, scale)`: guidance is applied first.
      masks: m_r >= 0, such as 1 in a region and 0 outside, [R, H, W], in pixels of x_t (of the latent, in a latent
        diffusion model); none is empty, and each pixel is in at least one region. Traced; masks that are tracers themselves
        are not checked, and a pixel in no region is NaN.

    Returns:
      `Denoiser`, a pytree, for a tuple of R conditions of the same structure and shapes, which are one batch of R times
      the rows; without `aux`. ValueError for other conditions, and for an x_t that is not [B, H, W, C].

    Raises:
      ValueError: masks of another rank, below 0 or not finite, an empty mask, or a pixel without a region.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Prediction, guidance
        >>> denoise = lambda x_t, t, cond: Prediction(cond.label[:, None, None, None] + 0 * x_t, x_t)  # x0 is the label
        >>> masks = jnp.array([[[1.0, 1.0, 0.0]], [[0.0, 1.0, 1.0]]])  # left and right, overlapping in the middle
        >>> conds = Cond(label=jnp.array([3])), Cond(label=jnp.array([5]))
        >>> guidance.multidiffusion(denoise, masks)(jnp.zeros([1, 1, 3, 1]), 500, conds).x0.ravel().tolist()
        [3.0, 4.0, 5.0]
    """
    if jnp.ndim(masks) != 3:
        raise ValueError(f"`masks` must be [R, H, W], one for each condition, and have shape {jnp.shape(masks)}")
    if not is_traced(masks):
        _check(np.asarray(masks))
    return Partial(_multidiffusion, as_partial(denoise, "denoise"), jnp.asarray(masks, jnp.float32))


def _check(masks):
    if not ((masks >= 0) & np.isfinite(masks)).all():
        raise ValueError("`masks` must be at least 0 and finite")
    for i, mask in enumerate(masks):
        if not mask.any():
            raise ValueError(f"mask {i} of `masks` is empty: leave out the region and its condition")
    if not masks.any(0).all():
        raise ValueError("a pixel is in none of the `masks`: add a mask and a condition for the rest of the image")


def _multidiffusion(denoise, masks, x_t, t, conds: Any = None):
    if type(conds) is not tuple or len(conds) != len(masks):  # a `Guided` is a tuple too
        raise ValueError(f"the condition must be a tuple of {len(masks)} conditions, one for each region")
    if not all(batchable(conds[0], cond) for cond in conds):
        raise ValueError("conditions of regions must have the same structure and shapes")
    if x_t.ndim != 4 or x_t.shape[1:3] != masks.shape[1:]:
        raise ValueError(f"`masks` have {masks.shape[1:]} pixels, and x_t has shape {x_t.shape}: give them in its size")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *conds)
    predictions = jax.vmap(lambda cond: denoise(x_t, t, cond)._replace(aux=Aux()))(stacked)
    weights = (masks / masks.sum(0, keepdims=True))[:, None, :, :, None]
    mean = lambda x: (weights * x).sum(0)
    return Prediction(mean(predictions.x0), mean(predictions.eps))
