"""Stable Diffusion 1.x, 2.x and XL in one file, with the names of the code that trained them.

Everything but the number of heads, the kind of prediction and the scheduler can be seen from the shapes of the tensors.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from etils import epath

from jaxdiff.config import Config, Data, Latent, Sample
from jaxdiff.model import files
from jaxdiff.model.interop import mapping, schedulers, weights
from jaxdiff.model.interop.ldm_names import Place, autoencoder_place, clip_place, open_clip_place, unet_place
from jaxdiff.model.interop.weights import Tensors
from jaxdiff.model.model import Model, Origin
from jaxdiff.model.params import param_shapes
from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.clip_config import TextConfig
from jaxdiff.nets.unet_config import UNetConfig
from jaxdiff.paths import as_path
from jaxdiff.text import tokenizer as tokenizers

log = logging.getLogger("jaxdiff")
UNET, AUTOENCODER = "model.diffusion_model.", ("first_stage_model.", "vae.")
FIRST = {  # beginnings of the names of the (first) text encoder, and whether it is of OpenCLIP
    "cond_stage_model.transformer.": False,
    "cond_stage_model.model.": True,
    "conditioner.embedders.0.transformer.": False,
    "conditioner.embedders.0.model.": True,  # of 2.x, too, in later files
}
SECOND = "conditioner.embedders.1.model."
# What is no parameter of these networks: averages, tables of the schedule, losses, and what only training needs.
IGNORED = re.compile(
    r"model_ema\..*|(.*\.)?(position_ids|logit_scale|attn_mask)|betas|alphas_cumprod.*|sqrt_.*|log_one_minus.*|posterior_.*"
    r"|logvar|lvlb_weights|scale_factor|global_step|embedding_manager\..*|denoiser\.sigmas"
    r"|(first_stage_model|vae)\.(loss|model_ema)\..*|(.*\.)?transformer\.text_projection\.weight|v_pred|ztsnr"
)
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


class Version(NamedTuple):
    """A generation of Stable Diffusion.

    Attributes:
      scheduler: config of its scheduler.
      side: of its images, by the kind of prediction.
      predict: kind of prediction that is taken, where the file does not say.
      guidance: scale by default.
      scaling_factor: of the latents.
    """

    scheduler: Mapping[str, object]
    side: Mapping[str, int]
    predict: str
    guidance: float = 7.5
    scaling_factor: float = 0.18215


VERSIONS = {
    "1": Version(
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False},
        {"eps": 512, "v": 512},
        "eps",
    ),
    "2": Version(
        {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False},
        {"eps": 512, "v": 768},
        "v",
    ),
    "xl": Version(
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
        {"eps": 1024, "v": 1024},
        "eps",
        5.0,
        0.13025,
    ),
}
KINDS = {"epsilon": "eps", "v": "v", "v_prediction": "v"}  # in the header of a file


def is_single_file(path: epath.PathLike) -> bool:
    """Whether a .safetensors file holds a whole Stable Diffusion."""
    path = epath.Path(path)
    if path.suffix != ".safetensors" or not path.exists():
        return False
    with files.opened(path) as file:
        return any(key.startswith(UNET) for key in file.keys())


def read(
    path: epath.PathLike,
    dtype: str = "float32",
    placement=None,
    tokenizer: str | None = None,
    predict: str | None = None,
) -> Model:
    """Reads a Stable Diffusion from one file, tensor by tensor, onto the devices.

    Args:
      path: the .safetensors file.
      dtype: dtype of the weights on the devices.
      placement: device, sharding or mesh of the weights, see `sharding.placed`; by default a copy on each local device.
      tokenizer: folder of its tokenizer, which the file does not hold; by default "tokenizer" beside the file.
      predict: kind of prediction, "eps" or "v". By default that of the file's header, or else "eps" of 1.x and XL and "v"
        of 2.x.

    Raises:
      FileNotFoundError: there is no tokenizer.
      ValueError: tensors that are missing, of another shape, or not of these networks; the first is named.
    """
    path = epath.Path(path).resolve()
    words = _tokenizer(path, tokenizer)
    with weights.opened([path], IGNORED) as tensors:
        _, parts = _parts(path, tensors.shapes, words, predict)
        views = {name: view(tensors, part.entries, part.prefix, part.place) for name, part in parts.items()}
        _check_rest(path, tensors, views.values())
        models = {}
        for name, part in parts.items():
            params = weights.read(part.entries, views[name].tensors, str(path), dtype, placement)
            models[name] = Model(config=files.in_dtype(part.config, dtype), params=params)
            if part.pad:
                pad = dataclasses.replace(words, pad_id=words.model.token_to_id(part.pad))
                models[name] = models[name].replace(tokenizer=pad)
    unet = models.pop("unet")
    return unet.replace(submodels=models, origin=Origin(path.stem, weights="published"))


def read_config(path: epath.PathLike) -> Config:
    """Config of a file's denoiser, without its weights and its tokenizer."""
    path = epath.Path(path).resolve()
    with weights.opened([path], IGNORED) as tensors:
        return _parts(path, tensors.shapes, None, None)[0]


