"""The models that a run works with and does not train: an autoencoder, a text transformer, a tokenizer."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from jaxdiff import pretrained
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.latent import Ends
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.clip import CLIPConfig
from jaxdiff.pretrained import Model
from jaxdiff.text import tokenizer
from jaxdiff.text.tokenizer import Tokenizer


class Parts(NamedTuple):
    """What a run works with and does not train.

    Attributes:
      models: as `Model.parts`: the autoencoder of a diffusion in latent space, the text transformer that reads for it.
      tokenizer: with which a CLIP is trained; None is none.
      ends: the models as functions.
      no_text: what an empty text is to the network [L, D]; None is nothing.
    """

    models: Mapping[str, Model] = {}
    tokenizer: Tokenizer | None = None
    ends: Ends = Ends()
    no_text: np.ndarray | None = None


def open_parts(config: Config, source: Source, run: epath.PathLike) -> Parts:
    """What a run works with: what it has kept, or, at its beginning, what its config names.

    Raises:
      ValueError, OSError: there is none, or it does not go with the network or the data.
    """
    models, words = pretrained.beside(run)
    if isinstance(config.net, CLIPConfig):
        return Parts(tokenizer=words or make_tokenizer(config, source))
    if "codec" not in models and config.latent.codec:
        models["codec"] = pretrained.load(config.latent.codec)
    if "text" not in models and config.latent.text:
        models["text"] = pretrained.text_of(pretrained.load(config.latent.text))
    if not models:
        return Parts()
    check(config, models)
    ends = Model(config, None, {}, models).ends
    return Parts(models, None, ends, np.asarray(ends.reads([""])[0]) if ends.reads else None)


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
        words = tokenizer.train((source[i]["caption"] for i in range(len(source))), cfg.vocabulary, cfg.length)
    if words.size > cfg.vocabulary or words.end != cfg.end_token:
        raise ValueError(
            f"the tokenizer has {words.size} tokens, its end being {words.end}: --net.text.vocabulary {words.size} "
            f"--net.text.end-token {words.end} would do, in place of {cfg.vocabulary} and {cfg.end_token}"
        )
    return words
