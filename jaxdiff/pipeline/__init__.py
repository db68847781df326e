"""Pipeline: complete recipes over models, which the command line, previews, evaluation and notebooks call."""

from jaxdiff.pipeline.conditions import ControlInput, ImagePrompt, condition
from jaxdiff.pipeline.requests import Request
from jaxdiff.pipeline.sampling import batches, decode, encode, generate

__all__ = ["ControlInput", "ImagePrompt", "Request", "batches", "condition", "decode", "encode", "generate"]
