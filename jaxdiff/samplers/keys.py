"""Random keys and noise of examples, which depend on the example and not on the batch."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arguments import check_count
from jaxdiff.types import Array


def keys_for(key: Array, n: int) -> Array:
    """One key per example, which does not depend on the number of examples.

    Args:
      key: a random key, scalar.
      n: number of examples.

    Returns:
      Keys fold_in(key, i) for i < n, [n].

    Raises:
      TypeError: a legacy key, made by `jax.random.PRNGKey`.
      ValueError: n is no whole number of at least 0, or there are several keys.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> key = jax.random.key(0)
        >>> bool((samplers.keys_for(key, 4) == samplers.keys_for(key, 8)[:4]).all())
        True
    """
    check_key("key", key)
    if key.ndim:
        raise ValueError(f"`key` must be one random key, not {list(key.shape)}: `each_key` also takes one per example")
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(check_count("n", n, least=0)))


def normal(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise, of each example from its own key.

    Args:
      keys: one random key per example, [B].
      shape: of one example.

    Returns:
      float32 [B, *shape].

    Raises:
      TypeError, ValueError: not one typed key per example, or a shape that is no tuple of sizes.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> keys = samplers.keys_for(jax.random.key(0), 4)
        >>> z = samplers.normal(keys, (2,))
        >>> bool(jax.numpy.allclose(z[3], jax.random.normal(keys[3], (2,))))
        True
    """
    _check_keys(keys)
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int | np.integer) and n >= 0 for n in shape):
        raise ValueError(f"`shape`={shape!r} must be the shape of one example, such as (28, 28, 1)")
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise, independent of that which `sample` draws from the same keys: x_T, times `Schedule.std`.

    Args:
      keys: one random key per example, [B], for example from `keys_for`.
      shape: of one example.

    Returns:
      float32 [B, *shape].

    Raises:
      TypeError, ValueError: as `normal`.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> x_T = samplers.noise(samplers.keys_for(jax.random.key(0), 5000), (2,))
        >>> abs(float(x_T.mean())) < 0.05, abs(float(x_T.std()) - 1) < 0.05
        (True, True)
    """
    return normal(fold(keys, 0), shape)


def fold(keys: Array, use) -> Array:
    """Derives further keys of the same examples, such as those of a step: fold_in(key, use) of each.

    Args:
      keys: one random key per example, [B].
      use: int, different for every use of the keys. `sample` uses 1, 2, ... for its steps, and `noise` uses 0.

    Returns:
      Keys, [B].

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> keys = samplers.keys_for(jax.random.key(0), 4)
        >>> bool((samplers.fold(keys, 7)[3] == jax.random.fold_in(keys[3], 7)).all())
        True
    """
    _check_keys(keys)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, use)


def _check_keys(keys):
    check_key("keys", keys)
    if keys.ndim != 1:
        raise ValueError(f"`keys` must be one key for each example, not {list(keys.shape)}: see `samplers.keys_for`")


def each_key(key: Array, n: int) -> Array:
    """One key per example: derived from a single key, or as given.

    Args:
      key: a random key; or one per example, [n].
      n: number of examples.

    Returns:
      Keys [n]: `keys_for(key, n)`, or `key` itself.

    Raises:
      TypeError: a legacy key, made by `jax.random.PRNGKey`.
      ValueError: another number of keys than n.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> keys = samplers.each_key(jax.random.key(0), 4)
        >>> samplers.each_key(keys, 4) is keys
        True
    """
    check_key("key", key)
    if key.ndim and key.shape != (n,):
        raise ValueError(
            f"`key` has shape {list(key.shape)}, and there are {n} examples: give one key, or one for each"
        )
    return keys_for(key, n) if key.ndim == 0 else key


def check_key(name: str, key: Array) -> None:
    """Raises TypeError for what is no typed random key, such as a seed or a legacy key."""
    if not jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key):
        raise TypeError(f"`{name}` must be a typed random key, made by jax.random.key and not jax.random.PRNGKey")
