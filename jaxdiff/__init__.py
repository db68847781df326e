"""jaxdiff: diffusion models in JAX, as pure functions."""

from jaxdiff import denoise as _denoise
from jaxdiff import nets, objectives, process, samplers, schedules, timesteps, types
from jaxdiff.nets.unet import UNet, UNetConfig
from jaxdiff.samplers import ddim, ddpm, sample
from jaxdiff.types import Cond, Guided, Prediction

denoiser, network = _denoise.denoiser, _denoise.network

__version__ = "0.1.0"
