"""Writes models and adapters in the layouts in which others read them: folders of diffusers, LoRAs of PEFT and kohya."""

import contextlib
import dataclasses
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath
from flax import traverse_util

from jaxdiff import disk, tensor_files
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.config import Latent
from jaxdiff.files import write_whole
from jaxdiff.model.interop import dits, mapping, published
from jaxdiff.model.interop.folder import INDEX, SUBMODELS, T5_TOKENS
from jaxdiff.model.model import Model
from jaxdiff.nets.controlnet import ControlConfig
from jaxdiff.paths import as_path
from jaxdiff.text.tokenizer import END, START, Tokenizer

log = logging.getLogger("jaxdiff")
FORMAT = {"format": "pt"}  # what diffusers and transformers ask a header for
CLIP_TOKENIZER = ["transformers", "CLIPTokenizer"]


def folder(path: epath.PathLike, model: Model, dtype: str = "float16") -> None:
    """Writes a model as a folder that diffusers loads, whole or not at all.

    Args:
      path: the folder, which must not be there.
      model: text-to-image model with an autoencoder, or a diffusion of pixels without condition.
      dtype: dtype of the weights in the files, "float16" or "float32".

    Raises:
      FileExistsError: the folder is there.
      ValueError: a model that diffusers has no class for, or weights that are too large for the dtype or were rounded to
        bfloat16 when they were loaded; the message names what.
    """
    path = as_path(path)
    if disk.is_remote(path):
        raise ValueError(f"{path} is remote: write to a local folder, and copy that")
    config, (kind, parts) = model.config, _parts(model)
    index: dict[str, Any] = {"_class_name": kind, "_diffusers_version": "0.35.0"}
    scheduler = published.scheduler(model.config)
    with _new(path) as made:
        for name, part in parts.items():
            index[name] = _class_of(part[0])
            _write_network(made / name, *part, dtype, config.net if name == "transformer" else None)
        for name, text in _texts(model).items():
            words = name.replace("text_encoder", "tokenizer")
            index[words] = CLIP_TOKENIZER
            write_tokenizer(made / words, text.tokenizer)
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
        if kind == "DiTPipeline" and config.data.classes:
            index["id2label"] = {str(i): name for i, name in enumerate(config.data.classes)}
        if kind == "StableDiffusion3Pipeline":
            absent = "text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"
            index |= {part: [None, None] for part in absent}
        elif "text_encoder" in parts and "text_encoder_2" not in parts:
            index |= {
                "safety_checker": [None, None],
                "feature_extractor": [None, None],
                "requires_safety_checker": False,
            }
        elif "text_encoder_2" in parts:
            index["force_zeros_for_empty_prompt"] = model.config.latent.zero_empty_text
        (made / "scheduler").mkdir()
        _write_json(made / "scheduler" / "scheduler_config.json", scheduler)
        _write_json(made / INDEX, index)


def _class_of(fields):
    """Library and class of a network, by the fields of its config."""
    if "_class_name" in fields:
        return ["diffusers", fields["_class_name"]]
    return ["transformers", *fields["architectures"]]


def _texts(model):
    """Text encoders by the names of their folders."""
    return {folder: model.submodels[name] for name, folder in SUBMODELS.items() if name in model.submodels}


def _parts(model) -> tuple[str, dict[str, tuple[dict, Any, str]]]:
    """Class of the pipeline, and config, parameters and stem of the files of each network."""
    config, net = model.config, model.config.net
    if config.samples and net.kind == "dit":
        return "DiTPipeline", _dit_parts(model)
    if config.samples and net.kind == "mmdit":
        return "StableDiffusion3Pipeline", _joint_parts(model)
    if not config.samples or net.kind != "unet":
        raise ValueError(f"{config.name} is no U-Net or DiT that samples, and only those are written in this layout")
    if bool(net.context_dim) != bool(config.latent.codec):
        raise ValueError(
            f"{config.name} is written in this layout with both an autoencoder and a text encoder, or with neither"
        )
    if model.controls:
        raise ValueError("the ControlNets of a model are written one by one")
    height, width, _ = model.shape
    side = height if height == width else (height, width)
    parts = {"unet": (published.unet(net, side), model.params, "diffusion_pytorch_model")}
    if not config.latent.codec:
        return "DDPMPipeline", parts
    L = config.latent
    second = "second_text_encoder" in model.submodels
    if L.skip_blocks != int(second) or L.context_norm == second:
        raise ValueError(
            f"skip_blocks={L.skip_blocks} and context_norm={L.context_norm} are of no pipeline of diffusers"
        )
    parts |= {"vae": _vae(model)} | _text_parts(model)
    if net.guidance_dim:
        return "LatentConsistencyModelPipeline", parts
    name = "StableDiffusionXL" if second else "StableDiffusion"
    return f"{name}{'Inpaint' if net.image_channels else ''}Pipeline", parts