class Part(NamedTuple):
    """A network in the file.

    Attributes:
      config: its config.
      entries: its mapping.
      prefix: beginning of its names.
      place: (published name) -> `Place` behind the prefix.
      pad: token that fills texts up, of a text encoder.
    """

    config: Config
    entries: tuple[mapping.Entry, ...]
    prefix: str
    place: Callable[[str], Place]
    pad: str = ""


class View(NamedTuple):
    """Tensors of a network by the names of diffusers, and the keys of the file that they are of."""

    tensors: Tensors
    keys: frozenset[str]


def _parts(path, shapes, words, predict):
    """Config of the denoiser, and all networks by their names."""
    first = next((prefix for prefix in FIRST if any(key.startswith(prefix) for key in shapes)), None)
    vae = next((prefix for prefix in AUTOENCODER if any(key.startswith(prefix) for key in shapes)), None)
    if first is None or vae is None:
        what = "no text encoder of Stable Diffusion 1, 2 or XL (base)" if vae else "no autoencoder"
        raise ValueError(f"{path} has {what}, and only whole models of these are read")
    xl = any(key.startswith(SECOND) for key in shapes)
    name = "xl" if xl else "2" if FIRST[first] else "1"
    version, (kind, zero_snr) = VERSIONS[name], _said(path, VERSIONS[name])
    try:
        codec, net = _autoencoder(below(shapes, vae), version.scaling_factor), _unet(below(shapes, UNET))
        specs = {"text_encoder": _text(below(shapes, first), FIRST[first], False, words)}
        if xl:
            specs["second_text_encoder"] = _text(below(shapes, SECOND), True, True, words)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    config = _config(path, version, predict or kind, zero_snr, net, codec, xl)
    texts = {"text_encoder": (first, FIRST[first])} | ({"second_text_encoder": (SECOND, True)} if xl else {})
    parts = {"unet": _part(config, UNET, lambda name: unet_place(name, net))}
    image = config.data.image_shape
    parts["codec"] = _part(
        Config(name="vae", data=Data(image_shape=image), net=codec), vae, lambda name: autoencoder_place(name, codec)
    )
    for name, (prefix, is_open) in texts.items():
        spec = specs[name]
        place, pad = (open_clip_place, "!") if is_open else (clip_place, tokenizers.END)
        parts[name] = _part(Config(name=name, net=spec), prefix, place, pad)
    return config, parts


def _part(config, prefix, place, pad=""):
    return Part(config, mapping.entries(param_shapes(config)), prefix, place, pad)


def _config(path, version, predict, zero_snr, net, codec, xl):
    kinds = {"eps": "epsilon", "v": "v_prediction"}
    if predict not in kinds:
        raise ValueError(f"`predict`={predict!r} must be 'eps' or 'v'")
    snr = {"rescale_betas_zero_snr": True} if zero_snr else {}
    process = schedulers.process({**version.scheduler, **STABLE, **snr, "prediction_type": kinds[predict]})
    side = version.side[predict] // codec.factor
    latent = Latent("vae", (side, side, codec.latent_channels), text_encoder="text_encoder")
    if xl:
        latent = dataclasses.replace(
            latent,
            skip_blocks=1,
            second_text_encoder="text_encoder_2",
            context_norm=False,
            zero_empty_text=True,
        )
    sample = Sample(process.sampler, 50, process.spacing, guidance=version.guidance, clip=False, num=1, batch_size=8)
    return Config(
        name=path.stem,
        data=Data(image_shape=(side * codec.factor, side * codec.factor, codec.image_channels)),
        net=net,
        diffusion=dataclasses.replace(process.diffusion, cond_dropout=0.1),
        latent=latent,
        sample=dataclasses.replace(sample, compat=process.compat),
    )


def _said(path, version):
    """Kind of prediction, and whether the last level is pure noise, by the file or else by its version.

    Raises:
      ValueError: the file is of a process that is not supported; what says so is named.
    """
    with files.opened(path) as file:
        keys, header = set(file.keys()), file.metadata() or {}
    if other := next((key for key in sorted(keys) if key.startswith(("edm_", "edm_vpred"))), None):
        raise ValueError(f"{path}: {other} is of a process of EDM, which is not supported")
    said = "v" if "v_pred" in keys else header.get("modelspec.prediction_type")
    if said is not None and said not in KINDS:
        raise ValueError(f"{path}: modelspec.prediction_type={said!r} is not supported, only {', '.join(KINDS)}")
    if said is None:
        log.info("%s does not say what it predicts: taken as %s (`predict` says otherwise)", path.name, version.predict)
    return KINDS.get(said, version.predict), "ztsnr" in keys


class Shapes(dict):
    """Shapes by name; one that is missing is named in an error."""

    def __missing__(self, key):
        raise ValueError(f"{key} is missing")


def below(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Shapes:
    """Shapes of the tensors whose names begin so, without that beginning."""
    return Shapes({key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)})


def numbers(shapes: Iterable[str], pattern: str) -> list[int]:
    """Numbers that stand in place of the group of a pattern, at the beginnings of names."""
    return sorted({int(found[1]) for key in shapes if (found := re.match(pattern, key))})


