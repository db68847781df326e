"""Folders of pipelines as diffusers saves them: each network in a folder of its own, beside a scheduler."""

import dataclasses
import logging
from typing import NamedTuple

from etils import epath

from jaxdiff.config import Config, Data, Latent, Sample
from jaxdiff.model import files
from jaxdiff.model.interop import dits, mapping, networks, schedulers, weights
from jaxdiff.model.interop.classes import CLIP_TEXT
from jaxdiff.model.interop.fields import fields_of, peeked
from jaxdiff.model.model import Model, Origin
from jaxdiff.model.params import param_shapes
from jaxdiff.text import tokenizer

log = logging.getLogger("jaxdiff")
INDEX = "model_index.json"
SUBMODELS = {"text_encoder": "text_encoder", "second_text_encoder": "text_encoder_2"}  # folders of text encoders
CODECS = "vae", "vqvae"
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "text_encoder_3")
T5_TOKENS = 256  # zeros that diffusers 0.42 gives Stable Diffusion 3 without its T5; earlier versions gave 77
READERS = {"DiTPipeline": networks.dit, "StableDiffusion3Pipeline": networks.mmdit}


class Pipeline(NamedTuple):
    """A class of pipelines.

    Attributes:
      parts: its folders.
      classes: of its denoiser.
      steps: of sampling, by default.
      guidance: scale of the guidance, by default.
    """

    parts: tuple[str, ...]
    classes: tuple[str, ...]
    steps: int = 50
    guidance: float = 1.0

    @property
    def denoiser(self) -> str:
        """The folder of the denoiser."""
        return "transformer" if "transformer" in self.parts else "unet"


LATENT = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
CONDITION = ("UNet2DConditionModel",)
STABLE_DIFFUSION = Pipeline(LATENT, CONDITION, guidance=7.5)
XL = Pipeline((*LATENT, "text_encoder_2", "tokenizer_2"), CONDITION, guidance=5.0)
PIPELINES = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": STABLE_DIFFUSION,
    "StableDiffusionInpaintPipeline": STABLE_DIFFUSION,
    "LatentConsistencyModelPipeline": STABLE_DIFFUSION._replace(guidance=8.5),
    "StableDiffusionXLPipeline": XL,
    "StableDiffusionXLInpaintPipeline": XL,
    "LDMPipeline": Pipeline(("unet", "vqvae", "scheduler"), ("UNet2DModel",)),
    "DDPMPipeline": Pipeline(("unet", "scheduler"), ("UNet2DModel",), steps=1000),
    "DDIMPipeline": Pipeline(("unet", "scheduler"), ("UNet2DModel",)),
    "DiTPipeline": Pipeline(
        ("transformer", "vae", "scheduler"), ("DiTTransformer2DModel", "Transformer2DModel"), guidance=4.0
    ),
    "StableDiffusion3Pipeline": Pipeline(
        ("transformer", *XL.parts[1:]), ("SD3Transformer2DModel",), steps=28, guidance=7.0
    ),
}


def holds_pipeline(folder: epath.PathLike) -> bool:
    """Whether a directory is a pipeline that diffusers has saved."""
    return (epath.Path(folder) / INDEX).exists()


def holds_autoencoder(folder: epath.PathLike) -> bool:
    """Whether a directory is an autoencoder that diffusers has saved."""
    return peeked(epath.Path(folder) / "config.json").get("_class_name") in ("AutoencoderKL", "VQModel")


def autoencoder_config(folder: epath.PathLike) -> Config:
    """Config of an autoencoder, without its weights; errors as of `read`."""
    path = epath.Path(folder).resolve() / "config.json"
    fields = fields_of(path)
    net = networks.autoencoder(fields, str(path))
    image = (*_sides({"sample_size": 512} | fields, path), net.image_channels)
    return Config(name=path.parent.name, data=Data(image_shape=image), net=net)


def read_autoencoder(folder: epath.PathLike, dtype: str = "float32", placement=None) -> Model:
    """Reads an autoencoder, tensor by tensor, onto the devices; arguments and errors as of `read`."""
    folder = epath.Path(folder).resolve()
    model = _model(folder, autoencoder_config(folder), dtype, placement)
    return model.replace(origin=Origin(folder.name, weights="published"))


