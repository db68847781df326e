"""A frozen diffusion model under classifier-free guidance, from which another one learns."""

from typing import Any

from jaxdiff import guidance
from jaxdiff.arguments import check_number
from jaxdiff.denoise import denoiser
from jaxdiff.objectives.noising import null_conds
from jaxdiff.schedules import Schedule
from jaxdiff.types import Apply, Denoiser, Guided


def check_scale(scale: float, null_cond: Any, teacher: Apply | None) -> None:
    """Checks that a scale of guidance has what it needs.

    Raises:
      ValueError: it is not finite; it is not 1 and there is no teacher or no null condition.
    """
    check_number("scale", scale)
    if scale != 1 and (teacher is None or null_cond is None):
        raise ValueError(
            f"`scale`={scale} is the guidance of a `teacher` with a `null_cond`: give both, or leave it at 1"
        )


def guided(teacher: Apply, params, schedule: Schedule, predict: str, null_cond: Any, scale: float) -> Denoiser:
    """The teacher as a denoiser of batches with their conditions; no guidance with a scale of 1."""
    model = denoiser(teacher, params, schedule, predict)
    if scale == 1:
        return model
    toward = guidance.cfg(model, scale)
    return lambda x, t, cond: toward(x, t, Guided(cond, null_conds(null_cond, cond, len(x))))
