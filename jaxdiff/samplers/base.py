"""The type of samplers, their registry, and the loop that runs them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arguments import check_arrays, check_count, check_prediction
from jaxdiff.registry import Registry
from jaxdiff.samplers.keys import each_key, fold
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Array, Cond, Denoiser, Guided, as_partial, is_traced

# Each choice is called as choice() -> Sampler. Trait: guides_itself, whether it takes both halves of the condition.
SAMPLERS = Registry("sampler")


class State(NamedTuple):
    """State of a sampler between two steps.

    Attributes:
      x: the current x, float32 [B, ...].
      memory: pytree of values from earlier steps that later ones need; () if none.
    """

    x: Array
    memory: Any = ()


class Sampler(NamedTuple):
    """A sampler as two pure functions; a pytree whose leaves are the sampler's numbers.

    Attributes:
      init: x_T -> State.
      step: (keys [B] or None, denoise, schedule, state, t, s, cond) -> (State, Prediction), from scalar level t to s.
    """

    init: Callable
    step: Callable


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
    rising: bool = False,
) -> tuple[Array, Any]:
    """Runs a sampler over a grid of levels, as one compiled `lax.scan` over pairs (t, s).

    Everything but the functions themselves is traced: a changed key, scale, schedule, grid (of the same length), image or
    set of weights does not recompile, if `denoise` and `sampler` come from this library. A plain Python function may be
    the denoiser too; each new one is compiled.

    Args:
      key: random key made by `jax.random.key`; or one per example [B]; or None for a deterministic sampler. With a
        single key, example i uses `keys_for(key, B)[i]`, so that its result does not depend on the batch.
      sampler: for example `ddim()`.
      denoise: see `jaxdiff.types.Denoiser`.
      schedule: noise schedule.
      timesteps: levels visited, falling, [N + 1], from `jaxdiff.timesteps`.
      x_T: initial x, float32 [B, ...], for example from `noise`.
      cond: conditions, any pytree, one row per example.
      cond_axes: as `in_axes` of `jax.vmap`: 0 at leaves (or prefixes) of `cond` that have a leading axis of steps,
        [N, B, ...], and None elsewhere; hashable, so made of named and plain tuples and not of dicts and lists.
      collect: (State, Prediction) -> pytree, called after each step; each new function is compiled.
      rising: whether the levels rise, as for `editing.ddim_inversion` and the solvers of the probability flow.

    Returns:
      x at the last level, float32 [B, ...], and the results of `collect`, [N, ...] at each leaf; None without it.

    Raises:
      ValueError: cond_axes holds something other than 0 and None, cannot be hashed, or is no prefix of `cond`; a leaf of
        `cond` under a 0 does not have N rows, or another one not B; a sampler that needs a key has none; the keys are not
        one per example; an x_T of integers; levels outside of 0..T, or that do not fall;
        a prediction of another shape than x.
      TypeError: a legacy key, made by `jax.random.PRNGKey`; what is no sampler, denoiser, schedule or `collect`; a
        denoiser that returns no `Prediction`; a `cond` that holds something other than arrays.

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
    keys, sampler, denoise, timesteps = _traced(key, sampler, denoise, schedule, timesteps, x_T, rising)
    _check_collect(collect)
    check_arrays("cond", cond)
    if cond_axes is None:
        check_rows(cond, x_T.shape[0])
    if any(axis != 0 for axis in jax.tree.leaves(cond_axes)):
        raise ValueError(
            "`cond_axes` may hold 0 (a leading axis of steps) and None (the same at every step), nothing else"
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
    """Runs `sample` in chunks of `size` steps, between which the host can report progress or stop; same result.

    Args:
      key: see `sample`.
      sampler: see `sample`.
      denoise: see `sample`.
      schedule: see `sample`.
      timesteps: see `sample`.
      x_T: see `sample`.
      cond: see `sample`; the same at every step.
      size: steps in each chunk, at least 1. Chunks of equal size are one compilation; a shorter last one is another.
      collect: see `sample`.

    Yields:
      x after each chunk [B, ...], the last being that of `sample`, and the chunk's results of `collect`.

    Raises:
      ValueError: a size below 1; otherwise as `sample`.
      TypeError: as `sample`.

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
    check_count("size", size)
    keys, sampler, denoise, timesteps = _traced(key, sampler, denoise, schedule, timesteps, x_T)
    _check_collect(collect)
    check_arrays("cond", cond)
    check_rows(cond, x_T.shape[0])
    state = _init(sampler, x_T)
    for first in range(0, len(timesteps) - 1, size):
        levels = timesteps[first : first + size + 1]
        state, collected = _steps(keys, sampler, denoise, schedule, first, levels, state, cond, None, collect)
        yield state.x, collected


def _check_collect(collect):
    if collect is not None and not callable(collect):
        raise TypeError(f"`collect` must be a function (State, Prediction) -> pytree, not {type(collect).__name__}")


def check_rows(cond: Any, num: int) -> None:
    """Raises ValueError for a field of a `Cond`, or of both of a `Guided`, that does not have one row per example."""
    if isinstance(cond, Guided):
        check_rows(cond.cond, num)
        check_rows(cond.uncond, num)
    if not isinstance(cond, Cond):
        return
    for name in Cond._fields:
        if name == "attention_edit":  # its arrays are laid out by the edit
            continue
        for shape in map(np.shape, jax.tree.leaves(getattr(cond, name))):
            if shape and shape[0] != num:
                raise ValueError(
                    f"`cond.{name}` has {shape[0]} rows, and there are {num} examples: give a row for each"
                )


def _traced(key, sampler, denoise, schedule, timesteps, x_T, rising=False):
    """One key per example, and functions as pytrees, which can be arguments of a compiled function."""
    check_is_sampler(sampler)
    if not callable(denoise):
        raise TypeError(
            "`denoise` must be a function (x_t, t, cond) -> Prediction: of a model, jaxdiff.denoiser_of(model)"
        )
    check_schedule(schedule)
    check_x("x_T", x_T)
    levels = check_levels(timesteps, schedule, rising)
    keys = None if key is None else each_key(key, x_T.shape[0])
    return keys, Sampler(*map(as_partial, sampler)), Partial(_checked, as_partial(denoise)), levels


def _checked(denoise, x_t, t, cond=None):
    return check_prediction(denoise(x_t, t, cond), x_t)


def check_is_sampler(sampler) -> None:
    """Raises TypeError for what is no `Sampler`, such as its name, or the function that makes one."""
    if not isinstance(sampler, Sampler):
        raise TypeError(f"`sampler` must be a Sampler, such as jaxdiff.ddim(), not {type(sampler).__name__}: call it")


def check_x(name: str, x: Array) -> None:
    """Raises ValueError for what is no batch of floats."""
    dtype = getattr(x, "dtype", type(x).__name__)
    if dtype not in (jnp.float32, jnp.float64) or not x.ndim:
        raise ValueError(f"`{name}` must be float32 [B, ...], not {dtype} {list(np.shape(x))}")


def check_levels(timesteps, schedule: Schedule, rising: bool = False) -> Array:
    """Levels as an array; ValueError for what is no grid of falling (or rising) levels in 0..T, unless it is traced."""
    try:
        levels = jnp.asarray(timesteps)
    except (TypeError, ValueError):  # texts, or rows of different lengths
        levels = jnp.zeros([0])
    real = jnp.issubdtype(levels.dtype, jnp.integer) or jnp.issubdtype(levels.dtype, jnp.floating)
    if levels.ndim != 1 or not levels.size or not real:
        raise ValueError("`timesteps` must be a grid of levels [N + 1], such as jaxdiff.timesteps.grid(1000, 50)")
    if is_traced(levels):
        return levels
    known = timesteps if isinstance(timesteps, np.ndarray) else np.asarray(levels)  # one on the host needs no transfer
    if not 0 <= known.min() <= known.max() <= schedule.num_levels:
        raise ValueError(f"`timesteps` must be levels in 0..{schedule.num_levels}, see jaxdiff.timesteps")
    lower, higher = (known[:-1], known[1:]) if rising else (known[1:], known[:-1])
    if not np.all(lower < higher):
        wanted = "rise at every step, with `rising`" if rising else "fall at every step; only an inversion is `rising`"
        raise ValueError(f"`timesteps` must {wanted}")
    return levels


@jax.jit
def _init(sampler, x_T):
    return sampler.init(x_T)


@functools.partial(jax.jit, static_argnames=("cond_axes", "collect"))
def _sample(keys, sampler, denoise, schedule, timesteps, x_T, cond, cond_axes, collect):
    return _steps(keys, sampler, denoise, schedule, 0, timesteps, sampler.init(x_T), cond, cond_axes, collect)


@functools.partial(jax.jit, static_argnames=("cond_axes", "collect"))
def _steps(keys, sampler, denoise, schedule, first, timesteps, state, cond, cond_axes, collect):
    per_step, cond_at = _split(cond, cond_axes)
    steps = first + jnp.arange(1, timesteps.shape[0])

    def body(state, inputs):
        step, t, s, leaves = inputs
        step_keys = None if keys is None else fold(keys, step)
        state, prediction = sampler.step(step_keys, denoise, schedule, state, t, s, cond_at(leaves))
        return state, None if collect is None else collect(state, prediction)

    return lax.scan(body, state, (steps, timesteps[:-1], timesteps[1:], per_step))


def _split(cond, axes):
    """The leaves of `cond` that vary with the step, and a function from one step's slices of them to its condition."""
    leaves, tree = jax.tree.flatten(cond)
    marked = jax.tree.map(
        lambda axis, subtree: jax.tree.map(lambda _: axis is not None, subtree),
        axes,
        cond,
        is_leaf=lambda axis: axis is None,
    )
    varies = jax.tree.leaves(marked)
    per_step = [leaf for leaf, vary in zip(leaves, varies, strict=True) if vary]

    def cond_at(slices):
        slices = iter(slices)
        return jax.tree.unflatten(
            tree, [next(slices) if vary else leaf for leaf, vary in zip(leaves, varies, strict=True)]
        )

    return per_step, cond_at
