"""Random keys of seeds, the same whatever generator jax is set to use by default."""

import jax

from jaxdiff.types import Array

GENERATOR = "threefry2x32"


def key_of(seed: int) -> Array:
    """The random key of a seed, of the generator Threefry (Salmon et al. 2011), whatever `jax_default_prng_impl` says.

    Args:
      seed: in 0..2^32 - 1.

    Returns:
      A random key, scalar.

    Raises:
      ValueError: jax's older way to draw arrays is switched on, in which a seed has other images.

    Example::

        >>> import jax
        >>> from jaxdiff.seeds import key_of
        >>> with jax.default_prng_impl("rbg"):
        ...     bool(key_of(1) == jax.random.key(1, impl="threefry2x32"))
        True
    """
    if not getattr(jax.config, "jax_threefry_partitionable", True):
        raise ValueError(
            "jax_threefry_partitionable is off, and seeds would draw other images: leave JAX_THREEFRY_PARTITIONABLE out"
        )
    return jax.random.key(seed, impl=GENERATOR)
