"""Prompt-to-prompt: a source image and its edit, sampled side by side from the same noise (Hertz et al. 2023)."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxdiff import editing
from jaxdiff.model import denoiser_of
from jaxdiff.pipeline.edit.attention import AttentionOptions, attention_edit, blend_of
from jaxdiff.pipeline.edit.base import EDIT_METHODS, Edited, Job, difference, where_words_look
from jaxdiff.pipeline.sampling import decode, finite
from jaxdiff.seeds import key_of


def sample_pair(job: Job, tick, x_T, levels, sampler, embeddings=None):
    """Samples the source and the edited image.

    Args:
      job: the edit.
      tick: called with the number of steps when they are done.
      x_T: noise, or the first row of a trajectory, [1, ...].
      levels: falling, [N + 1].
      sampler: for both rows.
      embeddings: unconditional embeddings of each step; None are those of the condition.

    Returns:
      Both images uint8 [H, W, C], and panels of where the words of the prompt look.
    """
    model, edit = job.model, None
    if model.text_encoder is not None:
        edit = attention_edit(job)
        if (blend := blend_of(job)) is not None:
            sampler = editing.local_blend(sampler, blend.token_mask, np.array([0, -1]), size=blend.side)
    both, maps = editing.sample_pairs(
        denoiser_of(model),
        job.schedule,
        levels,
        x_T,
        job.source,
        job.target.cond,
        job.scale(),
        uncond_embeddings=embeddings,
        edit=edit,
        sampler=sampler,
        leaf=job.leaf,
        collect=None if edit is None else editing.collect_maps(),
        key=key_of(job.seed),
    )
    before, after = finite(decode(model, both))
    tick(job.num_steps)
    if edit is None:
        return before, after, []
    return before, after, where_words_look(after, maps[:, 1], model.text_encoder.tokenizer, job.prompt)


@EDIT_METHODS.register("p2p")
@dataclasses.dataclass(frozen=True)
class PromptToPrompt(AttentionOptions):
    """Prompt-to-prompt (Hertz et al. 2023): the source is sampled, and edited through its attention."""

    needs: ClassVar = ("source", "prompt")
    takes: ClassVar = ("guidance", "early", "control", "seed", "sampler")
    early_guidance: ClassVar = 20.0

    def check(self, job: Job) -> None:
        if job.model.text_encoder is None:
            raise ValueError(
                f"prompt-to-prompt needs a model with a text encoder, and {job.model.config.name} has none"
            )
        super().check(job)

    def run(self, job: Job, tick) -> Edited:
        levels = job.model.levels(job.num_steps)
        x_T = job.model.noise(key_of(job.seed), 1, levels[0])
        before, after, words = sample_pair(job, tick, x_T, levels, job.sampler())
        return Edited(after, [("drawn", before), *difference(before, after), *words])
