"""jaxdiff: diffusion models in JAX, as pure functions.

Everything listed here is imported when it is first used, so that `import jaxdiff` is instant.
"""

import importlib

__version__ = "0.2.0"

_MODULES = (
    "adapt", "config", "data", "denoise", "editing", "eval", "guidance", "latent", "model", "nets", "objectives", "pipeline",
    "process", "samplers", "schedules", "testing", "text", "timesteps", "train", "types",
)  # fmt: skip
_NAMES = {
    # a model and everything that is done with it
    "load": "model",
    "with_adapters": "model",
    "export": "model.export",
    "generate": "pipeline",
    "edit": "pipeline.edit",
    "condition": "pipeline",
    "encode": "pipeline",
    "decode": "pipeline",
    "evaluate": "eval.evaluate",
    "fit": "train.loop",
    "Model": "model",
    "denoiser_of": "model",
    "call": "types",
    # the functional core
    "Cond": "types",
    "Guided": "types",
    "Prediction": "types",
    "UNet": "nets.unet",
    "UNetConfig": "nets.unet_config",
    "ddim": "samplers",
    "ddpm": "samplers",
    "denoiser": "denoise",
    "network": "denoise",
    "sample": "samplers",
}
__all__ = [*_NAMES, *_MODULES]


def __getattr__(name):
    if name in _NAMES:
        value = getattr(importlib.import_module(f"jaxdiff.{_NAMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"jaxdiff.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
