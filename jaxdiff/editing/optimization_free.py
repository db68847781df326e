"""Alternatives to null-text inversion without optimisation: negative-prompt inversion and direct inversion."""

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.editing.inversion import check_deterministic, check_leaf, check_trajectory
from jaxdiff.samplers import Sampler
from jaxdiff.samplers.base import check_is_sampler
from jaxdiff.types import Array, Guided, rows


def negative_prompt_inversion(timesteps, guided: Guided, leaf: str = "context") -> Array:
    """Negative-prompt inversion: the source condition in place of the unconditional embedding (Miyake et al. 2023).

    Guidance between two equal predictions is no guidance, whatever the scale, so that the source follows the trajectory of
    its inversion as closely as DDIM does without guidance; the edited image is guided away from the source prompt.

    Args:
      timesteps: levels, int [N + 1].
      guided: its first half is the condition of the source.
      leaf: name of the leaf, as in `null_text`.

    Returns:
      [N, B, ...] of that leaf, as from `null_text`.

    Raises:
      TypeError: `guided` is no `Guided`.
      ValueError: a leaf that the condition does not have.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Guided, editing
        >>> guided = Guided(Cond(context=jnp.ones([2, 4, 3])), Cond(context=jnp.zeros([2, 4, 3])))
        >>> embeddings = editing.negative_prompt_inversion([1000, 500, 0], guided)
        >>> embeddings.shape, bool((embeddings == 1).all())
        ((2, 2, 4, 3), True)
    """
    check_leaf(guided, "cond", leaf)
    source = getattr(guided.cond, leaf)
    return jnp.broadcast_to(source, (len(timesteps) - 1, *source.shape))


def direct_inversion(sampler: Sampler, timesteps, trajectory: Array, is_source: Array) -> Sampler:
    """Direct inversion: keeps the source rows on the trajectory of their inversion (Ju et al. 2024, algorithm 1).

        z_s <- step(z_t) + (z*_s - step(z_t))     in source rows

    Edited rows are sampled as without it; they differ because the attention that they take over does.

    Args:
      sampler: any deterministic one.
      timesteps: levels of the inversion, descending, int [N + 1]; at other levels nothing is corrected.
      trajectory: from `invert` at these levels, one row for each row that is sampled, float32 [N + 1, B, ...].
      is_source: True in source rows, bool [B].

    Returns:
      `Sampler`.

    Raises:
      TypeError: `sampler` is no `Sampler`.
      ValueError: a trajectory or is_source of another number of levels or rows, or a sampler that adds noise.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, editing, process, sample, samplers, schedules
        >>> schedule, levels = schedules.cosine(), [1000, 500, 0]
        >>> def denoise(x_t, t, cond):  # predicts its context
        ...     return process.predict_from("x0", schedule, cond.context + 0 * x_t, x_t, t)
        >>> source, both = (Cond(context=jnp.array(x0)) for x0 in ([[1.5], [1.5]], [[1.5], [2.0]]))
        >>> trajectory = editing.invert(denoise, schedule, levels, jnp.array([[1.0], [1.0]]), source)
        >>> sampler = editing.direct_inversion(samplers.ddim(), levels, trajectory, [True, False])
        >>> x, _ = sample(None, sampler, denoise, schedule, levels, trajectory[0], both)
        >>> x.round(3).tolist()  # the source is unchanged, although 1.5 is predicted for it
        [[1.0], [2.0]]
    """
    check_is_sampler(sampler)
    levels = jnp.asarray(timesteps)
    check_trajectory(levels, trajectory)
    check_deterministic(sampler)
    if np.shape(is_source) != np.shape(trajectory)[1:2]:
        raise ValueError(
            f"`is_source` must be bool [{np.shape(trajectory)[1]}], not of shape {list(np.shape(is_source))}"
        )
    return Sampler(sampler.init, Partial(_step, sampler.step, levels, trajectory, jnp.asarray(is_source)))


def _step(step, levels, trajectory, is_source, keys, denoise, schedule, state, t, s, cond):
    after, prediction = step(keys, denoise, schedule, state, t, s, cond)
    inverted = trajectory[jnp.argmax(levels == s)]
    corrected = rows(is_source, after.x) & (levels == s).any()
    return after._replace(x=jnp.where(corrected, inverted, after.x)), prediction
