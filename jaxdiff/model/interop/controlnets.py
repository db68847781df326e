"""Folders of ControlNets as diffusers saves them."""

from etils import epath

from jaxdiff.adapt import control
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.model.interop import mapping, networks, weights
from jaxdiff.model.interop.fields import fields_of
from jaxdiff.model.interop.networks import WITHOUT
from jaxdiff.model.model import Model
from jaxdiff.nets.unet_config import UNetConfig


def is_published(folder: epath.PathLike) -> bool:
    """Whether a directory is a `ControlNetModel` that diffusers has saved."""
    path = epath.Path(folder) / "config.json"
    return path.exists() and fields_of(path).get("_class_name") == "ControlNetModel"


def read(folder: epath.PathLike, model: Model) -> Adapter:
    """Reads a published ControlNet of a model.

    Args:
      folder: directory with a config.json and weights.
      model: base model.

    Returns:
      `Adapter` with the parameters of the ControlNet.

    Raises:
      FileNotFoundError: there are no weights.
      ValueError: a field or a tensor that is not supported, or not that of the base; it is named.
    """
    if not isinstance(model.config.net, UNetConfig):
        raise ValueError(f"{folder}: a ControlNet is of a U-Net, and {model.config.name} is none")
    folder = epath.Path(folder)
    place = folder / "config.json"
    config = networks.controlnet(fields_of(place), model.config.net, str(place))
    channels = model.config.shape[-1]
    with weights.opened(weights.find(folder)) as tensors:
        params = weights.read(mapping.entries(control.shapes(config, channels)), tensors, str(folder))
    metadata = {"name": folder.name, "base": model.config.name, "condition": folder.name}
    return Adapter(metadata | {"embedding": list(config.embedding), "without": [*WITHOUT]}, control=params)
