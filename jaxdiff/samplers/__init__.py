"""Samplers: how to get from noise to data, given a denoiser."""

from jaxdiff.samplers.base import Sampler, State, keys_for, noise, normal, parts, sample
from jaxdiff.samplers.ddim import ddim
from jaxdiff.samplers.ddpm import ddpm

__all__ = ["Sampler", "State", "ddim", "ddpm", "keys_for", "noise", "normal", "parts", "sample"]
