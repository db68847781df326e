"""Source and edited images sampled side by side: prompt-to-prompt, and edits of real images from their inversion."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.editing.inversion import check_deterministic
from jaxdiff.editing.prompt_to_prompt import AttentionEdit, no_edit
from jaxdiff.guidance import cfg
from jaxdiff.guidance.weights import Weight
from jaxdiff.samplers import Sampler, ddim, each_key, sample
from jaxdiff.samplers.base import check_x
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
    key: Array | None = None,
):
    """Samples source images and their edited versions from the same noise.

    Args:
      denoise: the denoiser without guidance.
      schedule: noise schedule.
      timesteps: levels, descending, int [N + 1].
      x_T: noise of the sources, float32 [B, ...]; of real images the first row of `invert`.
      guided: conditions of the sources, such as the source prompt and the unconditional embedding; also control inputs.
      target: conditions of the edited images, with the structure and shapes of `guided.cond`.
      scale: of classifier-free guidance, as in `guidance.cfg`, for 2 B rows. Traced.
      uncond_embeddings: of each step, from `null_text` or `negative_prompt_inversion`, [N, B, ...]; None takes that of
        `guided` at every step.
      edit: of 2 B rows, from `pairs`; its `source_share` may also have one row per step. None leaves attention as it is.
      sampler: any, for 2 B rows, such as `local_blend` or `direct_inversion` around another; None is `ddim()`. With
        `uncond_embeddings`, which belong to a trajectory, a deterministic one.
      leaf: name of the leaf that `uncond_embeddings` replace, as in `null_text`.
      collect: as for `sample`, such as `collect_maps()`, which needs an edit.
      key: random key of a sampler that adds noise, or one per pair [B]; the images of a pair get the same noise.

    Returns:
      float32 [2 B, ...], first all sources, then all edited images; and what `collect` returned, as from `sample`.

    Raises:
      TypeError: `guided` is no `Guided`; otherwise as `sample`.
      ValueError: conditions of different structures; a sampler that adds noise with `uncond_embeddings`, or without a key.

    Example::

        >>> import jax.numpy as jnp, numpy as np
        >>> from jaxdiff import Cond, Guided, editing, process, schedules
        >>> schedule, levels = schedules.cosine(), [1000, 500, 0]
        >>> def denoise(x_t, t, cond):  # predicts the mean of its context
        ...     return process.predict_from("x0", schedule, cond.context.mean(1), x_t, t)
        >>> constant = lambda number: Cond(context=jnp.full([1, 4, 3], number))
        >>> guided = Guided(constant(1.0), constant(0.0))
        >>> x, _ = editing.sample_pairs(denoise, schedule, levels, jnp.zeros([1, 3]), guided, constant(2.0), scale=1.5)
        >>> np.asarray(x).round(3).tolist()
        [[1.5, 1.5, 1.5], [3.0, 3.0, 3.0]]
    """
    check_x("x_T", x_T)
    if not isinstance(guided, Guided):
        raise TypeError(f"`guided` must be a Guided(cond, uncond), not {type(guided).__name__}")
    if jax.tree.structure(guided.cond) != jax.tree.structure(target):
        raise ValueError("`target` must have the same conditions as `guided.cond`: give both or neither of them a leaf")
    if uncond_embeddings is not None and sampler is not None:
        check_deterministic(sampler)
    both = lambda a, b: jnp.concatenate([jnp.asarray(a), jnp.asarray(b)])
    cond, uncond = jax.tree.map(both, guided.cond, target), jax.tree.map(both, guided.uncond, guided.uncond)
    axes = Guided(None, None)  # 0 at leaves with one row per step
    if edit is not None:  # of the conditional half alone: the other one has no prompt
        cond = cond._replace(attention_edit=edit)
        uncond = uncond._replace(attention_edit=no_edit(2 * x_T.shape[0], edit.source_share.shape[-1], edit.max_pixels))
        if edit.source_share.ndim == 3:
            constant = AttentionEdit(*[None] * len(AttentionEdit._fields))
            axes = axes._replace(cond=Cond(attention_edit=constant._replace(source_share=0)))
    if uncond_embeddings is not None:
        uncond = uncond._replace(**{leaf: jnp.concatenate([uncond_embeddings, uncond_embeddings], axis=1)})
        axes = axes._replace(uncond=Cond(**{leaf: 0}))
    if key is not None:
        keys = each_key(key, x_T.shape[0])
        key = jnp.concatenate([keys, keys])
    guide, x_T, cond = cfg(denoise, scale), both(x_T, x_T), Guided(cond, uncond)
    return sample(key, sampler or ddim(), guide, schedule, timesteps, x_T, cond, collect=collect, cond_axes=axes)
