"""Objectives: what a network is trained to do; one loss per example."""

from jaxdiff.objectives.denoising import denoising, simple, to_unit_range

__all__ = ["denoising", "simple", "to_unit_range"]
