"""Trained models: data that everything else runs; read from files, runs and names, and written."""

from jaxdiff.model.adapters import with_adapter, write_adapter
from jaxdiff.model.files import read, write
from jaxdiff.model.load import load, load_adapter, load_config, with_adapters
from jaxdiff.model.model import Model, Origin, denoiser_of, text_transformer_of
from jaxdiff.model.runs import adapter_of
from jaxdiff.model.shipped import adapter_names, names

__all__ = [
    "Model",
    "Origin",
    "adapter_names",
    "adapter_of",
    "denoiser_of",
    "load",
    "load_adapter",
    "load_config",
    "names",
    "read",
    "text_transformer_of",
    "with_adapter",
    "with_adapters",
    "write",
    "write_adapter",
]
