"""Configs: their fields, the checks of which of them go together, and the files that hold them."""

from jaxdiff.config.adaptation import (
    ADAPTATIONS,
    ControlNet,
    DreamBooth,
    FewSteps,
    LoRA,
    NewTokens,
    Prior,
    TextualInversion,
)
from jaxdiff.config.checks import check
from jaxdiff.config.fields import Compat, Config, Data, Diffusion, Latent, Optim, Reconstruction, Sample, Train
from jaxdiff.config.files import config_dir, from_json, load, names, read_run, to_json, to_values

__all__ = [
    "ADAPTATIONS",
    "Compat",
    "Config",
    "ControlNet",
    "Data",
    "Diffusion",
    "DreamBooth",
    "FewSteps",
    "Latent",
    "LoRA",
    "NewTokens",
    "Optim",
    "Prior",
    "Reconstruction",
    "Sample",
    "TextualInversion",
    "Train",
    "check",
    "config_dir",
    "from_json",
    "load",
    "names",
    "read_run",
    "to_json",
    "to_values",
]
