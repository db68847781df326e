"""Translation through the noise, to another prompt or another model (Su et al. 2023, DDIB)."""

import dataclasses
from typing import ClassVar

from jaxdiff import editing, schedules, timesteps
from jaxdiff.model import denoiser_of
from jaxdiff.objectives import to_unit_range
from jaxdiff.pipeline.edit.base import EDIT_METHODS, Edited, EditMethod, Job, check_finite, difference
from jaxdiff.pipeline.sampling import decode, encode, finite


@EDIT_METHODS.register("ddib")
@dataclasses.dataclass(frozen=True)
class Bridge(EditMethod):
    """Dual diffusion implicit bridge (Su et al. 2023): inverted under one condition or model, sampled under another.

    Attributes:
      inversion_rounds: fixed-point rounds in each step of the inversion; more bring the image back more exactly.
    """

    inversion_rounds: int = 3

    takes: ClassVar = ("prompt", "source", "to", "control")
    passes: ClassVar = 4

    def check(self, job: Job) -> None:
        check_finite(self, {"inversion_rounds": 0})
        if job.other is job.model and job.prompt is None:
            raise ValueError("`method`='ddib' needs `to` or `prompt`: else it would lead back to where it began")
        denoiser_of(job.other)  # raises where it is none
        tables = [one.schedule for one in (job.model, job.other)]
        shapes = {(one.shape, one.image_shape) for one in (job.model, job.other)}
        if len(shapes) > 1 or not schedules.equal(*tables):
            names = f"{job.model.config.name} and {job.other.config.name}"
            raise ValueError(f"{names} must have one noise schedule and images of one size to be bridged")

    def run(self, job: Job, tick) -> Edited:
        T = job.schedule.num_levels
        end = max(1, T // 100)  # the last step down to clean data cannot be undone
        levels = timesteps.grid(T, job.num_steps, end=end)
        way = {"inversion_sampler": editing.ddim_inversion(self.inversion_rounds)}
        a, b, here, there = denoiser_of(job.model), denoiser_of(job.other), job.source.cond, job.target.cond
        x0 = encode(job.model, to_unit_range(job.image[None]))
        x = editing.bridge(a, b, job.schedule, levels, x0, here, there, **way)
        (after,) = finite(decode(job.other, x))
        tick(2 * job.num_steps)
        (back,) = finite(decode(job.model, editing.bridge(b, a, job.schedule, levels, x, there, here, **way)))
        tick(2 * job.num_steps)
        return Edited(after, [("input", job.image), ("there and back", back), *difference(job.image, after)])
