"""Editing of images, real and drawn: functions of denoisers and transforms of samplers, of which no sampler knows."""

from jaxdiff.editing.ddib import bridge
from jaxdiff.editing.inpaint import inpaint
from jaxdiff.editing.inversion import ddim_inversion, invert, reconstruct
from jaxdiff.editing.sdedit import sdedit, strength_grid

__all__ = ["bridge", "ddim_inversion", "inpaint", "invert", "reconstruct", "sdedit", "strength_grid"]