def _text_parts(model):
    """Config, parameters and stem of the file of each text encoder."""
    fields = lambda text: published.text_transformer(text.config.net, text.tokenizer.start_id, text.tokenizer.pad_id)
    return {name: (fields(text), text.params, "model") for name, text in _texts(model).items()}


def _joint_parts(model):
    """Parts of a StableDiffusion3Pipeline without its T5."""
    L = model.config.latent
    own = dataclasses.replace(L, shape=None, codec=None, scaling_factor=None)
    wanted = Latent(
        text_encoder=L.text_encoder,
        second_text_encoder=L.second_text_encoder,
        skip_blocks=1,
        context_norm=False,
        both_vectors=True,
        zero_tokens=T5_TOKENS,
    )
    if own != wanted or not (L.codec and L.text_encoder and L.second_text_encoder):
        raise ValueError(
            f"{model.config.name} reads texts otherwise than a StableDiffusion3Pipeline: write it in jaxdiff's own layout"
        )
    fields = published.mmdit(model.config.net)
    return {"transformer": (fields, model.params, "diffusion_pytorch_model"), "vae": _vae(model)} | _text_parts(model)


def _dit_parts(model):
    """Parts of a DiTPipeline, whose null label is 1000."""
    net, (height, width, channels) = model.config.net, model.shape
    if net.num_classes != 1000 or not model.config.latent.codec or height != width:
        raise ValueError(
            f"{model.config.name} is no DiTPipeline, which has 1000 classes, an autoencoder and square images: write it in "
            "jaxdiff's own layout"
        )
    fields = published.dit(net, height, channels)
    return {"transformer": (fields, model.params, "diffusion_pytorch_model"), "vae": _vae(model)}


def _vae(model):
    """Config, parameters and stem of the file of the autoencoder."""
    codec, (height, width, _) = model.submodels["codec"], model.image_shape
    if codec.config.net.codebook_size:
        raise ValueError(f"codebook_size={codec.config.net.codebook_size} is nothing that an AutoencoderKL has")
    fields = published.autoencoder(codec.config.net, height if height == width else (height, width))
    return fields, codec.params, "diffusion_pytorch_model"


