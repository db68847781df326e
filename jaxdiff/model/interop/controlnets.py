"""ControlNets as others publish them: folders of diffusers, and single files with the names of their authors."""

from etils import epath

from jaxdiff.adapt import control
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.model import files
from jaxdiff.model.interop import mapping, networks, single_file, weights
from jaxdiff.model.interop.fields import fields_of, peeked
from jaxdiff.model.interop.ldm_names import Place, unet_place
from jaxdiff.model.interop.networks import WITHOUT
from jaxdiff.model.model import Model
from jaxdiff.nets.controlnet import ControlConfig
from jaxdiff.nets.unet_config import UNetConfig

PREFIXES = "control_model.", ""
HINT = "input_hint_block"  # in single files


def is_published(path: epath.PathLike) -> bool:
    """Whether a path is a ControlNet that others have made."""
    path = epath.Path(path)
    if path.suffix == ".safetensors" and path.exists():
        with files.opened(path) as file:
            return any(key.startswith(tuple(f"{prefix}{HINT}." for prefix in PREFIXES)) for key in file.keys())
    return peeked(path / "config.json").get("_class_name") == "ControlNetModel"


def read(path: epath.PathLike, model: Model) -> Adapter:
    """Reads a published ControlNet of a model.

    Args:
      path: directory with a config.json and weights, or single .safetensors file.
      model: base model.

    Returns:
      `Adapter` with the parameters of the ControlNet.

    Raises:
      FileNotFoundError: there are no weights.
      ValueError: a field or a tensor that is not supported, or not that of the base; it is named.
    """
    path, net, channels = epath.Path(path), model.config.net, model.config.shape[-1]
    if not isinstance(net, UNetConfig):
        raise ValueError(f"{path}: a ControlNet is of a U-Net, and {model.config.name} is none")
    if path.suffix == ".safetensors":
        config, params = _of_file(path, net, channels)
    else:
        place = path / "config.json"
        config = networks.controlnet(fields_of(place), net, str(place))
        with weights.opened(weights.find(path)) as tensors:
            params = weights.read(mapping.entries(control.shapes(config, channels)), tensors, str(path))
    metadata = {"name": path.stem, "base": model.config.name, "condition": path.stem}
    return Adapter(metadata | {"embedding": list(config.embedding), "without": [*WITHOUT]}, control=params)


def _of_file(path, net, channels):
    """Specification and parameters of a ControlNet in a single file, whose U-Net has the shape of the base's."""
    with weights.opened([path], single_file.IGNORED) as tensors:
        prefix = next(
            prefix for prefix in PREFIXES if any(key.startswith(f"{prefix}{HINT}.") for key in tensors.shapes)
        )
        shapes = single_file.below(tensors.shapes, prefix)
        convs = single_file.numbers(shapes, rf"{HINT}\.(\d+)\.")
        embedding = tuple(shapes[f"{HINT}.{number}.weight"][0] for number in convs[:-1:2])
        config = ControlConfig(networks.without_additions(net), embedding=embedding)
        entries = mapping.entries(control.shapes(config, channels))
        view = single_file.view(tensors, entries, prefix, lambda name: _place(name, config))
        if more := tensors.shapes.keys() - view.keys:
            raise ValueError(f"{path}: {min(more)} is no tensor of a ControlNet of this base")
        return config, weights.read(entries, view.tensors, str(path))


def _place(name: str, config: ControlConfig) -> Place:
    """Place of a ControlNet's tensor in a single file."""
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    if parts[0] == "controlnet_cond_embedding":
        last = 2 * len(config.embedding) - 1
        number = {"conv_in": 0, "conv_out": last}.get(parts[1]) if len(parts) == 2 else 1 + int(parts[2])
        return Place(f"{HINT}.{2 * number}.{kind}")
    if parts[0] == "controlnet_down_blocks":
        return Place(f"zero_convs.{parts[1]}.0.{kind}")
    return Place(f"middle_block_out.0.{kind}") if parts[0] == "controlnet_mid_block" else unet_place(name, config.unet)
