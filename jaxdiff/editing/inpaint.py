"""Inpainting by a network that was not trained for it: what is known is put in its place at every level.

(1)  x_s <- m q(x_s | x_0) + (1 - m) step(x_t),   m = 1 where x_0 is known                     Lugmayr et al. 2022, eq. 8
(2)  x_t ~ q(x_t | x_s), and the step again                                           RePaint's resampling, algorithm 1
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.process import q_sample
from jaxdiff.samplers import Sampler, State, fold, normal
from jaxdiff.types import Array, is_traced


def inpaint(sampler: Sampler, x0: Array, known: Array, rounds: int = 1) -> Sampler:
    """A sampler that keeps a part of the images.

    Args:
      sampler: any.
      x0: what is known, float32 [B, ...], also outside of it finite.
      known: where, 1 or True, and 0 where is drawn; of a shape that broadcasts against x0. Parts in between mix.
      rounds: how often each step is taken, at least 1: with more, what is drawn fits what is known better, and takes so
        many times as long, but of what the first x_T holds there, such as an image's noise in SDEdit, little is left. Each
        begins with the sampler's memory as it was before the step. Traced.

    Returns:
      `Sampler`, which needs a random key; on a grid that ends at level 0 known pixels come out exactly.

    Raises:
      ValueError: fewer rounds than one, where it is a number and not traced.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import editing, testing
        >>> schedule, data = jaxdiff.schedules.linear(), testing.gaussian([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]])
        >>> x0, known = jnp.array([[1.5, 0.0]] * 4), jnp.array([True, False])
        >>> sampler, key = editing.inpaint(jaxdiff.ddim(), x0, known, rounds=5), jax.random.key(0)
        >>> x_T, levels = jax.random.normal(key, [4, 2]), jaxdiff.timesteps.grid(1000, 20)
        >>> x, _ = jaxdiff.sample(key, sampler, data.denoiser(schedule), schedule, levels, x_T)
        >>> bool((x[:, 0] == 1.5).all()), bool((x[:, 1] > 0).all())  # the second number goes with the first
        (True, True)
    """
    if not is_traced(rounds) and rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    known = jnp.broadcast_to(jnp.asarray(known, x0.dtype), x0.shape)
    return Sampler(sampler.init, Partial(_step, sampler.step, x0, known, jnp.asarray(rounds, jnp.int32)))


def _step(step, x0, known, rounds, keys, denoise, schedule, state, t, s, cond):
    if keys is None:
        raise ValueError("inpainting draws noise for what is known: give sample() a random key")
    (alpha_t, sigma_t), (alpha_s, sigma_s), shape = schedule(t), schedule(s), x0.shape[1:]
    r = alpha_t / alpha_s
    jump = jnp.sqrt((sigma_t - r * sigma_s) * (sigma_t + r * sigma_s))

    def once(i, x_t):
        own = fold(keys, 3 * i)
        after, said = step(own, denoise, schedule, State(x_t, state.memory), t, s, cond)
        x_s = jax.vmap(q_sample, (None, 0, None, 0))(schedule, x0, s, normal(fold(keys, 3 * i + 1), shape))
        return after._replace(x=known * x_s + (1 - known) * after.x), said

    def again(i, x_t):
        x_s = once(i, x_t)[0].x
        return r * x_s + jump * normal(fold(keys, 3 * i + 2), shape)

    return once(rounds - 1, lax.fori_loop(0, rounds - 1, again, state.x))