@contextlib.contextmanager
def _new(path: epath.Path) -> Iterator[Path]:
    """A folder that has its name once all is written.

    Raises:
      FileExistsError: it is there.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield made
        made.chmod(0o755)
        made.rename(path)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _write_network(path, fields, params, stem, dtype, transformer=None):
    path.mkdir(parents=True, exist_ok=True)
    prefix = "text_model." if stem == "model" else ""  # which transformers 4 needs, and 5 takes
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {name: at.astype(dtype) for name, at in (dits.positions(transformer) if transformer else {}).items()}
    for entry in dits.entries(transformer, params) if transformer else mapping.entries(params):
        name = entry.published if entry.published.startswith("text_projection") else prefix + entry.published
        value = as_published(flat[entry.ours], entry.layout, dtype, entry.ours)
        tensors |= dict.fromkeys(dits.places(name, transformer) if transformer else [name], value)
    safetensors.numpy.save_file(tensors, path / f"{stem}.safetensors", FORMAT)
    _write_json(path / "config.json", fields | ({"torch_dtype": dtype} if stem == "model" else {}))


def as_published(value: jax.Array, layout: str, dtype: str, name: str) -> np.ndarray:
    """A parameter with the axes that it has in published files.

    Raises:
      ValueError: it is of bfloat16, or not finite in the dtype.
    """
    if value.dtype == jnp.bfloat16:
        raise ValueError(
            "the weights were rounded to bfloat16 when they were loaded: load them in float32 to write them"
        )
    return tensor_files.in_dtype(name, mapping.LAYOUTS[layout].to_published(np.asarray(value)), dtype)


def _write_json(path, fields):
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def write_tokenizer(path: Path, words: Tokenizer) -> None:
    """Writes a tokenizer as transformers has it.

    Raises:
      ValueError: a token that is read as several, which others have no way to say.
    """
    if words.groups:
        token = words.model.id_to_token(words.groups[0][0])
        raise ValueError(f"{token!r} is read as several tokens, which is no part of a tokenizer: write it on its own")
    path.mkdir(parents=True, exist_ok=True)
    whole = json.loads(words.model.to_str())
    _write_json(path / "vocab.json", whole["model"]["vocab"])
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in whole["model"]["merges"])
    (path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{pair}\n" for pair in pairs))
    pad = words.model.id_to_token(words.pad_id)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    _write_json(path / "special_tokens_map.json", special)
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": words.length, "do_lower_case": True}
    _write_json(path / "tokenizer_config.json", special | about | {"add_prefix_space": False, "errors": "replace"})
    if added := {token["content"]: token["id"] for token in whole["added_tokens"]}:
        _write_json(path / "added_tokens.json", added)


def controlnet(path: epath.PathLike, adapter: Adapter, model: Model, dtype: str = "float16") -> None:
    """Writes a ControlNet as a folder that diffusers loads, whole or not at all.

    Args:
      path: the folder, which must not be there.
      adapter: the ControlNet.
      model: its base model.
      dtype: dtype of the weights in the file.

    Raises:
      FileExistsError, ValueError: as `folder`.
    """
    config = ControlConfig(model.config.net, embedding=tuple(adapter.metadata["embedding"]))
    fields = published.controlnet(config)
    with _new(as_path(path)) as made:
        _write_network(made, fields, adapter.control, "diffusion_pytorch_model", dtype)


def lora(
    path: epath.PathLike,
    adapter: Adapter,
    model: Model,
    layout: Literal["peft", "kohya"] = "peft",
    dtype: str = "float16",
) -> None:
    """Writes LoRAs as a .safetensors file that others load.

    Args:
      path: the file.
      adapter: with LoRAs.
      model: its base model.
      layout: "peft", as diffusers has it; or "kohya", as web interfaces and ComfyUI have it.
      dtype: dtype of the matrices in the file.

    Raises:
      ValueError: no LoRAs, or one of another network than the model's.
    """
    if not adapter.loras:
        raise ValueError("there is no LoRA in it")
    if model.config.net.kind != "unet":
        raise ValueError(
            f"others read LoRAs of U-Nets alone, and {model.config.name} is of kind {model.config.net.kind!r}"
        )
    second = "second_text_encoder" in model.submodels
    tensors, header = {}, {}
    for net, corrections in adapter.loras.items():
        known = {entry.ours: entry for entry in mapping.entries(_params_of(model, net))}
        found = _common(corrections) if layout == "peft" else {}
        if found:
            header |= {f"{PEFT[net].removesuffix('.')}.{name}": value for name, value in found.items()}
        for place, factors in corrections.factors.items():
            if place not in known:
                raise ValueError(f"this LoRA is of another network: {model.config.name} has no layer {place}")
            scale = float(corrections.scale[place])
            parts = _factors(factors, known[place], scale, layout, bool(found))
            name = known[place].published.removesuffix(".weight")
            for ending, value in parts.items():
                written = _name(net, name, layout, second) + ending
                tensors[written] = tensor_files.in_dtype(written, value, dtype)
    metadata = FORMAT | ({"lora_adapter_metadata": json.dumps(header)} if header else {})
    write_whole(path, safetensors.numpy.save(tensors, metadata))


PEFT = {"unet": "unet.", "text": "text_encoder.", "text_2": "text_encoder_2."}


def _params_of(model, net):
    names = {"text": "text_encoder", "text_2": "second_text_encoder"}
    if net == "unet":
        return model.params
    if names[net] not in model.submodels:
        raise ValueError(f"this LoRA is of a text encoder, and {model.config.name} has none")
    return model.submodels[names[net]].params


def _common(corrections) -> Mapping[str, Any]:
    """Rank and alpha in a file's header, where all layers share them and they differ; else none."""
    ranks = {factors.down.shape[1] for factors in corrections.factors.values()}
    scales = {float(scale) for scale in corrections.scale.values()}
    if len(ranks) != 1 or len(scales) != 1 or scales == {1.0}:
        return {}
    ((rank,), (scale,)) = ranks, scales
    alpha = scale * rank
    modules = sorted({path.split("/")[-2] for path in corrections.factors})
    names = [module.replace("to_out_0", "to_out.0") for module in modules]
    return {"r": rank, "lora_alpha": int(alpha) if alpha == int(alpha) else alpha, "target_modules": names}


def _factors(factors, entry, scale, layout, in_header):
    """Published matrices of a layer, by the endings of their names."""
    down, up = np.asarray(factors.down), np.asarray(factors.up)
    rank = down.shape[1]
    if len(entry.shape) == 4:  # ours is one matrix of [height width in, rank]
        out, given, height, width = entry.shape
        down = down.reshape(height, width, given, rank).transpose(3, 2, 0, 1)
        up = up.T.reshape(out, rank, 1, 1)
    else:
        down, up = down.T, up.T
    if layout == "kohya":
        alpha = np.asarray(scale * rank, np.float32)
        return {".lora_down.weight": down, ".lora_up.weight": up, ".alpha": alpha}
    return {".lora_A.weight": down, ".lora_B.weight": up if in_header else scale * up}


def _name(net, module, layout, second):
    if layout == "kohya":
        part = {"unet": "unet", "text": "te1_text_model" if second else "te_text_model", "text_2": "te2_text_model"}[
            net
        ]
        return f"lora_{part}_{module.replace('.', '_')}"
    inside = "" if net == "unet" or module == "text_projection" else "text_model."
    return f"{PEFT[net]}{inside}{module}"


def textual_inversion(path: epath.PathLike, token: str, rows) -> None:
    """Writes the embedding of a new token as a .safetensors file that others load."""
    write_whole(path, safetensors.numpy.save({token: np.asarray(rows, np.float32)}, FORMAT))
