"""jaxdiff: diffusion models in JAX, as pure functions."""

import importlib

from jaxdiff import editing, guidance, nets, objectives, process, samplers, schedules, timesteps, types
from jaxdiff.denoise import denoiser, network
from jaxdiff.nets.unet import UNet, UNetConfig
from jaxdiff.samplers import ddim, ddpm, sample
from jaxdiff.types import Cond, Guided, Prediction, call

__version__ = "0.1.0"

__all__ = [
    "Cond",
    "Guided",
    "Prediction",
    "UNet",
    "UNetConfig",
    "call",
    "ddim",
    "ddpm",
    "denoiser",
    "editing",
    "guidance",
    "nets",
    "network",
    "objectives",
    "pretrained",
    "process",
    "sample",
    "samplers",
    "schedules",
    "timesteps",
    "types",
]


def __getattr__(name):
    """Imports `jaxdiff.pretrained` when it is first asked for: what it reads runs with takes seconds to import."""
    if name == "pretrained":
        return importlib.import_module("jaxdiff.pretrained")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
