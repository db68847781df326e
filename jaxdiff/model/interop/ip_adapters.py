"""IP-Adapters: image prompts beside texts (Ye et al. 2023), in the layout of their authors."""

import dataclasses
import re

import jax
import jax.numpy as jnp
from etils import epath
from flax import traverse_util

from jaxdiff import sharding
from jaxdiff.config import Config, Data
from jaxdiff.model import files
from jaxdiff.model.interop import mapping, networks, weights
from jaxdiff.model.interop.fields import fields_of
from jaxdiff.model.model import Model, Origin
from jaxdiff.model.params import dtype_of, param_shapes
from jaxdiff.nets.unet_config import UNetConfig
from jaxdiff.paths import as_path

PROJECTION = {
    "image_proj.proj.weight": "image_proj/proj/kernel",
    "image_proj.proj.bias": "image_proj/proj/bias",
    "image_proj.norm.weight": "image_proj/norm/scale",
    "image_proj.norm.bias": "image_proj/norm/bias",
}


def with_ip_adapter(model: Model, path: epath.PathLike, image_encoder: epath.PathLike) -> Model:
    """A model that is also conditioned on pictures.

    Args:
      model: text-to-image model.
      path: .safetensors file with "image_proj" and "ip_adapter", such as ip-adapter_sd15.safetensors.
      image_encoder: folder of the `CLIPVisionModelWithProjection` that reads the pictures.

    Returns:
      `Model`, whose network has keys and values of the pictures in each cross-attention, and which has the submodel
      "image_encoder".

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: another kind of file, such as one with a resampler ("plus"), or one of another network.
    """
    path, net = epath.Path(path), model.config.net
    if not isinstance(net, UNetConfig) or not net.context_dim:
        raise ValueError(f"{path}: an IP-Adapter is of a U-Net with texts, and {model.config.name} is none")
    with files.opened(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    if not set(PROJECTION) <= set(tensors):
        raise ValueError(f"{path} is no IP-Adapter with a linear projection: image_proj.proj.weight is missing")
    size, width = tensors["image_proj.proj.weight"].shape
    tokens = size // net.context_dim
    encoder = image_encoder_of(image_encoder, dtype_of(model.params).name)
    if encoder.config.net.projection != width or tokens * net.context_dim != size:
        raise ValueError(
            f"{path} reads embeddings of {width} numbers for contexts of {size}, and the image encoder makes "
            f"{encoder.config.net.projection}, the network reads {net.context_dim}"
        )
    net = dataclasses.replace(net, image_prompt_dim=width, image_prompt_tokens=tokens)
    config = dataclasses.replace(model.config, net=net)
    names = PROJECTION | _names(model.params)
    shapes = traverse_util.flatten_dict(param_shapes(config), sep="/")
    entries = [mapping.entries({ours: shapes[ours]})[0]._replace(published=theirs) for theirs, ours in names.items()]
    if wrong := mapping.differences(entries, {name: value.shape for name, value in tensors.items()}):
        more = f", and {len(wrong) - 1} more do not fit" if len(wrong) > 1 else ""
        raise ValueError(f"{path}: {wrong[0]}{more}")
    flat, like = traverse_util.flatten_dict(model.params, sep="/"), jax.tree.leaves(model.params)[0]
    for entry in entries:
        value = jnp.asarray(mapping.LAYOUTS[entry.layout].to_ours(tensors[entry.published]), like.dtype)
        flat[entry.ours] = jax.device_put(value, sharding.replication())
    params = traverse_util.unflatten_dict(flat, sep="/")
    return model.replace(config=config, params=params, submodels={**model.submodels, "image_encoder": encoder})


def _names(params) -> dict[str, str]:
    """Our paths by the published names, which count attention layers in the order down, up, middle."""
    ends = "/attn2/to_k/kernel"
    sites = [path.removesuffix(ends) for path in traverse_util.flatten_dict(params, sep="/") if path.endswith(ends)]
    ways = ["down", "up", "mid"]
    sites.sort(key=lambda path: (ways.index(path.partition("_")[0]), [int(n) for n in re.findall(r"\d+", path)]))
    return {
        f"ip_adapter.{2 * i + 1}.{name}.weight": f"{site}/attn2/{name}/kernel"
        for i, site in enumerate(sites)
        for name in ("to_k_ip", "to_v_ip")
    }


def image_encoder_of(folder: epath.PathLike, dtype: str = "float32") -> Model:
    """Reads a `CLIPVisionModelWithProjection` from its folder; errors as of `weights.read`."""
    folder = as_path(folder).resolve()
    path = folder / "config.json"
    net = networks.image_encoder(fields_of(path), str(path))
    config = Config(name=folder.name, data=Data(image_shape=(net.vision.size, net.vision.size, 3)), net=net)
    with weights.opened(weights.find(folder)) as tensors:
        params = weights.read(mapping.entries(param_shapes(config)), tensors, str(folder), dtype)
    return Model(config=config, params=params, origin=Origin(folder.name, weights="published"))
