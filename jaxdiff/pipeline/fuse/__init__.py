"""Fusion of several adapters into one, by a method that is chosen by name."""

from jaxdiff.pipeline.fuse.base import FUSIONS, Average, FusionMethod
from jaxdiff.pipeline.fuse.gradient import Gradient
from jaxdiff.pipeline.fuse.matching import matched
from jaxdiff.pipeline.fuse.run import check, fused, work

__all__ = ["FUSIONS", "Average", "FusionMethod", "Gradient", "check", "fused", "matched", "work"]
