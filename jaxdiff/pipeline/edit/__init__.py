"""Editing of images by prompts or labels: a file for each group of methods, whose options are declared there."""

from jaxdiff.pipeline.edit.base import EDIT_METHODS, Edited, EditMethod, Job
from jaxdiff.pipeline.edit.bridge import Bridge
from jaxdiff.pipeline.edit.inversions import Inversion
from jaxdiff.pipeline.edit.inverted import DirectInversion, NegativePromptInversion, NullText
from jaxdiff.pipeline.edit.paired import PromptToPrompt
from jaxdiff.pipeline.edit.partial import Inpaint, SDEdit
from jaxdiff.pipeline.edit.run import edit, prepare

__all__ = [
    "EDIT_METHODS",
    "Bridge",
    "DirectInversion",
    "EditMethod",
    "Edited",
    "Inpaint",
    "Inversion",
    "Job",
    "NegativePromptInversion",
    "NullText",
    "PromptToPrompt",
    "SDEdit",
    "edit",
    "prepare",
]
