"""Null-text inversion: unconditional embeddings, optimised for each step, with which guidance reconstructs a real image.

Along the trajectory z*_T..z*_0 of an inversion without guidance, starting from z_T = z*_T, each step t -> s solves

(1)  null_t = argmin_null | z*_s - ddim(z_t, eps_null + w (eps_cond - eps_null), t -> s) |^2     Mokady et al. 2023, eq. 3

by some iterations of Adam from the embedding of the step before; the next step starts where guidance with null_t arrives.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arguments import ABOVE_0, check_count, check_number
from jaxdiff.editing.inversion import check_leaf, check_trajectory
from jaxdiff.guidance.cfg import blend
from jaxdiff.guidance.weights import Weight, as_weight, weight_at
from jaxdiff.samplers import State, ddim
from jaxdiff.samplers.base import check_levels
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Array, Denoiser, Guided, Prediction, as_partial, rows


class NullTextConfig(NamedTuple):
    """Settings of the optimisation in each of N steps; a pytree.

    Attributes:
      max_iterations: largest number of Adam iterations per step, int, scalar.
      learning_rate: of Adam, float32 [N].
      tolerance: mean squared error below which an example is not optimised further, float32 [N].
    """

    max_iterations: Array
    learning_rate: Array
    tolerance: Array


def null_text_config(num_steps: int, max_iterations: int = 10, learning_rate: float = 1e-2) -> NullTextConfig:
    """Published settings for 50 steps, stretched over any number of steps.

        learning rate 1e-2 (1 - i / 100), tolerance 1e-5 + 2e-5 i,   i = 0, ..., 49     published code of Mokady et al. 2023

    Args:
      num_steps: N.
      max_iterations: largest number of Adam iterations per step.
      learning_rate: of the first step.

    Raises:
      ValueError: num_steps below 1; unless they are traced, max_iterations below 1, or a learning_rate that is not above 0.

    Example::

        >>> from jaxdiff import editing
        >>> config = editing.null_text_config(50)
        >>> int(config.max_iterations), round(float(config.learning_rate[10]), 4)
        (10, 0.009)
    """
    num_steps = check_count("num_steps", num_steps)
    check_number("max_iterations", max_iterations, "be at least 1, and whole", lambda x: (x >= 1) & (x == np.round(x)))
    check_number("learning_rate", learning_rate, *ABOVE_0)
    i = jnp.arange(num_steps, dtype=jnp.float32) * (50 / num_steps)
    return NullTextConfig(jnp.asarray(max_iterations, jnp.int32), learning_rate * (1 - i / 100), 1e-5 + 2e-5 * i)


def null_text(
    denoise: Denoiser,
    schedule: Schedule,
    timesteps,
    trajectory: Array,
    guided: Guided,
    scale: Weight,
    config: NullTextConfig | None = None,
    leaf: str = "context",
    tick: Callable[[int], None] | None = None,
) -> Array:
    """Optimises the unconditional embedding of each step, equation (1).

    Args:
      denoise: the denoiser without guidance.
      schedule: noise schedule.
      timesteps: levels, descending, int [N + 1].
      trajectory: from `invert` with `guided.cond`, float32 [N + 1, B, ...].
      guided: condition of the images, and the unconditional one from which the optimisation starts. All leaves but one,
        such as control inputs, stay as they are.
      scale: of classifier-free guidance, as in `guidance.cfg`. Traced.
      config: see `NullTextConfig`; None is `null_text_config(N)`. Each example stops at its own tolerance.
      leaf: name of the optimised leaf of `guided.uncond`, float [B, ...]: "context", or "label" as an embedding.
      tick: called with the number of steps that were just completed, for a progress bar; the results are the same.

    Returns:
      [N, B, ...] of that leaf. With these as the leaf and `cond_axes=Guided(None, Cond(context=0))`, `sample` with `cfg` of
      this scale reconstructs the images.

    Raises:
      TypeError: `schedule` is no `Schedule`, or `guided` no `Guided`.
      ValueError: a trajectory, or settings, of another number of steps; levels that do not fall; a leaf that the condition
        does not have.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Guided, editing, process, schedules
        >>> schedule, levels, x0 = schedules.cosine(), [1000, 500, 0], jnp.ones([2, 3])
        >>> def denoise(x_t, t, cond):  # predicts the mean of its context
        ...     return process.predict_from("x0", schedule, cond.context.mean(1), x_t, t)
        >>> guided = Guided(Cond(context=jnp.ones([2, 4, 3])), Cond(context=jnp.zeros([2, 4, 3])))
        >>> trajectory = editing.invert(denoise, schedule, levels, x0, guided.cond)
        >>> editing.null_text(denoise, schedule, levels, trajectory, guided, 7.5).shape
        (2, 2, 4, 3)
    """
    check_schedule(schedule)
    check_leaf(guided, "uncond", leaf)
    levels = check_levels(timesteps, schedule)
    check_trajectory(levels, trajectory)
    num_steps, found = len(levels) - 1, []
    config = config or null_text_config(num_steps)
    if len(config.learning_rate) != num_steps or len(config.tolerance) != num_steps:
        raise ValueError(
            f"`config` is of {len(config.learning_rate)} steps and `timesteps` of {num_steps}: give "
            f"null_text_config({num_steps})"
        )
    size = num_steps  # steps per call; all calls share a compilation
    if tick is not None:
        size = max(size for size in range(1, 11) if num_steps % size == 0)
    carry = trajectory[0], getattr(guided.uncond, leaf)
    for first in range(0, num_steps, size):
        chunk = slice(first, first + size)
        settings = config._replace(learning_rate=config.learning_rate[chunk], tolerance=config.tolerance[chunk])
        steps = levels[:-1][chunk], levels[1:][chunk], trajectory[1:][chunk]
        carry, embeddings = _steps(
            as_partial(denoise, "denoise"), schedule, carry, steps, guided, as_weight(scale), settings, leaf
        )
        found.append(embeddings)
        if tick is not None:
            tick(len(jax.block_until_ready(embeddings)))
    return jnp.concatenate(found)


@functools.partial(jax.jit, static_argnames="leaf")
def _steps(denoise, schedule, carry, steps, guided, scale, config, leaf):
    adam = optax.scale_by_adam()

    def optimise(carry, step):
        (z, null), ((t, s, inverted), learning_rate, tolerance) = carry, step
        conditional = denoise(z, t, guided.cond)

        def ddim_step(null):
            unconditional = denoise(z, t, guided.uncond._replace(**{leaf: null}))
            prediction = blend(conditional, unconditional, weight_at(scale, t))
            return ddim().step(None, Partial(_constant, prediction), schedule, State(z), t, s, None)[0].x

        def loss(null):
            errors = jnp.square(inverted - ddim_step(null)).reshape(z.shape[0], -1).mean(1)
            return errors.sum(), errors

        def iterate(search):
            i, null, moments, _ = search
            (_, errors), grads = jax.value_and_grad(loss, has_aux=True)(null)
            updates, moments = adam.update(grads, moments)
            active = errors > tolerance
            return i + 1, jnp.where(rows(active, null), null - learning_rate * updates, null), moments, active.any()

        unfinished = lambda search: (search[0] < config.max_iterations) & search[3]
        _, null, _, _ = lax.while_loop(unfinished, iterate, (0, null, adam.init(null), jnp.bool_(True)))
        return (ddim_step(null), null), null

    return lax.scan(optimise, carry, (steps, config.learning_rate, config.tolerance))


def _constant(prediction, x_t, t, cond) -> Prediction:
    return prediction
