"""jaxdiff: diffusion models in JAX, as pure functions.

Everything listed here is imported when it is first used, so that `import jaxdiff` is instant.
"""

from jaxdiff import lazy

__version__ = "0.2.0"

_MODULES = (
    "adapt", "config", "data", "denoise", "editing", "eval", "guidance", "latent", "model", "nets", "objectives",
    "pipeline", "preconditioning", "process", "samplers", "schedules", "testing", "text", "timesteps", "train", "types",
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
    "mesh": "meshes",
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
__getattr__, __dir__, __all__ = lazy.attach(__name__, _NAMES, _MODULES)
