"""Configs: their fields, which of them go together, and the files that hold them."""

from jaxdiff.config.checks import check, indivisible
from jaxdiff.config.fields import Adapt, Config, Data, Diffusion, Latent, Optim, Reconstruction, Sample, Train
from jaxdiff.config.files import config_dir, from_json, load, names, read_run, to_json

__all__ = [
    "Adapt",
    "Config",
    "Data",
    "Diffusion",
    "Latent",
    "Optim",
    "Reconstruction",
    "Sample",
    "Train",
    "check",
    "config_dir",
    "from_json",
    "indivisible",
    "load",
    "names",
    "read_run",
    "to_json",
]
