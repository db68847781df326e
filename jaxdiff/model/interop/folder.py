"""Folders of pipelines as diffusers saves them: each network in a folder of its own, beside a scheduler."""

import dataclasses
import logging

from etils import epath

from jaxdiff.config import Config, Data, Latent, Sample
from jaxdiff.model import files
from jaxdiff.model.interop import mapping, networks, schedulers, weights
from jaxdiff.model.interop.fields import fields_of
from jaxdiff.model.model import Model, Origin
from jaxdiff.model.params import param_shapes
from jaxdiff.text import tokenizer

log = logging.getLogger("jaxdiff")
INDEX = "model_index.json"
RENAMED = {"vector_embedding.": "add_embedding.", "quantize.": "quantize.embedding."}
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
PARTS = {
    "StableDiffusionPipeline": ("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
    "DDPMPipeline": ("unet", "scheduler"),
    "DDIMPipeline": ("unet", "scheduler"),
}


def holds_pipeline(folder: epath.PathLike) -> bool:
    """Whether a directory is a pipeline that diffusers has saved."""
    return (epath.Path(folder) / INDEX).exists()


def read_config(folder: epath.PathLike) -> Config:
    """Config of a pipeline's denoiser, without its weights; see `read`."""
    folder = epath.Path(folder)
    kind, latent = _kind(folder), Latent()
    net_config = fields_of(folder / "unet" / "config.json")
    net = networks.unet(net_config, str(folder / "unet" / "config.json"))
    place = folder / "scheduler" / "scheduler_config.json"
    found = schedulers.process(fields_of(place), str(place))
    diffusion, shape = found.diffusion, (*_sides(net_config, folder), net.out_channels)
    sample = Sample(found.sampler, spacing=found.spacing, clip=found.clip, num=1, batch_size=1)
    if kind == "StableDiffusionPipeline":
        if found.clip:
            raise ValueError(f"{place}: clip_sample=True keeps images in their range, and latents have none")
        codec = _codec_config(folder, shape)
        latent = Latent("vae", shape, text_encoder="text_encoder")
        sample = dataclasses.replace(sample, guidance=7.5)
        diffusion = dataclasses.replace(diffusion, cond_dropout=0.1)  # without which there would be no guidance
        shape = codec.data.image_shape
    return Config(
        name=folder.name, data=Data(image_shape=shape), net=net, diffusion=diffusion, latent=latent, sample=sample
    )


def read(folder: epath.PathLike, dtype: str = "float32", placement=None) -> Model:
    """Reads a pipeline, tensor by tensor, onto the devices.

    Args:
      folder: directory with a model_index.json, of a `StableDiffusionPipeline` (1.x, 2.x), `DDPMPipeline` or
        `DDIMPipeline`.
      dtype: dtype of the weights on the devices.
      placement: device or `jax.sharding.Sharding` of the weights; by default a copy on each local device.

    Raises:
      FileNotFoundError: a part of the folder is missing.
      ValueError: a class, a field or a tensor that is not supported or does not fit; it is named.
    """
    folder = epath.Path(folder)
    config, submodels = read_config(folder), {}  # all of it before any weights
    if config.latent.codec:
        codec = _codec_config(folder, config.latent.shape)
        words = _tokenizer(folder)
        place = folder / "text_encoder" / "config.json"
        text = Config(name="text_encoder", net=networks.text_transformer(fields_of(place), words.end_id, str(place)))
        submodels = {"codec": _model(folder / "vae", codec, dtype, placement)}
        submodels["text_encoder"] = _model(folder / "text_encoder", text, dtype, placement).replace(tokenizer=words)
    model = _model(folder / "unet", config, dtype, placement)
    return model.replace(submodels=submodels, origin=Origin(folder.name, 0, "published", ""))


def _model(folder, config, dtype, placement):
    entries = mapping.entries(param_shapes(config), RENAMED)
    with weights.opened(weights.find(folder)) as tensors:
        params = weights.read(entries, tensors, str(folder), dtype, placement)
    return Model(config=files.in_dtype(config, dtype), params=params)


def _kind(folder):
    """The pipeline's class, all parts of which are there."""
    index = fields_of(folder / INDEX)
    kind = index.get("_class_name")
    if kind not in PARTS:
        raise ValueError(f"{folder / INDEX}: the class {kind} is not supported, only {', '.join(PARTS)}")
    for part in PARTS[kind]:
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{folder} has no {part}, which a {kind} has")
    if left_out := [name for name in LEFT_OUT if (index.get(name) or [None])[0]]:
        log.info("left out of %s: %s", folder, ", ".join(left_out))
    return kind


def _codec_config(folder, latent_shape):
    """Config of the autoencoder, for images whose latents have that shape."""
    place = folder / "vae" / "config.json"
    net = networks.autoencoder(fields_of(place), str(place))
    height, width, channels = latent_shape
    if net.latent_channels != channels:
        raise ValueError(f"{place}: latent_channels={net.latent_channels} must be {channels}, those of the U-Net")
    image = (height * net.factor, width * net.factor, net.image_channels)
    return Config(name="vae", data=Data(image_shape=image), net=net)


def _tokenizer(folder):
    length = fields_of(folder / "text_encoder" / "config.json").get("max_position_embeddings", 77)
    return tokenizer.load(folder / "tokenizer", length)


def _sides(config, folder):
    size = config.get("sample_size")
    if size is None:
        raise ValueError(f"{folder / 'unet' / 'config.json'}: sample_size is not given")
    return tuple(size) if isinstance(size, list) else (size, size)
