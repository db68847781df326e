"""Models and adapters that ship with the package."""

import json
import struct
from pathlib import Path
from typing import NamedTuple

WEIGHTS = Path(__file__).parents[1] / "weights"
ADAPTERS = WEIGHTS / "adapters"


class Shipped(NamedTuple):
    """One file that ships.

    Attributes:
      name: by which it is loaded.
      megabytes: size of the file.
      description: one line.
    """

    name: str
    megabytes: float
    description: str


def names() -> list[str]:
    """Returns the names of the models that ship with the package.

    Example::

        >>> from jaxdiff import model
        >>> "digits" in model.names()
        True
    """
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def adapter_names() -> list[str]:
    """Returns the names of the adapters that ship with the package, all of `captioned`.

    Example::

        >>> from jaxdiff import model
        >>> "star" in model.adapter_names()
        True
    """
    return sorted(path.stem for path in ADAPTERS.glob("*.safetensors"))


def listing() -> list[Shipped]:
    """Returns all models and adapters that ship; reads nothing but the headers of their files."""
    models = [_shipped(WEIGHTS / f"{name}.safetensors", _of_model) for name in names()]
    return models + [_shipped(ADAPTERS / f"{name}.safetensors", _of_adapter) for name in adapter_names()]


def _shipped(path, describe):
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return Shipped(path.stem, path.stat().st_size / 1e6, describe(header))


def _of_model(header):
    config, about = (json.loads(header["__metadata__"][name]) for name in ("config", "about"))
    return f"{_role(config)} of {about['trained_on']}, made by jaxdiff train {config['name']}, {about['step']} steps"


def _role(config):
    """Description of a model, by its config's JSON of any version."""
    net = config["net"]
    if net.get("kind") == "classifier" or config.get("diffusion", {}).get("objective") == "classification":
        return "classifier"
    if "vision" in net:
        return "CLIP"
    if "latent_channels" in net:
        return "autoencoder"
    return "text-to-image model" if net.get("context_dim") else "generator"


def _of_adapter(header):
    about = json.loads(header["__metadata__"]["adapter"])
    what = f"ControlNet of {about['condition']}" if "condition" in about else about.get("method", "adapter")
    what = {"lora": "LoRA"}.get(what, what.replace("_", " "))
    tokens = [name.removeprefix("word:") for name in header if name.startswith("word:")]
    what += f" of {' and '.join(tokens)}" if tokens else ""
    return f"{what} for {about['base']}, made by jaxdiff train {about['name']}"
