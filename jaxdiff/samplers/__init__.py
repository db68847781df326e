"""Samplers from noise to data, given a denoiser."""

from jaxdiff.samplers.base import SAMPLERS, Sampler, State, chunks, each_key, fold, keys_for, noise, normal, sample
from jaxdiff.samplers.cfgpp import ddim_cfgpp
from jaxdiff.samplers.ddim import ddim
from jaxdiff.samplers.ddpm import ddpm
from jaxdiff.samplers.dpmpp import dpmpp_2m
from jaxdiff.samplers.euler_ancestral import euler_ancestral
from jaxdiff.samplers.heun import heun
from jaxdiff.samplers.lcm import lcm
from jaxdiff.samplers.ode import probability_flow, probability_flow_fixed
from jaxdiff.samplers.pndm import pndm
from jaxdiff.samplers.sde import euler_maruyama, predictor_corrector, reverse_diffusion
from jaxdiff.samplers.unipc import unipc

__all__ = [
    "SAMPLERS",
    "Sampler",
    "State",
    "chunks",
    "ddim",
    "ddim_cfgpp",
    "ddpm",
    "dpmpp_2m",
    "each_key",
    "euler_ancestral",
    "euler_maruyama",
    "fold",
    "heun",
    "keys_for",
    "lcm",
    "noise",
    "normal",
    "pndm",
    "predictor_corrector",
    "probability_flow",
    "probability_flow_fixed",
    "reverse_diffusion",
    "sample",
    "unipc",
]
