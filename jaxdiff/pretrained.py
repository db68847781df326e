"""Trained models: those that ship with the package, by name; files of weights; and runs."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import traverse_util

from jaxdiff import config as configs
from jaxdiff.config import Config
from jaxdiff.denoise import denoiser, network
from jaxdiff.errors import unknown
from jaxdiff.latent import Codec, Ends, kl_codec, vq_codec
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.clip import CLIPConfig, TextConfig
from jaxdiff.nets.unet import UNetConfig
from jaxdiff.text import encode, tokenizer
from jaxdiff.text.encode import TextEncoder
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.train import checkpoint, initial, rundir
from jaxdiff.types import Apply, Denoiser

SHIPPED = Path(__file__).parent / "weights"
ABOUT = ("step", "weights", "trained_on")
PARTS = ("codec", "text")


class Model(NamedTuple):
    """A trained network and what it was trained as.

    Attributes:
      config: of the run that it was trained in.
      params: its parameters, for a run the averaged ones (EMA), float32.
      about: where it came from: "model" or "run", "step", "weights" and "trained_on".
      parts: the models that stand at its ends, "codec" and "text", where there are such.
      tokenizer: with which it was trained, of a CLIP or its text transformer.
    """

    config: Config
    params: Any
    about: dict[str, Any]
    parts: Mapping[str, "Model"] = {}
    tokenizer: Tokenizer | None = None

    @property
    def apply(self) -> Apply:
        """The network as a function of its parameters; of a U-Net or a classifier."""
        return network(self.config.make_net())

    def denoiser(self) -> Denoiser:
        """The network as a `Denoiser`, a pytree.

        Raises:
          ValueError: it is none: a classifier, an autoencoder or a CLIP.
        """
        if self.config.classifies:
            raise ValueError("a classifier is no denoiser: its logits are model.apply(model.params, x_t, t)[0]")
        if not self.config.draws:
            raise ValueError(f"{self.config.name} is no denoiser: it is of {type(self.config.net).__name__}")
        return denoiser(self.apply, self.params, self.config.diffusion.make_schedule(), self.config.diffusion.predict)

    @property
    def codec(self) -> Codec | None:
        """From images to latents and back: of an autoencoder, or of a diffusion in latent space; None of others."""
        if not isinstance(self.config.net, AutoencoderConfig):
            return self.parts["codec"].codec if "codec" in self.parts else None
        net, factor = self.config.make_net(), self.config.net.scaling_factor
        if self.config.reconstruction.words:
            return vq_codec(net, self.params, self.params["quantize"]["embedding"], factor)
        return kl_codec(net, self.params, factor)

    @property
    def reads(self) -> TextEncoder | None:
        """From texts to contexts: of a network that reads texts, or of the CLIP that it reads them by; None of others."""
        if "text" in self.parts:
            return _text_encoder(self.parts["text"], self.config.latent.skip)
        return _text_encoder(self, 0) if isinstance(self.config.net, CLIPConfig | TextConfig) else None

    @property
    def ends(self) -> Ends:
        """What stands at the two ends of the network's diffusion."""
        return Ends(self.codec, self.reads)


def _text_encoder(model: Model, skip: int) -> TextEncoder:
    model = text_of(model)
    if model.tokenizer is None:
        raise ValueError(f"{model.config.name} has lost its tokenizer: give the run or the file that it was trained to")
    return encode.encoder(model.tokenizer, model.config.make_net(), model.params, skip)


def text_of(model: Model) -> Model:
    """The text transformer of a CLIP, or what is one already.

    Raises:
      ValueError: it is neither.
    """
    if isinstance(model.config.net, TextConfig):
        return model
    if not isinstance(model.config.net, CLIPConfig):
        raise ValueError(f"{model.config.name} reads no texts: name a CLIP")
    config = dataclasses.replace(model.config, net=model.config.net.text)
    return model._replace(config=config, params=model.params["text_model"])


def names() -> list[str]:
    """The models that ship with the package.

    Example::

        >>> from jaxdiff import pretrained
        >>> "digits" in pretrained.names()
        True
    """
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def load(name: str) -> Model:
    """A trained model.

    Args:
      name: a directory that `jaxdiff train` has written, also gs://bucket/run, which is looked for first; a .safetensors
        file that `jaxdiff export` has written; or one of `names()`.

    Returns:
      `Model`.

    Raises:
      ValueError: there is none of that name, or the file holds none.
      OSError: a run without a checkpoint that can be read.

    Example::

        >>> import jax, jaxdiff
        >>> model = jaxdiff.pretrained.load("digits")
        >>> model.config.data.image_shape, model.config.net.num_classes
        ((28, 28, 1), 10)
        >>> x_t = jax.random.normal(jax.random.key(0), [1, 28, 28, 1])
        >>> seven = jaxdiff.Cond(label=jax.numpy.array([7]), vector=jax.numpy.zeros([1, 6]))
        >>> jax.eval_shape(model.denoiser(), x_t, 1000, seven).x0.shape
        (1, 28, 28, 1)
    """
    if (epath.Path(name) / "config.json").exists():
        return _of_run(epath.Path(name))
    if name.endswith(".safetensors"):
        return read(name)
    if name in names():
        return read(SHIPPED / f"{name}.safetensors")
    if epath.Path(name).exists() or "/" in name:
        configs.read_run(name)  # which says what is missing
    raise unknown("model", name, names())


def _of_run(run: epath.Path) -> Model:
    config, where = runs_here(configs.read_run(run)), rundir.checkpoints(run)
    if config.reconstruction.words:  # of which there is no average
        found = checkpoint.restore(where, initial.state_shapes(config))
        ema, extra = found.tree.ema, found.tree.extra
    else:
        found = checkpoint.restore_ema(where, initial.param_shapes(config))
        ema, extra = found.tree, ()
    about = {"run": str(run), "step": found.step, "weights": "EMA", "trained_on": config.data.source}
    return Model(config, initial.weights(config, ema, extra), about, *beside(run))


def beside(run: epath.PathLike) -> tuple[dict[str, Model], Tokenizer | None]:
    """The parts of a run's model, and the tokenizer, which `keep` has put beside its checkpoints."""
    run = epath.Path(run)
    parts = {name: read(path) for name in PARTS if (path := run / f"{name}.safetensors").exists()}
    path = run / "tokenizer.json"
    return parts, tokenizer.from_json(path.read_text()) if path.exists() else None


def keep(run: epath.PathLike, parts: Mapping[str, Model], words: Tokenizer | None) -> None:
    """Puts the parts of a run's model, and its tokenizer, beside its checkpoints; each whole or not at all."""
    for name, part in parts.items():
        write(unfinished := epath.Path(run) / f"{name}.tmp", part, "float32")
        unfinished.replace(epath.Path(run) / f"{name}.safetensors")
    if words is not None:
        (unfinished := epath.Path(run) / "tokenizer.tmp").write_text(tokenizer.to_json(words))
        unfinished.replace(epath.Path(run) / "tokenizer.json")


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
    """Writes a model as one .safetensors file: weights, config, what it is, and its parts.

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
    epath.Path(path).write_bytes(safetensors.numpy.save(flat, metadata))


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
