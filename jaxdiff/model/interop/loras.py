"""LoRAs as others publish them: of kohya's scripts, of PEFT, and of three older layouts of diffusers.

Names in a file are not taken apart: each module of the base has a name in each layout, and a file's are looked up there.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxdiff.adapt import lora
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.adapt.lora import Factors, Lora
from jaxdiff.model import files
from jaxdiff.model.interop import mapping
from jaxdiff.model.interop.fields import fields_of
from jaxdiff.model.interop.ldm_names import unet_place
from jaxdiff.model.model import Model
from jaxdiff.nets.unet_config import UNetConfig

DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", "_lora.down.weight",
        ".lora_linear_layer.down.weight")  # fmt: skip
ENDINGS = dict.fromkeys(DOWN, "down") | {".alpha": "alpha"}
ENDINGS |= {ending.replace("down", "up").replace("lora_A", "lora_B"): "up" for ending in DOWN}
# What is no product of two matrices, by how its names end.
OTHERS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w1_a": "LoHa",
    "hada_w1_b": "LoHa",
    "lokr_w1": "LoKr",
    "lokr_w1_a": "LoKr",
    "lora_mid.weight": "LoCon with a middle",
    "diff": "a whole kernel",
    "diff_b": "a whole bias",
    "lora_B.bias": "a LoRA with biases",
}
PREFIXES = {  # of names with dots
    "text_2": ("text_encoder_2.text_model.", "text_encoder_2."),
    "unet": ("unet.", "base_model.model.unet.", "base_model.model.", ""),
    "text": ("text_encoder.text_model.", "text_encoder.", "base_model.model.text_encoder.text_model.", "text_model."),
}
HEADERS = {"unet": "unet", "text": "text_encoder", "text_2": "text_encoder_2"}  # in metadata of diffusers
KOHYA = {
    "unet": ("lora_unet_",),
    "text": ("lora_te_text_model_", "lora_te1_text_model_", "lora_te_"),
    "text_2": ("lora_te2_text_model_", "lora_te2_"),
}
SUBMODELS = {"text": "text_encoder", "text_2": "second_text_encoder"}


def is_published(path: epath.PathLike) -> bool:
    """Whether a .safetensors file holds a LoRA that others have made."""
    path = epath.Path(path)
    if path.suffix != ".safetensors" or not path.exists():
        return False
    with files.opened(path) as file:
        made_here = {"adapter", "config"} & set(file.metadata() or {})
        return not made_here and any(_ending(key) or key.endswith(tuple(OTHERS)) for key in file.keys())


def read(path: epath.PathLike, model: Model) -> Adapter:
    """Reads a published LoRA of a model.

    Args:
      path: .safetensors file.
      model: base model.

    Returns:
      `Adapter` with LoRAs of the "unet" and the text encoders, or of some of them.

    Raises:
      ValueError: a layout that is no product of two matrices, or a layer that the base does not have; it is named.
    """
    try:
        return _read(epath.Path(path), model)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def _read(path, model):
    _check_network(model)
    with files.opened(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        said = _header(file.metadata() or {})
    if any(key.startswith("base_model.model.") for key in tensors):  # as PEFT itself saves them
        config = fields_of(path.parent / "adapter_config.json")
        said = {f"{prefix}.{name}": value for prefix in HEADERS.values() for name, value in config.items()}
    alphas, known, found = _alphas(said), dict(_names(model)), {}
    for key, value in tensors.items():
        place, part = _place(key, known, model.config.name)
        if part in found.setdefault(place, {}):
            raise ValueError(f"{key} is there a second time under another name")
        found[place][part] = value
    loras = {}
    for net in dict.fromkeys(net for net, _ in found):
        parts = {ours: part for (of, ours), part in found.items() if of == net}
        loras[net] = _lora(parts, alphas.get(net))
    return Adapter({"name": path.stem, "base": model.config.name}, loras)


def _ending(key):
    return next((ending for ending in sorted(ENDINGS, key=len, reverse=True) if key.endswith(ending)), None)


def _place(key, known, base):
    """((network, path of the kernel), part) of a tensor's name."""
    if other := next((what for ending, what in OTHERS.items() if key.endswith(f".{ending}")), None):
        raise ValueError(f"{key} is {other}, which is no product of two matrices and is not supported")
    if not (ending := _ending(key)):
        raise ValueError(f"{key} is no part of a LoRA that is supported")
    name = key.removesuffix(ending)
    if name not in known:
        raise ValueError(f"this LoRA is of another network: {base} has no layer of the name {name}")
    return known[name], ENDINGS[ending]