def _unet(shapes):
    """Specification of a U-Net by the shapes of its tensors; 8 heads where the context is of 768, else heads of 64."""
    channels, blocks, attention, depth, context = [], [], [], [], 0
    for i in numbers(shapes, r"input_blocks\.(\d+)\.")[1:]:
        if f"input_blocks.{i}.0.op.weight" in shapes:
            continue
        width = shapes[f"input_blocks.{i}.0.in_layers.2.weight"][0]
        if f"input_blocks.{i - 1}.0.op.weight" in shapes or i == 1:
            channels.append(width)
            blocks.append(0)
            depth.append(1)
        blocks[-1] += 1
        inner = numbers(shapes, rf"input_blocks\.{i}\.1\.transformer_blocks\.(\d+)\.")
        if inner:
            level, depth[-1] = len(channels) - 1, len(inner)
            attention += [level] * (level not in attention)
            context = shapes[f"input_blocks.{i}.1.transformer_blocks.0.attn2.to_k.weight"][1]
    bottom = numbers(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    depth[-1] = len(bottom) or 1
    given = shapes["input_blocks.0.0.weight"][1]
    out = shapes["out.2.weight"][0]
    return UNetConfig(
        out_channels=out,
        channels=tuple(channels),
        blocks=_short(blocks),
        attention=tuple(attention),
        num_heads=8 if context == 768 else _short([max(1, width // 64) for width in channels]),
        context_dim=context,
        transformer_blocks=_short(depth),
        linear_projection=len(shapes["middle_block.1.proj_in.weight"]) == 2,
        image_channels=given - out,
        eps=1e-5,
        vector_dim=shapes.get("label_emb.0.0.weight", (0, 0))[1],
        flip_sin_to_cos=True,
        freq_shift=0.0,
        downsample_padding=1,
    )


def _short(values):
    """One number for all resolutions, where it is the same at all."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def _autoencoder(shapes, factor):
    levels = numbers(shapes, r"encoder\.down\.(\d+)\.")
    return AutoencoderConfig(
        image_channels=shapes["encoder.conv_in.weight"][1],
        channels=tuple(shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in levels),
        blocks=len(numbers(shapes, r"encoder\.down\.0\.block\.(\d+)\.")),
        latent_channels=shapes["post_quant_conv.weight"][0],
        scaling_factor=factor,
    )


def _text(shapes, is_open, projects, words):
    """Specification of a text encoder; of OpenCLIP's without projection the last block is not read (2.x)."""
    if is_open:
        vocabulary, width = shapes["token_embedding.weight"]
        length, layers = shapes["positional_embedding"][0], numbers(shapes, r"transformer\.resblocks\.(\d+)\.")
    else:
        vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
        length = shapes["text_model.embeddings.position_embedding.weight"][0]
        layers = numbers(shapes, r"text_model\.encoder\.layers\.(\d+)\.")
    return TextConfig(
        width=width,
        layers=min(len(layers), 23) if is_open and not projects else len(layers),
        heads=max(1, width // 64),
        activation="gelu" if is_open else "quick_gelu",
        vocabulary=vocabulary,
        length=length,
        end_token=words.end_id if words else vocabulary - 1,
        projection=shapes["text_projection"][1] if projects else 0,
    )


def view(tensors: Tensors, entries: Iterable[mapping.Entry], prefix: str, place: Callable[[str], Place]) -> View:
    """The tensors of a network by the names of diffusers.

    Args:
      tensors: of the file.
      entries: mapping of the network.
      prefix: beginning of its names in the file.
      place: (name of diffusers) -> `Place` behind the prefix.
    """
    found, shapes = {}, {}
    for entry in entries:
        where = place(entry.published)
        key = prefix + where.name
        if key in tensors.shapes:
            found[entry.published] = key, where, len(entry.shape)
            shapes[entry.published] = where.shape(tensors.shapes[key], len(entry.shape))

    def one(name):
        key, where, ndim = found[name]
        return where.value(tensors.read(key), ndim)

    return View(Tensors(shapes, one), frozenset(key for key, *_ in found.values()))


def _check_rest(path, tensors, views: Iterable[View]):
    """Refuses tensors that are of no network."""
    used = frozenset().union(*(view.keys for view in views))
    unused = [key for key in tensors.shapes if key not in used and not _left_out(key)]
    if unused:
        more = f", and {len(unused) - 1} more are not" if len(unused) > 1 else ""
        raise ValueError(f"{path}: {unused[0]} is of no network of Stable Diffusion{more}")


def _left_out(key):
    """Parameters that are there and not read: of OpenCLIP the last block and the projection in 2.x."""
    openings = r"(cond_stage_model|conditioner\.embedders\.0)\.model\."
    return bool(re.match(openings + r"(transformer\.resblocks\.23\.|text_projection$)", key))


def _tokenizer(path, folder):
    place = as_path(folder) if folder else path.parent / "tokenizer"
    if not place.exists():
        raise FileNotFoundError(
            f"{path.name} holds no tokenizer: put the folder 'tokenizer' of a published model beside it, or name one as "
            "`tokenizer`"
        )
    return tokenizers.load(place)
