"""jaxdiff: diffusion models in JAX, as pure functions."""

from jaxdiff import guidance, nets, objectives, process, samplers, schedules, timesteps, types
from jaxdiff.denoise import denoiser, network
from jaxdiff.nets.unet import UNet, UNetConfig
from jaxdiff.samplers import ddim, ddpm, sample
from jaxdiff.types import Cond, Guided, Prediction

__version__ = "0.1.0"

__all__ = [
    "Cond",
    "Guided",
    "Prediction",
    "UNet",
    "UNetConfig",
    "ddim",
    "ddpm",
    "denoiser",
    "guidance",
    "nets",
    "network",
    "objectives",
    "process",
    "sample",
    "samplers",
    "schedules",
    "timesteps",
    "types",
]
