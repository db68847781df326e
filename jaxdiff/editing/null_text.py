"""Null-text inversion: what stands for "no text" is learned for each step, so that guidance leads back to a real image.

Along the path z*_T..z*_0 of an inversion without guidance, from z_T = z*_T down, each step t -> s finds

(1)  null_t = argmin_null | z*_s - ddim(z_t, eps_null + w (eps_cond - eps_null), t -> s) |^2     Mokady et al. 2023, eq. 3

by some steps of Adam that begin at the null of the step before, and goes on from where guidance with it leads.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial

from jaxdiff.editing.inversion import check_path
from jaxdiff.guidance.cfg import blend
from jaxdiff.guidance.weights import Weight, as_weight, weight_at
from jaxdiff.samplers import State, ddim
from jaxdiff.schedules import Schedule
from jaxdiff.types import Array, Denoiser, Guided, Prediction, as_partial


class NullTextConfig(NamedTuple):
    """How a null is looked for in each of N steps; a pytree.

    Attributes:
      max_iterations: steps of Adam, int, scalar.
      learning_rate: of Adam, float32 [N].
      tolerance: mean squared distance at which an example's search ends, float32 [N].
    """

    max_iterations: Array
    learning_rate: Array
    tolerance: Array


def null_text_config(num_steps: int, max_iterations: int = 10, learning_rate: float = 1e-2) -> NullTextConfig:
    """As published for 50 steps, spread over any number: rate 1e-2 (1 - i / 100), enough at 1e-5 + 2e-5 i, i in 0..49.

    Args:
      num_steps: N.
      max_iterations: steps of Adam in each.
      learning_rate: in the first.

    Example::

        >>> from jaxdiff import editing
        >>> config = editing.null_text_config(50)
        >>> int(config.max_iterations), round(float(config.learning_rate[10]), 4)
        (10, 0.009)
    """
    i = jnp.arange(num_steps) * (50 / num_steps)
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
    """The nulls with which guidance goes back down the path of an inversion, equation (1).

    Args:
      denoise: the plain denoiser, without guidance.
      schedule: noise schedule.
      timesteps: levels, falling, int [N + 1].
      trajectory: from `invert` on `guided.cond`, float32 [N + 1, B, ...].
      guided: what the image shows, and the null from which the search begins.
      scale: of the guidance, as in `guidance.cfg`. Traced.
      config: see `NullTextConfig`; None is `null_text_config(N)`. Each example's search ends for itself.
      leaf: the leaf of `guided.uncond` that is looked for, float [B, ...]: "context", or "label" as an embedding.
      tick: is told how many steps are done, some at a time, such as a progress bar; the numbers are the same.

    Returns:
      [N, B, ...] of that leaf. Put in its place with `cond_axes=Guided(None, Cond(context=0))`, `sample` with `cfg` of this
      scale goes back down.

    Raises:
      ValueError: a trajectory, or a search, of another number of levels.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Guided, editing, process, schedules
        >>> schedule, levels, x0 = schedules.cosine(), [1000, 500, 0], jnp.ones([2, 3])
        >>> def denoise(x_t, t, cond):  # predicts the mean of its context
        ...     return process.predict_from("x0", schedule, cond.context.mean(1), x_t, t)
        >>> guided = Guided(Cond(context=jnp.ones([2, 4, 3])), Cond(context=jnp.zeros([2, 4, 3])))
        >>> path = editing.invert(denoise, schedule, levels, x0, guided.cond)
        >>> editing.null_text(denoise, schedule, levels, path, guided, 7.5).shape
        (2, 2, 4, 3)
    """
    levels = jnp.asarray(timesteps)
    check_path(levels, trajectory)
    count, found = len(levels) - 1, []
    config = config or null_text_config(count)
    if len(config.learning_rate) != count or len(config.tolerance) != count:
        raise ValueError(
            f"a search in {len(config.learning_rate)} steps is none in {count}: give null_text_config({count})"
        )
    size = count if tick is None else max(size for size in range(1, 11) if count % size == 0)  # one compilation
    carry = trajectory[0], getattr(guided.uncond, leaf)
    for first in range(0, count, size):
        which = slice(first, first + size)
        own = config._replace(learning_rate=config.learning_rate[which], tolerance=config.tolerance[which])
        pairs = levels[:-1][which], levels[1:][which], trajectory[1:][which]
        carry, part = _steps(as_partial(denoise), schedule, carry, pairs, guided, as_weight(scale), own, leaf)
        found.append(part)
        if tick is not None:
            tick(len(jax.block_until_ready(part)))
    return jnp.concatenate(found)


@functools.partial(jax.jit, static_argnames="leaf")
def _steps(denoise, schedule, carry, pairs, guided, scale, config, leaf):
    adam = optax.scale_by_adam()

    def body(carry, step):
        (z, null), (t, s, wanted), rate, enough = carry, *step
        good = denoise(z, t, guided.cond)

        def down(null):
            bad = denoise(z, t, guided.uncond._replace(**{leaf: null}))
            led = blend(good, bad, weight_at(scale, t))
            return ddim().step(None, Partial(_said, led), schedule, State(z), t, s, None)[0].x

        def missed(null):
            each = jnp.square(wanted - down(null)).reshape(z.shape[0], -1).mean(1)
            return each.sum(), each

        def better(search_state):
            i, null, moments, _ = search_state
            (_, each), slope = jax.value_and_grad(missed, has_aux=True)(null)
            change, moments = adam.update(slope, moments)
            going = each > enough
            keep = lambda new, old: jnp.where(going.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            return i + 1, keep(null - rate * change, null), moments, going.any()

        unfinished = lambda search_state: (search_state[0] < config.max_iterations) & search_state[3]
        _, null, _, _ = lax.while_loop(unfinished, better, (0, null, adam.init(null), jnp.bool_(True)))
        return (down(null), null), null

    return lax.scan(body, carry, (pairs, config.learning_rate, config.tolerance))


def _said(prediction, x_t, t, cond) -> Prediction:
    return prediction
