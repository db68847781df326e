"""Objectives: what a network is trained to do; one loss per example."""

from jaxdiff.objectives.denoising import WEIGHTINGS, denoising, min_snr, simple, to_unit_range

__all__ = ["WEIGHTINGS", "denoising", "min_snr", "simple", "to_unit_range"]
