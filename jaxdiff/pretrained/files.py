"""Models as files, and what a run keeps beside its checkpoints."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import traverse_util

from jaxdiff import config as configs
from jaxdiff.config import Config
from jaxdiff.files import write_whole
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.unet import UNetConfig
from jaxdiff.pretrained.model import Model
from jaxdiff.text import tokenizer
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.train import initial

ABOUT = ("step", "weights", "trained_on")
PARTS = ("codec", "text")


def beside(run: epath.PathLike) -> tuple[dict[str, Model], Tokenizer | None]:
    """The parts of a run's model, and the tokenizer, which `keep` has put beside its checkpoints."""
    run = epath.Path(run)
    parts = {name: read(path) for name in PARTS if (path := run / f"{name}.safetensors").exists()}
    path = run / "tokenizer.json"
    return parts, tokenizer.from_json(path.read_text()) if path.exists() else None


def kept_base(run: epath.PathLike) -> Model:
    """The copy of the model that a run adapts, with what stands at its ends.

    Raises:
      ValueError: the run has lost it.
    """
    latent = configs.read_run(run).latent
    needed = ["base", *(name for name in PARTS if getattr(latent, name))]
    lost = [f"{name}.safetensors" for name in needed if not (epath.Path(run) / f"{name}.safetensors").exists()]
    if lost:
        raise ValueError(f"{run} has lost its {' and '.join(lost)}, without which it cannot go on")
    return read(epath.Path(run) / "base.safetensors")._replace(parts=beside(run)[0])


def kept_prompts(run: epath.PathLike) -> list[str]:
    """What the images show that a run adapts its base to, as `keep` was told."""
    path = epath.Path(run) / "prompts.json"
    return json.loads(path.read_text()) if path.exists() else []


def keep(run: epath.PathLike, parts: Mapping[str, Model], words: Tokenizer | None, prompts: Sequence[str] = ()) -> None:
    """Puts the parts of a run's model, its tokenizer and its prompts beside its checkpoints; each whole or not at all."""
    if prompts:
        write_whole(epath.Path(run) / "prompts.json", json.dumps([*prompts]))
    for name, part in parts.items():
        write(epath.Path(run) / f"{name}.safetensors", part, "float32")
    if words is not None:
        write_whole(epath.Path(run) / "tokenizer.json", tokenizer.to_json(words))


def read(path: epath.PathLike) -> Model:
    """The model in a .safetensors file that `write` has written, with its parts.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is none, or not of this library, or its weights are not those of its config.
    """
    content = epath.Path(path).read_bytes()  # and not by path, which may be on gs://
    try:
        flat = {key: value.astype(np.float32) for key, value in safetensors.numpy.load(content).items()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no file of weights ({error})") from None
    header = 8 + int.from_bytes(content[:8], "little")  # its length, then JSON
    metadata = json.loads(content[8:header]).get("__metadata__", {})
    parts = {}
    for name, said in json.loads(metadata.get("parts", "{}")).items():
        own = {key.removeprefix(f"{name}:"): flat.pop(key) for key in list(flat) if key.startswith(f"{name}:")}
        parts[name] = _model(path, own, said)
    return _model(path, flat, metadata)._replace(parts=parts)


def _model(path, flat, metadata):
    """The model of such weights, by paths, that the metadata tells of.

    Raises:
      ValueError: as `read`.
    """
    if not {"config", "about"} <= set(metadata):
        raise ValueError(f"{path} does not say what network it is of: give a file that jaxdiff export has written")
    config = runs_here(configs.from_json(metadata["config"], where=f"the config in {path}"))
    like = traverse_util.flatten_dict(initial.weight_shapes(config), sep="/")
    wrong = [key for key in {**like, **flat} if getattr(like.get(key), "shape", None) != np.shape(flat.get(key))]
    if wrong:
        raise ValueError(f"{path} does not fit its own config: {len(wrong)} of its weights, the first being {wrong[0]}")
    said = json.loads(metadata["about"])
    if not isinstance(said, dict) or not set(ABOUT) <= set(said):
        raise ValueError(f"{path} does not say {', '.join(ABOUT)}: give a file that jaxdiff export has written")
    about = {"model": Path(path).stem} | {key: said[key] for key in ABOUT}
    words = tokenizer.from_json(metadata["tokenizer"]) if "tokenizer" in metadata else None
    return Model(config, traverse_util.unflatten_dict(flat, sep="/"), about, tokenizer=words)


def write(path: epath.PathLike, model: Model, dtype: str = "float16") -> None:
    """Writes a model as one .safetensors file, whole or not at all: weights, config, what it is, and its parts.

    Args:
      path: file to write.
      model: from `load`.
      dtype: of the weights in the file, "float16" or "float32".

    Raises:
      ValueError: weights that are too large for the dtype.
    """
    flat = traverse_util.flatten_dict(model.params, sep="/")
    for name, part in model.parts.items():
        flat |= {f"{name}:{key}": value for key, value in traverse_util.flatten_dict(part.params, sep="/").items()}
    with np.errstate(over="ignore"):  # of which is told below
        flat = {key: np.asarray(value).astype(dtype, order="C") for key, value in flat.items()}
    if not all(np.isfinite(value).all() for value in flat.values()):
        raise ValueError(f"some weights are not finite as {dtype}: choose float32")
    metadata = _metadata(model)
    if model.parts:
        metadata["parts"] = json.dumps({name: _metadata(part) for name, part in model.parts.items()})
    write_whole(path, safetensors.numpy.save(flat, metadata))


def _metadata(model):
    about = {key: model.about[key] for key in ABOUT}
    metadata = {"config": json.dumps(dataclasses.asdict(model.config)), "about": json.dumps(about)}
    return metadata | ({"tokenizer": tokenizer.to_json(model.tokenizer)} if model.tokenizer else {})


def runs_here(config: Config) -> Config:
    """The same with a program for attention that these devices have; the parameters know nothing of that."""
    net = config.net.unet() if isinstance(config.net, AutoencoderConfig) else config.net
    try:
        if isinstance(net, UNetConfig):
            net.check_platform(jax.default_backend())
    except ValueError:
        logging.getLogger("jaxdiff").info("attention is 'plain' here, and was %r in training", net.attention_kernel)
        return dataclasses.replace(config, net=dataclasses.replace(config.net, attention_kernel="plain"))
    return config
