"""Real images edited by their words: the path of an inversion is gone back down by source and edited image side by side."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.editing.prompt_to_prompt import AttentionEdit, no_edit
from jaxdiff.guidance import cfg
from jaxdiff.guidance.weights import Weight
from jaxdiff.samplers import Sampler, ddim, sample
from jaxdiff.schedules import Schedule
from jaxdiff.types import Array, Cond, Denoiser, Guided


def sample_pairs(
    denoise: Denoiser,
    schedule: Schedule,
    timesteps,
    x_T: Array,
    guided: Guided,
    target: Cond,
    scale: Weight,
    uncond_embeddings: Array | None = None,
    edit: AttentionEdit | None = None,
    sampler: Sampler | None = None,
    leaf: str = "context",
    collect: Callable | None = None,
):
    """Images as they were and as they are edited, from the same noise.

    Args:
      denoise: the plain denoiser, without guidance.
      schedule: noise schedule.
      timesteps: levels, falling, int [N + 1].
      x_T: from `invert`, its first row, float32 [B, ...]; or drawn, for images that are.
      guided: what the images show, and the null.
      target: what they shall show, of the same structure and shapes as `guided.cond`.
      scale: of the guidance, as in `guidance.cfg`, for 2 B rows. Traced.
      uncond_embeddings: per step, from `null_text` or `negative_prompt_inversion`, [N, B, ...]; None is the null of
        `guided` at every step.
      edit: of 2 B rows, from `pairs`, its `share` also one for each step; None leaves attention as it is.
      sampler: `ddim()` by default; such as `direct_inversion` or `local_blend` of it, for 2 B rows.
      leaf: the leaf that the nulls are of, as in `null_text`.
      collect: as for `sample`, such as `collect_maps()`, which needs an edit.

    Returns:
      float32 [2 B, ...], first all sources, then all edited; and what was collected, as `sample` does.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, Guided, editing, process, schedules
        >>> schedule, levels = schedules.cosine(), [1000, 500, 0]
        >>> def denoise(x_t, t, cond):  # predicts the mean of its context
        ...     return process.predict_from("x0", schedule, cond.context.mean(1), x_t, t)
        >>> says = lambda number: Cond(context=jnp.full([1, 4, 3], number))
        >>> both, _ = editing.sample_pairs(
        ...     denoise, schedule, levels, jnp.zeros([1, 3]), Guided(says(1.0), says(0.0)), says(2.0), scale=1.5
        ... )
        >>> [[round(float(x), 3) for x in row] for row in both]
        [[1.5, 1.5, 1.5], [3.0, 3.0, 3.0]]
    """
    both = lambda a, b: jnp.concatenate([jnp.asarray(a), jnp.asarray(b)])
    cond, uncond = jax.tree.map(both, guided.cond, target), jax.tree.map(both, guided.uncond, guided.uncond)
    axes = Guided(None, None)  # of what has one row per step
    if edit is not None:  # the half without a prompt has none to edit
        cond = cond._replace(attention_edit=edit)
        uncond = uncond._replace(attention_edit=no_edit(2 * x_T.shape[0], edit.source_share.shape[-1], edit.max_pixels))
        if edit.source_share.ndim == 3:
            never = AttentionEdit(*[None] * len(AttentionEdit._fields))
            axes = axes._replace(cond=Cond(attention_edit=never._replace(source_share=0)))
    if uncond_embeddings is not None:
        uncond = uncond._replace(**{leaf: jnp.concatenate([uncond_embeddings, uncond_embeddings], axis=1)})
        axes = axes._replace(uncond=Cond(**{leaf: 0}))
    denoise = cfg(denoise, scale)
    x_T, cond = both(x_T, x_T), Guided(cond, uncond)
    return sample(None, sampler or ddim(), denoise, schedule, timesteps, x_T, cond, collect=collect, cond_axes=axes)
