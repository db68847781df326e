"""Folders of CLIPs as transformers saves them, with both transformers: for guidance, and to evaluate images by."""

from etils import epath

from jaxdiff.config import Config, Data
from jaxdiff.model import files
from jaxdiff.model.interop import mapping, networks, weights
from jaxdiff.model.interop.fields import fields_of, peeked
from jaxdiff.model.model import Model, Origin
from jaxdiff.model.params import param_shapes
from jaxdiff.text import tokenizer


def holds_clip(folder: epath.PathLike) -> bool:
    """Whether a directory is a `CLIPModel` that transformers has saved."""
    return peeked(epath.Path(folder) / "config.json").get("model_type") == "clip"


def read_config(folder: epath.PathLike) -> Config:
    """Config of a CLIP, without its weights."""
    return _config(epath.Path(folder).resolve())[0]


def read(folder: epath.PathLike, dtype: str = "float32", placement=None) -> Model:
    """Reads a CLIP, tensor by tensor, onto the devices.

    Args:
      folder: directory with a config.json, weights, and the files of the tokenizer.
      dtype: dtype of the weights on the devices.
      placement: device, sharding or mesh of the weights, see `sharding.placed`; by default a copy on each local device.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a field or a tensor that is not supported or does not fit; it is named.
    """
    folder = epath.Path(folder).resolve()
    config, words = _config(folder)
    with weights.opened(weights.find(folder), earlier={}) as tensors:
        params = weights.read(mapping.entries(param_shapes(config)), tensors, str(folder), dtype, placement)
    origin = Origin(folder.name, weights="published")
    return Model(config=files.in_dtype(config, dtype), params=params, tokenizer=words, origin=origin)


def _config(folder):
    path = folder / "config.json"
    fields = fields_of(path)
    text = fields.get("text_config") or {}
    words = tokenizer.load(folder, text.get("max_position_embeddings", 77))
    net = networks.clip(fields, words.end_id, str(path))
    size = net.vision.size
    return Config(name=folder.name, data=Data(image_shape=(size, size, 3)), net=net), words
