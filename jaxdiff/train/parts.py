"""The models that a run works with and does not train: an autoencoder, a text transformer, a tokenizer."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from jaxdiff import pretrained
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.latent import Encoders
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.clip import CLIPConfig
from jaxdiff.pretrained import Model
from jaxdiff.text import encoder, tokenizer
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.train import hosts


class Parts(NamedTuple):
    """What a run works with and does not train.

    Attributes:
      models: as `Model.parts`: the autoencoder of a diffusion in latent space, the text transformer that reads for it.
      tokenizer: with which a CLIP is trained; None is none.
      ends: the models as functions.
      no_text: what an empty text is to the network [L, D], or its tokens [L]; None is nothing.
      base: the model that is adapted; None is none.
    """

    models: Mapping[str, Model] = {}
    tokenizer: Tokenizer | None = None
    ends: Encoders = Encoders()
    no_text: np.ndarray | None = None
    base: Model | None = None

    @property
    def kept(self) -> Mapping[str, Model]:
        """The models that a run keeps copies of."""
        return {**self.models, "base": self.base._replace(parts={})} if self.base else self.models


def open_parts(config: Config, source: Source, run: epath.PathLike | None = None, base: Model | None = None) -> Parts:
    """What a run works with: what its config names, or, where it is gone on with, what it has kept.

    Args:
      config: of the run.
      source: its examples.
      run: the directory of one that is gone on with; None at its beginning.
      base: the model that is adapted, which brings what stands at its ends; None is none.

    Raises:
      ValueError, OSError: there is none, or it does not go with the network or the data.
    """
    if base:
        return of_base(config, base)
    models, words = hosts.together(lambda: pretrained.beside(run), "what was kept is read") if run else ({}, None)
    if isinstance(config.net, CLIPConfig):
        words = hosts.together(lambda: words or make_tokenizer(config, source), "there is a tokenizer", timeout=3600)
        return Parts(tokenizer=words)
    L = config.latent
    lost = [f"{name}.safetensors" for name in pretrained.PARTS if getattr(L, name) and name not in models]
    if run and lost and (epath.Path(run) / "config.json").exists():
        raise ValueError(f"{run} has lost its {' and '.join(lost)}, without which it cannot go on")
    if run is None and L.codec:
        models["codec"] = _scaled(load(L.codec), L.factor)
    if run is None and L.text:
        models["text"] = pretrained.text_of(load(L.text))
    if not models:
        return Parts()
    check(config, models)
    ends = Model(config, None, {}, models).ends
    return Parts(models, None, ends, np.asarray(ends.text_encoder([""])[0]) if ends.text_encoder else None)


def of_base(config: Config, base: Model) -> Parts:
    """What a run that adapts a model works with: what stands at the ends of that one.

    Raises:
      ValueError: new words that cannot be, or that nothing reads.
    """
    ends, new = base.ends, config.adapt.words
    if config.adapt.reads:
        if not ends.text_encoder:
            raise ValueError(f"--base {config.adapt.base} reads no texts: leave out --adapt.words and --adapt.text")
        reads = ends.text_encoder._replace(tokenizer=tokenizer.with_new_tokens(ends.text_encoder.tokenizer, new))
        ends = ends._replace(text_encoder=encoder.tokens_only(reads))
    no_text = np.asarray(ends.text_encoder([""])[0]) if ends.text_encoder else None
    return Parts(base.parts, None, ends, no_text, base)


def load(name):
    """A model, in all processes; of a run they look for the newest checkpoint together."""
    if (epath.Path(name) / "config.json").exists():
        return pretrained.load(name)
    return hosts.together(lambda: pretrained.load(name), f"{name} is read")


def _scaled(codec, factor):
    """The autoencoder with another scaling factor, if one is given."""
    if factor is None or not isinstance(codec.config.net, AutoencoderConfig):
        return codec
    net = dataclasses.replace(codec.config.net, scaling_factor=factor)
    return codec._replace(config=dataclasses.replace(codec.config, net=net))


def check(config: Config, models: Mapping[str, Model]) -> None:
    """Refuses models that do not go with the network.

    Raises:
      ValueError: one line that says what to change.
    """
    L, net = config.latent, config.net
    if codec := models.get("codec"):
        if not isinstance(codec.config.net, AutoencoderConfig):
            raise ValueError(f"--latent.codec {L.codec} is no autoencoder")
        shape = codec.config.net.latent_shape(config.data.image_shape)
        if tuple(shape) != tuple(L.shape):
            raise ValueError(
                f"--latent.codec {L.codec} makes latents {shape} of images {config.data.image_shape}, and --latent.shape "
                f"is {L.shape}: change it, and --net.out-channels, to fit"
            )
    if text := models.get("text"):
        cfg = text.config.net
        if net.context_dim != cfg.width or net.context_length not in (0, cfg.length):
            raise ValueError(
                f"--latent.text {L.text} says texts as {cfg.length}x{cfg.width}, and the network reads "
                f"--net.context-length {net.context_length} x --net.context-dim {net.context_dim}: change them to fit"
            )
        if not 0 <= L.skip < cfg.layers:
            raise ValueError(f"--latent.skip={L.skip} must leave some of the {cfg.layers} blocks of --latent.text")


def make_tokenizer(config: Config, source: Source) -> Tokenizer:
    """The tokenizer that a CLIP is trained with: a published one, or one that is learned from the captions.

    Raises:
      ValueError, OSError: it is not there, or has other tokens than the network.
    """
    cfg = config.net.text
    if config.data.tokenizer:
        words = tokenizer.load(config.data.tokenizer, cfg.length)
    else:
        texts = [source.caption(i) for i in range(len(source))]
        words = tokenizer.train(texts, cfg.vocabulary, cfg.length)
    if words.vocab_size > cfg.vocabulary or words.end_id != cfg.end_token:
        raise ValueError(
            f"the tokenizer has {words.vocab_size} tokens, its end being {words.end_id}: --net.text.vocabulary "
            f"{words.vocab_size} --net.text.end-token {words.end_id} would do, in place of {cfg.vocabulary} and "
            f"{cfg.end_token}"
        )
    return words
