"""What users ask for in place of null-text inversion, because nothing is optimised."""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.editing.inversion import check_path
from jaxdiff.samplers import Sampler
from jaxdiff.types import Array, Guided, rows


def negative_prompt_inversion(timesteps, guided: Guided, leaf: str = "context") -> Array:
    """Negative-prompt inversion: what the image shows is what is led away from (Miyake et al. 2023).

    Guidance with null = cond is no guidance, whatever the scale, so that the path of an inversion is gone back down as far
    as DDIM does without guidance; an edited prompt is then led away from the old one.

    Args:
      timesteps: levels, int [N + 1].
      guided: what the image shows in its first half.
      leaf: the leaf, as in `null_text`.

    Returns:
      [N, B, ...] of that leaf, as `null_text` does.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Guided, editing
        >>> guided = Guided(Cond(context=jnp.ones([2, 4, 3])), Cond(context=jnp.zeros([2, 4, 3])))
        >>> nulls = editing.negative_prompt_inversion([1000, 500, 0], guided)
        >>> nulls.shape, bool((nulls == 1).all())
        ((2, 2, 4, 3), True)
    """
    condition = getattr(guided.cond, leaf)
    return jnp.broadcast_to(condition, (len(timesteps) - 1, *condition.shape))


def direct_inversion(sampler: Sampler, timesteps, trajectory: Array, is_source: Array) -> Sampler:
    """Direct inversion: the rows of the source are put back on the path of the inversion (Ju et al. 2024, algorithm 1).

        z_s <- step(z_t) + (z*_s - step(z_t))  in the rows of the source, which edited rows look at

    Args:
      sampler: any.
      timesteps: levels of the inversion, falling, int [N + 1]; a grid that visits others is not corrected there.
      trajectory: from `invert` on them, one row per row that is sampled, float32 [N + 1, B, ...].
      is_source: which rows are of the source, bool [B].

    Returns:
      `Sampler`.

    Raises:
      ValueError: a trajectory of another number of levels.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, editing, process, sample, samplers, schedules
        >>> schedule, levels, says = schedules.cosine(), [1000, 500, 0], lambda *x0: Cond(context=jnp.array([*x0])[:, None])
        >>> def denoise(x_t, t, cond):  # predicts its context
        ...     return process.predict_from("x0", schedule, cond.context + 0 * x_t, x_t, t)
        >>> path = editing.invert(denoise, schedule, levels, jnp.array([[1.0], [1.0]]), says(1.5, 1.5))
        >>> sampler = editing.direct_inversion(samplers.ddim(), levels, path, [True, False])
        >>> x, _ = sample(None, sampler, denoise, schedule, levels, path[0], says(1.5, 2.0))
        >>> x.round(3).tolist()  # the source is what it was, although 1.5 is said of it
        [[1.0], [2.0]]
    """
    levels = jnp.asarray(timesteps)
    check_path(levels, trajectory)
    return Sampler(sampler.init, Partial(_step, sampler.step, levels, trajectory, jnp.asarray(is_source)))


def _step(step, levels, trajectory, is_source, keys, denoise, schedule, state, t, s, cond):
    after, said = step(keys, denoise, schedule, state, t, s, cond)
    kept = trajectory[jnp.argmax(levels == s)]
    put_back = rows(is_source, after.x) & (levels == s).any()
    return after._replace(x=jnp.where(put_back, kept, after.x)), said
