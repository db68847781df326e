"""Exponential moving average of parameters."""

import jax
import jax.numpy as jnp

from jaxdiff.types import Array


def update(ema, params, step: Array, decay: float):
    """ema + (1 - d)(params - ema) with the warm-up d = min(decay, (1 + n) / (10 + n)), n updates made before this one."""
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda average, new: average + (1 - d) * (new - average), ema, params)