def read_config(folder: epath.PathLike) -> Config:
    """Config of a pipeline's denoiser, without its weights.

    Args:
      folder: see `read`.

    Raises:
      FileNotFoundError, ValueError: as `read`.
    """
    folder = epath.Path(folder).resolve()
    kind = _kind(folder)
    pipeline = PIPELINES[kind]
    path, scheduler = (
        _part(folder, pipeline.denoiser) / "config.json",
        _part(folder, "scheduler") / "scheduler_config.json",
    )
    fields, scheduler_fields = fields_of(path), fields_of(scheduler)
    if (found := fields.get("_class_name")) not in pipeline.classes:
        raise ValueError(f"{path}: the class {found} must be {' or '.join(pipeline.classes)} in a {kind}")
    if pipeline.parts == LATENT:
        scheduler_fields = _corrected(scheduler_fields, scheduler)
    read_network = READERS.get(kind, networks.unet)
    net, process = read_network(fields, str(path)), schedulers.process(scheduler_fields, str(scheduler))
    if (net.kind == "mmdit") != (process.diffusion.predict == "flow"):
        raise ValueError(f"{scheduler}: the class {scheduler_fields['_class_name']} is of no {kind}")
    channels = fields.get("in_channels", 4) if net.kind == "dit" else net.out_channels  # it may learn a variance
    diffusion, latent, shape = process.diffusion, Latent(), (*_sides(fields, path), channels)
    if codec := next((name for name in CODECS if name in pipeline.parts), None):
        latent = _latent(folder, pipeline, net, shape) if net.context_dim else Latent(codec, shape)
        shape = _codec_config(folder, codec, shape).data.image_shape
    if net.context_dim or net.num_classes:
        diffusion = dataclasses.replace(diffusion, cond_dropout=0.1)  # it was trained with; guidance needs some
    sample = Sample(
        process.sampler,
        min(pipeline.steps, diffusion.num_levels, process.steps),
        process.spacing,
        guidance=pipeline.guidance,
        clip=process.clip and not latent.codec,
        compat=process.compat,
        num=1,
        batch_size=8,
    )
    data = Data(image_shape=shape, classes=_classes(folder, net.num_classes))
    return Config(name=folder.name, data=data, net=net, diffusion=diffusion, latent=latent, sample=sample)


def _classes(folder, count):
    """Names of the labels, of which each has several with commas between them; () where the folder has none.

    Raises:
      ValueError: names that are not one for each label.
    """
    names = fields_of(folder / INDEX).get("id2label") if count else None
    if not names:
        return ()
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(count))):
        raise ValueError(f"{folder / INDEX}: id2label must name the labels 0 to {count - 1}")
    whole = [str(names[str(i)]) for i in range(count)]
    first = [name.split(",")[0] for name in whole]
    return tuple(one if first.count(one) == 1 else f"{one} {i}" for i, one in enumerate(first))


def _latent(folder, pipeline, net, shape):
    """Autoencoder and text encoders; two of them are read before their last block and norm."""
    two = {"skip_blocks": 1, "second_text_encoder": "text_encoder_2", "context_norm": False}
    if net.kind == "mmdit":
        return Latent("vae", shape, text_encoder="text_encoder", both_vectors=True, zero_tokens=T5_TOKENS, **two)
    if net.image_channels not in (0, shape[-1] + 1):
        raise ValueError(
            f"{folder / 'unet' / 'config.json'}: in_channels={net.image_channels + shape[-1]} must be {shape[-1]}, or "
            f"{2 * shape[-1] + 1} of inpainting"
        )
    if bool(net.vector_dim) != (pipeline.parts == XL.parts):
        raise ValueError(
            f"{folder / 'unet' / 'config.json'}: addition_embed_type is of Stable Diffusion XL, and of it alone"
        )
    if pipeline.parts != XL.parts:
        return Latent("vae", shape, text_encoder="text_encoder")
    zeros = fields_of(folder / INDEX).get("force_zeros_for_empty_prompt", True)
    return Latent("vae", shape, text_encoder="text_encoder", zero_empty_text=bool(zeros), **two)


def read(folder: epath.PathLike, dtype: str = "float32", placement=None) -> Model:
    """Reads a pipeline, tensor by tensor, onto the devices.

    Args:
      folder: directory with a model_index.json, of one of `PIPELINES`; a part that has no folder of its own may lie in it.
      dtype: dtype of the weights on the devices.
      placement: device, sharding or mesh of the weights, see `sharding.placed`; by default a copy on each local device.

    Returns:
      `Model`, with the submodels "codec", "text_encoder" and "second_text_encoder" that the pipeline has.

    Raises:
      FileNotFoundError: a part of the folder is missing.
      ValueError: a class, a field or a tensor that is not supported or does not fit; it is named.
    """
    folder = epath.Path(folder).resolve()
    config, submodels = read_config(folder), {}
    if name := config.latent.codec:
        codec = _codec_config(folder, name, config.latent.shape)
        texts = {name: _text_config(folder, SUBMODELS[name]) for name in SUBMODELS if getattr(config.latent, name)}
        if texts:
            _check_texts(folder, config.net, [text.net for text, _ in texts.values()])
        submodels["codec"] = _model(folder / name, codec, dtype, placement)
        for name, (text, words) in texts.items():
            submodels[name] = _model(folder / SUBMODELS[name], text, dtype, placement).replace(tokenizer=words)
    model = _model(_part(folder, PIPELINES[_kind(folder)].denoiser), config, dtype, placement)
    return model.replace(submodels=submodels, origin=Origin(folder.name, weights="published"))


