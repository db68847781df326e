"""Regions with conditions of their own, each of which is predicted for the whole image (Bar-Tal et al. 2023)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.types import Aux, Denoiser, Prediction, as_partial


def multidiffusion(denoise: Denoiser, masks) -> Denoiser:
    """Several conditions, each of which says what is in its own region (MultiDiffusion, Bar-Tal et al. 2023, equation 5).

        x0 = sum_r m_r x0(x_t, t, c_r) / sum_r m_r,   eps likewise

    The mean is over predictions and not over the next x_t; where that is linear in them, as in DDIM, both are the same. In
    each prediction all of the image is seen and no other condition, which draws several things where a network has only
    ever seen one in a picture; `editing.by_region`, which lets pixels read prompts of their own, costs one prediction.

    Args:
      denoise: any denoiser, such as `cfg(denoise, scale)`.
      masks: m_r >= 0, such as 1 in a region and 0 outside, [R, H, W], in pixels of x_t; each pixel is in one region or
        more. Traced.

    Returns:
      `Denoiser`, a pytree, for a tuple of R conditions of the same structure and shapes, which run as one batch.
      It has no `aux`. It raises ValueError for another number of conditions, and for an x_t of another size.

    Raises:
      ValueError: masks of another rank, below 0, or a pixel without a region; one line.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Prediction, guidance
        >>> denoise = lambda x_t, t, cond: Prediction(cond.label[:, None, None, None] + 0 * x_t, x_t)  # says its label
        >>> left = jnp.array([[[1.0, 1.0, 0.0]], [[0.0, 1.0, 1.0]]])  # and right, of which the middle is both
        >>> told = Cond(label=jnp.array([3])), Cond(label=jnp.array([5]))
        >>> guidance.multidiffusion(denoise, left)(jnp.zeros([1, 1, 3, 1]), 500, told).x0.ravel().tolist()
        [3.0, 4.0, 5.0]
    """
    if jnp.ndim(masks) != 3:
        raise ValueError(f"masks must be [R, H, W], one for each condition, and these are {jnp.shape(masks)}")
    if not isinstance(masks, jax.core.Tracer):
        shown = np.asarray(masks)
        if (shown < 0).any() or not (shown.sum(0) > 0).all():
            raise ValueError("masks must be at least 0, and each pixel in one region or more")
    return Partial(_multidiffusion, as_partial(denoise), jnp.asarray(masks, jnp.float32))


def _multidiffusion(denoise, masks, x_t, t, conds: Any = None):
    if type(conds) is not tuple or len(conds) != len(masks):  # a `Guided` is a tuple, too, of something else
        raise ValueError(f"this denoiser reads a tuple of {len(masks)} conditions, one for each region")
    if x_t.shape[1:3] != masks.shape[1:]:
        raise ValueError(
            f"masks are of {masks.shape[1:]} pixels, and x_t is of {x_t.shape[1:3]}: give them of its size"
        )
    each = jax.tree.map(lambda *leaves: jnp.stack(leaves), *conds)
    said = jax.vmap(lambda cond: denoise(x_t, t, cond)._replace(aux=Aux()))(each)
    share = (masks / masks.sum(0, keepdims=True))[:, None, :, :, None]
    mean = lambda what: (share * what).sum(0)
    return Prediction(mean(said.x0), mean(said.eps))