def _check_network(model):
    """Raises ValueError for a model whose LoRAs others name in ways that are not known here."""
    if model.config.net.kind in ("dit", "mmdit"):
        kind = model.config.net.kind
        raise ValueError(
            f"LoRAs that others have made of networks of kind {kind!r} are not read yet: give one of jaxdiff"
        )


def _names(model) -> Iterator[tuple[str, tuple[str, str]]]:
    """Names of every kernel's module in every layout, with the network and the kernel's path."""
    nets = {"unet": model.params}
    nets |= {net: model.submodels[name].params for net, name in SUBMODELS.items() if name in model.submodels}
    for net, params in nets.items():
        for entry in mapping.entries(params):
            if not entry.ours.endswith("/kernel"):
                continue
            module, place = entry.published.removesuffix(".weight"), (net, entry.ours)
            for prefix in PREFIXES[net]:
                yield prefix + module, place
            modules = [module]
            if net == "unet" and isinstance(model.config.net, UNetConfig):  # as in files of Stable Diffusion XL
                modules.append(unet_place(entry.published, model.config.net).name.removesuffix(".weight"))
            for prefix, one in itertools.product(KOHYA[net], modules):
                yield prefix + one.replace(".", "_"), place
            if found := re.fullmatch(r"(.*)\.(to_q|to_k|to_v|to_out)(\.0)?", module):
                yield f"{PREFIXES[net][0]}{found[1]}.processor.{found[2]}", place  # earlier, of diffusers
                yield f"{found[1]}.processor.{found[2]}", place


def _lora(parts: Mapping[str, Mapping[str, Any]], alpha) -> Lora:
    factors, scales = {}, {}
    for path, part in sorted(parts.items()):
        if missing := [name for name in ("down", "up") if name not in part]:
            raise ValueError(f"{path} has no {missing[0]} matrix: the file is not whole")
        down, up = (np.asarray(part[name], np.float32) for name in ("down", "up"))
        own = np.asarray(part.get("alpha", alpha if alpha is not None else len(down)), np.float32)
        if {down.ndim, up.ndim} - {2, 4} or up.shape[1] != len(down) or not len(down) or own.size != 1:
            raise ValueError(f"{path} is no LoRA: its matrices are {down.shape} and {up.shape}, its alpha {own.shape}")
        if down.ndim == 4:  # OIHW of a convolution; ours is one matrix of [height width in, rank]
            down, up = down.transpose(2, 3, 1, 0).reshape(-1, len(down)).T, up.reshape(len(up), -1)
        if up.ndim != 2 or up.shape[1] != len(down):
            raise ValueError(f"{path} is no LoRA: its second convolution is larger than 1x1")
        factors[path] = Factors(jnp.asarray(down.T), jnp.asarray(up.reshape(len(up), -1).T))
        scales[path] = lora.scale(len(down), float(own.reshape(())))
    return Lora(factors, scales)


def _header(metadata):
    """Metadata of LoRAs in the header of a file of diffusers."""
    try:
        said = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ValueError("its lora_adapter_metadata is no JSON object")
    return said


def _alphas(said):
    """The alpha of each network; None where it is the rank."""
    for name, value in said.items():
        if value and name.endswith((".use_rslora", ".use_dora", ".alpha_pattern")):
            raise ValueError(f"{name}={value} is not supported")
    alphas = {net: said.get(f"{prefix}.lora_alpha") for net, prefix in HEADERS.items()}
    for net, alpha in alphas.items():
        if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float)):
            raise ValueError(f"{HEADERS[net]}.lora_alpha={alpha!r} must be a number")
    return alphas
