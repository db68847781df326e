"""Edits that draw a part of the image anew: its detail (SDEdit, Meng et al. 2022), or a region (inpainting)."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxdiff import editing, guidance
from jaxdiff.model import denoiser_of
from jaxdiff.objectives import to_unit_range
from jaxdiff.pipeline.conditions import masked_picture
from jaxdiff.pipeline.edit.base import (
    EDIT_METHODS,
    Edited,
    EditMethod,
    Job,
    check_finite,
    difference,
    known_latents,
)
from jaxdiff.pipeline.sampling import decode, encode, finite
from jaxdiff.seeds import key_of
from jaxdiff.types import Guided


def _resample(job: Job, levels, rounds, tick, first=1.0) -> Edited:
    """Noises the image to the first level and samples from there, but for known pixels."""
    model, image, known = job.model, job.image, job.known
    denoise = guidance.on_cond(denoiser_of(model))
    if job.prompt is not None and not model.config.net.guidance_dim:
        denoise = guidance.cfg(denoiser_of(model), job.scale(first))
    if model.config.sample.clip:
        denoise = guidance.clip_x0(denoise, job.schedule)
    sampler, x0, target = job.sampler(), encode(model, to_unit_range(image[None])), job.target
    if model.config.net.image_channels:
        picture = masked_picture(model, image, known)
        target = Guided(*(cond._replace(image=picture) for cond in target))
    if known is not None and rounds:
        sampler = editing.inpaint(sampler, x0, known_latents(known, model.shape), rounds)
    x = editing.sdedit(key_of(job.seed), sampler, denoise, job.schedule, levels, x0, target)
    (after,) = finite(decode(model, x)) if len(levels) > 1 else [image]  # an image that is not noised stays as it is
    tick(job.num_steps)
    if known is None:
        return Edited(after, [("input", image), *difference(image, after)])
    after = np.where(known, image, after)
    return Edited(after, [("input", image), ("kept", np.where(known, image, np.uint8(128))), *difference(image, after)])


@EDIT_METHODS.register("sdedit")
@dataclasses.dataclass(frozen=True)
class SDEdit(EditMethod):
    """SDEdit (Meng et al. 2022): the image is noised and sampled from there.

    Attributes:
      strength: share of the way up that it is noised, in [0, 1]: 0 keeps the image, 1 draws a new one.
    """

    strength: float = 0.6

    takes: ClassVar = ("prompt", "guidance", "early", "mask", "control", "seed", "sampler")

    def check(self, job: Job) -> None:
        editing.strength_grid(job.schedule.num_levels, job.num_steps, self.strength)  # raises where there is none

    def run(self, job: Job, tick) -> Edited:
        levels = editing.strength_grid(job.schedule.num_levels, job.num_steps, self.strength)
        return _resample(job, levels, 1, tick, self.strength)  # more rounds would draw over the noised image


@EDIT_METHODS.register("inpaint")
@dataclasses.dataclass(frozen=True)
class Inpaint(EditMethod):
    """Inpainting: the masked region is drawn anew, with RePaint's resampling (Lugmayr et al. 2022).

    Attributes:
      rounds: times that each step is taken, with the rest put back after each; with more the new region fits the rest
        better. 0 puts nothing back. None is 5, and 0 of a network that was trained to inpaint, which sees the rest.
    """

    rounds: int | None = None

    needs: ClassVar = ("image", "mask")
    takes: ClassVar = ("prompt", "guidance", "early", "control", "seed", "sampler")

    def check(self, job: Job) -> None:
        if self.rounds is not None:
            check_finite(self, {"rounds": 0 if job.model.config.net.image_channels else 1})

    def run(self, job: Job, tick) -> Edited:
        rounds = 0 if job.model.config.net.image_channels else 5
        return _resample(job, job.model.levels(job.num_steps), rounds if self.rounds is None else self.rounds, tick)