def _model(folder, config, dtype, placement):
    net, shapes, where = config.net, param_shapes(config), str(folder)
    entries = dits.entries(net, shapes) if net.kind in ("dit", "mmdit") else mapping.entries(shapes)
    with weights.opened(weights.find(folder)) as tensors:
        if net.kind == "dit":
            tensors = dits.without_copies(tensors, where)
        if net.kind == "mmdit":
            tensors = dits.without_positions(tensors, where, net.base_places / net.places)
        params = weights.read(entries, tensors, where, dtype, placement)
    return Model(config=files.in_dtype(config, dtype), params=params)


def _kind(folder):
    """The pipeline's class, all parts of which are there."""
    index = fields_of(folder / INDEX)
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise ValueError(f"{folder / INDEX}: the class {kind} is not supported, only {', '.join(PIPELINES)}")
    for part in PIPELINES[kind].parts:
        if not (folder / part).is_dir() and _part(folder, part) != folder:
            raise FileNotFoundError(f"{folder} has no {part}, which a {kind} has")
    if left_out := [name for name in LEFT_OUT if index.get(name) not in (None, [None, None])]:
        log.info("left out of %s: %s", folder, ", ".join(left_out))
    return kind


def _part(folder, part):
    """The folder of a part: that of its name, or the pipeline's, as the DDPMs of Google have it."""
    in_place = {"unet": "config.json", "scheduler": "scheduler_config.json"}.get(part)
    return folder if in_place and not (folder / part).is_dir() and (folder / in_place).exists() else folder / part


def _corrected(fields, path):
    """Fields of a scheduler as `StableDiffusionPipeline` of diffusers corrects those of old files."""
    corrected = {"steps_offset": 1, "clip_sample": False}
    for name, value in corrected.items():
        if fields.get(name, value) != value:
            log.info("%s: %s=%s is taken as %s, as diffusers does", path, name, fields[name], value)
    return fields | corrected


def _codec_config(folder, name, latent_shape):
    """Config of the autoencoder, for images whose latents have that shape."""
    path = folder / name / "config.json"
    net = networks.autoencoder(fields_of(path), str(path))
    height, width, channels = latent_shape
    if net.latent_channels != channels:
        raise ValueError(f"{path}: latent_channels={net.latent_channels} must be {channels}, those of the U-Net")
    image = (height * net.factor, width * net.factor, net.image_channels)
    return Config(name=name, data=Data(image_shape=image), net=net)


def _text_config(folder, name):
    """Config of a text encoder, and its tokenizer."""
    path = folder / name / "config.json"
    fields = fields_of(path)
    length = CLIP_TEXT.values(fields, str(path))["max_position_embeddings"]
    words = tokenizer.load(folder / name.replace("text_encoder", "tokenizer"), length)
    net = networks.text_transformer(fields, words.end_id, str(path))
    if words.vocab_size > net.vocabulary:
        raise ValueError(f"{path}: vocab_size={net.vocabulary} is less than the {words.vocab_size} of the tokenizer")
    return Config(name=name, net=net), words


def _check_texts(folder, net, texts):
    """Refuses text encoders whose contexts and vectors are not those of the denoiser."""
    path, widths = folder / "text_encoder" / "config.json", [text.width for text in texts]
    if net.kind == "mmdit":
        return _check_joint_texts(path, net, texts)
    if sum(widths) != net.context_dim:
        found = " + ".join(map(str, widths))
        raise ValueError(f"{path}: hidden_size={found} must be {net.context_dim}, the U-Net's cross_attention_dim")
    sizes = net.vector_dim - texts[-1].projection
    if net.vector_dim and (not texts[-1].projection or sizes < 12 or sizes % 12):
        raise ValueError(
            f"{folder / 'text_encoder_2' / 'config.json'}: projection_dim={texts[-1].projection} does not fit the U-Net's "
            f"projection_class_embeddings_input_dim={net.vector_dim}"
        )


def _check_joint_texts(path, net, texts):
    width, vector = sum(text.width for text in texts), sum(text.projection for text in texts)
    if width > net.context_dim or vector != net.vector_dim or not all(text.projection for text in texts):
        raise ValueError(
            f"{path}: both text encoders have hidden_size={width} and projection_dim={vector} together, and must have at "
            f"most the transformer's joint_attention_dim={net.context_dim} and its pooled_projection_dim={net.vector_dim}"
        )


def _sides(fields, path):
    size = fields.get("sample_size")
    sides = tuple(size) if isinstance(size, list) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"{path}: sample_size={size!r} must be a number of pixels, or two")
    return sides
