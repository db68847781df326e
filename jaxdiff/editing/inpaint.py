"""Inpainting without a network trained for it: known pixels are replaced after every step.

(1)  x_s <- m q(x_s | x_0) + (1 - m) step(x_t),   m = 1 at known pixels                       Lugmayr et al. 2022, eq. 8
(2)  x_t ~ q(x_t | x_s), and the step again                                          RePaint's resampling, algorithm 1
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arguments import check_floats, check_number
from jaxdiff.process import q_sample
from jaxdiff.samplers import Sampler, State, fold, normal
from jaxdiff.samplers.base import check_is_sampler
from jaxdiff.types import Array, is_traced


def inpaint(sampler: Sampler, x0: Array, known: Array, rounds: int = 1) -> Sampler:
    """A sampler that keeps the known pixels of images.

    Args:
      sampler: any.
      x0: the images, float32 [B, ...]; unknown pixels may have any finite value.
      known: mask of the known pixels, 1 or True, and 0 or False at those to be sampled; its shape broadcasts against that
        of x0. Values in between mix both.
      rounds: number of times that each step is taken, at least 1. More of them, equation (2), make the sampled pixels
        consistent with the known ones, and cost as many times more; but less is left of the first x_T, such as the noised
        image of SDEdit. All rounds start from the memory that the sampler had before the step. Traced.

    Returns:
      `Sampler`, which needs a random key. On a grid that ends at level 0, known pixels are reproduced exactly.

    Raises:
      TypeError: `sampler` is no `Sampler`.
      ValueError: images of integers, or a mask of another shape; unless they are traced, a mask outside of [0, 1] or
        `rounds` below 1; when run, an x of another shape than x0.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import editing, testing
        >>> schedule, data = jaxdiff.schedules.linear(), testing.gaussian([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]])
        >>> x0, known = jnp.array([[1.5, 0.0]] * 4), jnp.array([True, False])
        >>> sampler, key = editing.inpaint(jaxdiff.ddim(), x0, known, rounds=5), jax.random.key(0)
        >>> x_T, levels = jax.random.normal(key, [4, 2]), jaxdiff.timesteps.grid(1000, 20)
        >>> x, _ = jaxdiff.sample(key, sampler, data.denoiser(schedule), schedule, levels, x_T)
        >>> bool((x[:, 0] == 1.5).all()), bool((x[:, 1] > 0).all())  # the two numbers are correlated
        (True, True)
    """
    check_is_sampler(sampler)
    check_number("rounds", rounds, "be at least 1, and whole", lambda x: (x >= 1) & (x == np.round(x)))
    check_floats("x0", x0)
    known = _mask(known, x0)
    return Sampler(sampler.init, Partial(_step, sampler.step, x0, known, jnp.asarray(rounds, jnp.int32)))


def _mask(known, x0):
    """The mask as floats of the shape of x0."""
    shape, wanted = np.shape(known), np.shape(x0)
    if len(shape) > len(wanted) or any(size not in (1, want) for size, want in zip(shape[::-1], wanted[::-1])):
        raise ValueError(f"`known` must fit the shape of `x0`, {list(wanted)}, not {list(shape)}")
    if not is_traced(known) and not np.all((np.asarray(known) >= 0) & (np.asarray(known) <= 1)):
        raise ValueError("`known` must lie in [0, 1]: 1 at known pixels, 0 at those to be sampled")
    return jnp.broadcast_to(jnp.asarray(known, x0.dtype), wanted)


def _step(step, x0, known, rounds, keys, denoise, schedule, state, t, s, cond):
    if keys is None:
        raise ValueError("inpainting adds noise to the known pixels: `key` must be a random key, not None")
    if state.x.shape != x0.shape:
        raise ValueError(f"`x0` must have the shape of x, {list(state.x.shape)}, not {list(x0.shape)}")
    (alpha_t, sigma_t), (alpha_s, sigma_s), shape = schedule(t), schedule(s), x0.shape[1:]
    r = alpha_t / alpha_s
    std = jnp.sqrt((sigma_t - r * sigma_s) * (sigma_t + r * sigma_s))  # of q(x_t | x_s)

    def descend(i, x_t):
        after, prediction = step(fold(keys, 3 * i), denoise, schedule, State(x_t, state.memory), t, s, cond)
        x_s = jax.vmap(q_sample, (None, 0, None, 0))(schedule, x0, s, normal(fold(keys, 3 * i + 1), shape))
        return after._replace(x=known * x_s + (1 - known) * after.x), prediction

    def resample(i, x_t):
        x_s = descend(i, x_t)[0].x
        return r * x_s + std * normal(fold(keys, 3 * i + 2), shape)

    return descend(rounds - 1, lax.fori_loop(0, rounds - 1, resample, state.x))
