"""Exponential moving average of parameters."""

import jax
import jax.numpy as jnp

from jaxdiff.types import Array


def update(ema, params, step: Array, decay: float):
    """Moves the average towards the parameters, faster at the start of training.

        ema' = ema + (1 - d)(params - ema),   d = min(decay, (1 + n) / (10 + n))

    A decay of 0.9999 is DDPM's (Ho et al. 2020, appendix B); the warm-up is TensorFlow's `ExponentialMovingAverage`'s.

    Args:
      ema: pytree of averages.
      params: pytree of the new parameters, same structure and shapes.
      step: n, how many updates were made before this one, int scalar.
      decay: largest share of the old average that is kept, in [0, 1].

    Returns:
      The new averages, shapes and dtypes of `ema`.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.train import ema
        >>> [round(float(ema.update(jnp.zeros(()), jnp.ones(()), n, 0.9999)), 4) for n in (0, 10, 10**6)]  # 1 - d
        [0.9, 0.45, 0.0001]
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda average, new: average + (1 - d) * (new - average), ema, params)
