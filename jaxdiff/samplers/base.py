"""What a sampler is, and the one loop that runs all of them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdiff.schedules import Schedule
from jaxdiff.types import Array, Denoiser, as_partial


class State(NamedTuple):
    """Where a sampler is.

    Attributes:
      x: the current x, float32 [B, ...].
      memory: pytree of whatever it remembers of earlier steps; () if nothing.
    """

    x: Array
    memory: Any = ()


class Sampler(NamedTuple):
    """Two pure functions; a pytree whose leaves are the sampler's numbers.

    Attributes:
      init: x_T -> State.
      step: (keys [B] or None, denoise, schedule, state, t, s, cond) -> (State, Prediction), from scalar level t to s.
    """

    init: Callable
    step: Callable


def keys_for(key: Array, n: int) -> Array:
    """One key per example: example i has the same key whatever n is.

    Args:
      key: a random key, scalar.
      n: number of examples.

    Returns:
      Keys fold_in(key, i) for i < n, [n].

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> key = jax.random.key(0)
        >>> bool((samplers.keys_for(key, 4) == samplers.keys_for(key, 8)[:4]).all())
        True
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))


def normal(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers, each example's from its own key.

    Args:
      keys: one random key per example, [B].
      shape: of one example.

    Returns:
      float32 [B, *shape].

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> keys = samplers.keys_for(jax.random.key(0), 4)
        >>> z = samplers.normal(keys, (2,))
        >>> bool(jax.numpy.allclose(z[3], jax.random.normal(keys[3], (2,))))
        True
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal x_T, independent of the noise that `sample` takes from the same keys.

    Args:
      keys: one random key per example, [B], for example from `keys_for`.
      shape: of one example.

    Returns:
      float32 [B, *shape].

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> x_T = samplers.noise(samplers.keys_for(jax.random.key(0), 5000), (2,))
        >>> abs(float(x_T.mean())) < 0.05, abs(float(x_T.std()) - 1) < 0.05
        (True, True)
    """
    return normal(fold(keys, 0), shape)


def fold(keys: Array, use) -> Array:
    """Other keys of the same examples: fold_in(key, use) of each, such as those of a step.

    Args:
      keys: one random key per example, [B].
      use: what for, an int of its own for every use of the keys. In `sample` the steps count from 1, and 0 is `noise`.

    Returns:
      Keys, [B].

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> keys = samplers.keys_for(jax.random.key(0), 4)
        >>> bool((samplers.fold(keys, 7)[3] == jax.random.fold_in(keys[3], 7)).all())
        True
    """
    return jax.vmap(jax.random.fold_in, (0, None))(keys, use)


def each_key(key: Array, n: int) -> Array:
    """One key per example, from one for all of them or as they are.

    Args:
      key: a random key; or one per example, [n].
      n: number of examples.

    Returns:
      `keys_for(key, n)` or `key`, [n].

    Raises:
      TypeError: a legacy key, made by `jax.random.PRNGKey`.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> keys = samplers.each_key(jax.random.key(0), 4)
        >>> samplers.each_key(keys, 4) is keys
        True
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError("key must be a typed random key, made by jax.random.key and not jax.random.PRNGKey")
    return keys_for(key, n) if key.ndim == 0 else key


def sample(
    key: Array | None,
    sampler: Sampler,
    denoise: Denoiser,
    schedule: Schedule,
    timesteps,
    x_T: Array,
    cond: Any = None,
    *,
    cond_axes: Any = None,
    collect: Callable | None = None,
) -> tuple[Array, Any]:
    """Runs a sampler down a grid of levels, as one compiled `lax.scan` over pairs (t, s).

    Everything but the functions themselves is traced: a changed key, scale, schedule, grid (of the same length), image or
    set of weights compiles nothing, given that `denoise` and `sampler` come from this library. A plain Python function
    is taken as a denoiser too; a new one is a new compilation.

    Args:
      key: random key made by `jax.random.key`; or one per example [B]; or None for a sampler that draws nothing. With a
        single key, example i uses `keys_for(key, B)[i]`, so it comes out the same whatever the batch is.
      sampler: for example `ddim()`.
      denoise: see `jaxdiff.types.Denoiser`.
      schedule: noise schedule.
      timesteps: levels visited, falling, int [N + 1], from `jaxdiff.timesteps.grid`.
      x_T: where to begin, float32 [B, ...], for example from `noise`.
      cond: conditions, any pytree, one row per example.
      cond_axes: as `in_axes` of `jax.vmap`: 0 at leaves (or prefixes) of `cond` that have one row per step in front,
        [N, B, ...], and None elsewhere; hashable, so made of named and plain tuples and not of dicts and lists.
      collect: (State, Prediction) -> pytree, called after each step; a new function is a new compilation.

    Returns:
      x at the last level, float32 [B, ...], and what was collected, [N, ...] at each leaf; None without `collect`.

    Raises:
      ValueError: cond_axes holds something other than 0 and None, cannot be hashed, or is no prefix of `cond`; a leaf of
        `cond` under a 0 does not have N rows; a sampler that needs a key has none; the keys are not one per example.
      TypeError: a legacy key, made by `jax.random.PRNGKey`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> schedule, key = jaxdiff.schedules.linear(), jax.random.key(0)
        >>> def denoise(x_t, t, cond):  # exact where the data is N(0, I)
        ...     alpha, sigma = schedule(t)
        ...     return jaxdiff.Prediction(alpha * x_t, sigma * x_t)
        >>> x_T = jaxdiff.samplers.noise(jaxdiff.samplers.keys_for(key, 16), (2,))
        >>> levels = jaxdiff.timesteps.grid(1000, 50)
        >>> x_0, _ = jaxdiff.sample(key, jaxdiff.samplers.ddim(), denoise, schedule, levels, x_T)

    Each DDIM step then multiplies by alpha_s alpha_t + sigma_s sigma_t, the cosine of a difference of angles::

        >>> alpha, sigma = schedule(levels)
        >>> steps = alpha[1:] * alpha[:-1] + sigma[1:] * sigma[:-1]
        >>> bool(jnp.allclose(x_0, x_T * steps.prod(), atol=1e-4))
        True
    """
    keys, sampler, denoise, timesteps = _traced(key, sampler, denoise, timesteps, x_T)
    if any(axis != 0 for axis in jax.tree.leaves(cond_axes)):
        raise ValueError(
            "cond_axes may hold 0 (one row per step in front) and None (the same at every step), nothing else"
        )
    state, collected = _sample(keys, sampler, denoise, schedule, timesteps, x_T, cond, cond_axes, collect)
    return state.x, collected


def chunks(
    key: Array | None,
    sampler: Sampler,
    denoise: Denoiser,
    schedule: Schedule,
    timesteps,
    x_T: Array,
    cond: Any = None,
    *,
    size: int,
    collect: Callable | None = None,
) -> Iterator[tuple[Array, Any]]:
    """`sample`, `size` steps at a time, so that the host can watch or stop; the numbers are those of `sample`.

    Args:
      key: as in `sample`, and so are the arguments up to `cond`.
      sampler: see there.
      denoise: see there.
      schedule: see there.
      timesteps: see there.
      x_T: see there.
      cond: see there; the same at every step.
      size: steps in each part, at least 1. Parts of equal size are one compilation; a shorter last one is another.
      collect: as in `sample`.

    Yields:
      x after each part [B, ...], the last being that of `sample`, and what was collected in it.

    Raises:
      ValueError: a size below 1.
      TypeError: a key that is not typed.

    Example::

        >>> import jax
        >>> import jaxdiff
        >>> schedule, key = jaxdiff.schedules.linear(), jax.random.key(0)
        >>> def denoise(x_t, t, cond):  # exact where the data is N(0, I)
        ...     alpha, sigma = schedule(t)
        ...     return jaxdiff.Prediction(alpha * x_t, sigma * x_t)
        >>> x_T = jaxdiff.samplers.noise(jaxdiff.samplers.keys_for(key, 16), (2,))
        >>> arguments = key, jaxdiff.ddpm(), denoise, schedule, jaxdiff.timesteps.grid(1000, 50), x_T
        >>> *_, (x_0, _) = jaxdiff.samplers.chunks(*arguments, size=10)
        >>> bool(jax.numpy.allclose(x_0, jaxdiff.sample(*arguments)[0], atol=1e-5))
        True
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1")
    keys, sampler, denoise, timesteps = _traced(key, sampler, denoise, timesteps, x_T)
    state = _init(sampler, x_T)
    for first in range(0, len(timesteps) - 1, size):
        levels = timesteps[first : first + size + 1]
        state, collected = _steps(keys, sampler, denoise, schedule, first, levels, state, cond, None, collect)
        yield state.x, collected


def _traced(key, sampler, denoise, timesteps, x_T):
    """A key per example, and functions as pytrees, so that they can be arguments of a compiled function."""
    keys = None if key is None else each_key(key, x_T.shape[0])
    return keys, Sampler(*map(as_partial, sampler)), as_partial(denoise), jnp.asarray(timesteps)


@jax.jit
def _init(sampler, x_T):
    return sampler.init(x_T)


@functools.partial(jax.jit, static_argnames=("cond_axes", "collect"))
def _sample(keys, sampler, denoise, schedule, timesteps, x_T, cond, cond_axes, collect):
    return _steps(keys, sampler, denoise, schedule, 0, timesteps, sampler.init(x_T), cond, cond_axes, collect)


@functools.partial(jax.jit, static_argnames=("cond_axes", "collect"))
def _steps(keys, sampler, denoise, schedule, first, timesteps, state, cond, cond_axes, collect):
    per_step, put_back = _split(cond, cond_axes)
    steps = first + jnp.arange(1, timesteps.shape[0])

    def body(state, step_t_s_rows):
        step, t, s, rows = step_t_s_rows
        step_keys = None if keys is None else fold(keys, step)
        state, prediction = sampler.step(step_keys, denoise, schedule, state, t, s, put_back(rows))
        return state, None if collect is None else collect(state, prediction)

    return lax.scan(body, state, (steps, timesteps[:-1], timesteps[1:], per_step))


def _split(cond, axes):
    """Takes out the leaves that vary with the step; the returned function puts one step's rows back in."""
    leaves, tree = jax.tree.flatten(cond)
    spread = jax.tree.map(
        lambda axis, part: jax.tree.map(lambda _: axis is not None, part), axes, cond, is_leaf=lambda axis: axis is None
    )
    varies = jax.tree.leaves(spread)
    per_step = [leaf for leaf, vary in zip(leaves, varies, strict=True) if vary]

    def put_back(rows):
        rows = iter(rows)
        return jax.tree.unflatten(
            tree, [next(rows) if vary else leaf for leaf, vary in zip(leaves, varies, strict=True)]
        )

    return per_step, put_back
