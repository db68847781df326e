"""Models that a run uses and does not train: autoencoder, text encoder, base model; and a CLIP's tokenizer."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from jaxdiff import hosts
from jaxdiff.config import Config
from jaxdiff.data import Source
from jaxdiff.files import write_whole
from jaxdiff.latent import Codec
from jaxdiff.model import files, runs
from jaxdiff.model.loading import load as load_model
from jaxdiff.model.model import Model, text_transformer_of
from jaxdiff.text import encoder, tokenizer
from jaxdiff.text.encoder import TextEncoder
from jaxdiff.text.tokenizer import Tokenizer


class FrozenModels(NamedTuple):
    """Models that a run uses and does not train.

    Attributes:
      submodels: those of the model that is trained, see `Model.submodels`.
      tokenizer: tokenizer of a CLIP; None of other networks.
      codec: the autoencoder's encoder and decoder; None without.
      text_encoder: encoder of the captions; None without.
      empty_text: the empty text as the network's context [L, D], or its token ids [L]; None without.
      empty_vector: vector of the empty text, without the sizes that may stand behind it, [V]; None without.
      base: base model of an adaptation; None without.
    """

    submodels: Mapping[str, Model] = {}
    tokenizer: Tokenizer | None = None
    codec: Codec | None = None
    text_encoder: TextEncoder | None = None
    empty_text: np.ndarray | None = None
    empty_vector: np.ndarray | None = None
    base: Model | None = None

    @property
    def to_keep(self) -> Mapping[str, Model]:
        """The models of which a run keeps copies, by the names of the files."""
        kept = {runs.SUBMODELS[name]: model for name, model in self.submodels.items()}
        return kept | ({"base": self.base.replace(submodels={})} if self.base else {})


def open_models(
    config: Config, source: Source, run: epath.PathLike | None = None, base: Model | None = None
) -> FrozenModels:
    """Loads the frozen models that a config names; on resume, from the run directory.

    Args:
      config: config of the run.
      source: its examples.
      run: directory of a run that is resumed; None of a new one.
      base: base model of an adaptation, which brings its own.

    Raises:
      ValueError, OSError: one is missing, or does not go with the network or the data.
    """
    if base:
        return _of_base(config, base)
    if config.role == "clip":
        find = lambda: (run and runs.frozen_models(run)[1]) or make_tokenizer(config, source)
        return FrozenModels(tokenizer=hosts.together(find, "there is a tokenizer", timeout=3600))
    submodels = hosts.together(lambda: _kept(config, run), "the frozen models are read") if run else _named(config)
    if not submodels:
        return FrozenModels()
    check(config, submodels)
    whole = Model(config=config, params=None, submodels=submodels)
    return _with_functions(config, FrozenModels(submodels), whole.codec, whole.text_encoder)


def _kept(config, run):
    """The submodels that a run keeps; none where there is no run, which is refused later."""
    if not runs.holds_run(run):
        return {}
    runs.check_kept(run, config.latent)
    return runs.frozen_models(run)[0]


def _named(config):
    """The submodels that a config names."""
    L, submodels = config.latent, {}
    if L.codec:
        submodels["codec"] = _scaled(load(L.codec), L.scaling_factor)
    if L.text_encoder:
        submodels["text_encoder"] = text_transformer_of(load(L.text_encoder))
    return submodels


def _with_functions(config, frozen, codec, text_encoder):
    frozen = frozen._replace(codec=codec, text_encoder=text_encoder)
    if not text_encoder:
        return frozen
    tokens, vector = text_encoder.read([""])
    if config.latent.zero_empty_text:
        tokens, vector = jax.tree.map(np.zeros_like, (tokens, vector))
    if config.latent.second_text_encoder:
        frozen = frozen._replace(empty_vector=np.asarray(vector[0]))
    return frozen._replace(empty_text=np.asarray(tokens[0]))


def _of_base(config, base):
    """The frozen models of an adaptation.

    Raises:
      ValueError: new tokens without a text encoder, or that cannot be added to its vocabulary.
    """
    text_encoder = base.text_encoder
    if config.encodes_texts:
        if not text_encoder:
            raise ValueError(
                f"`base` {config.adapt.base} has no text encoder: leave out `new.tokens` and `text_encoder`"
            )
        words = tokenizer.with_new_tokens(text_encoder.tokenizer, config.adapt.new.tokens)
        text_encoder = encoder.tokens_only(text_encoder._replace(tokenizer=words))
    return _with_functions(config, FrozenModels(base.submodels, base=base), base.codec, text_encoder)


def load(name: str, placement=None) -> Model:
    """Loads a model in all processes; of a run they look for the newest checkpoint together."""
    if runs.holds_run(name):
        return load_model(name, placement=placement)
    return hosts.together(lambda: load_model(name, placement=placement), f"{name} is read")


def keep(run: epath.PathLike, frozen: FrozenModels, prompts: Sequence[str] = ()) -> None:
    """Writes copies of the frozen models, the tokenizer and the prompts into a run's directory."""
    run = epath.Path(run)
    if prompts:
        write_whole(run / "prompts.json", json.dumps([*prompts]))
    for name, model in frozen.to_keep.items():
        files.write(run / f"{name}.safetensors", model, "float32")
    if frozen.tokenizer is not None:
        write_whole(run / "tokenizer.json", tokenizer.to_json(frozen.tokenizer))


def _scaled(codec, factor):
    """The autoencoder with another scaling factor, if one is given."""
    if factor is None or codec.config.role != "autoencoder":
        return codec
    net = dataclasses.replace(codec.config.net, scaling_factor=factor)
    return codec.replace(config=dataclasses.replace(codec.config, net=net))


def check(config: Config, submodels: Mapping[str, Model]) -> None:
    """Refuses submodels that do not go with the network.

    Raises:
      ValueError: one line that says what to change.
    """
    L, net = config.latent, config.net
    if codec := submodels.get("codec"):
        if codec.config.role != "autoencoder":
            raise ValueError(f"`latent.codec` {L.codec} is not an autoencoder")
        shape = codec.config.net.latent_shape(config.data.image_shape)
        if tuple(shape) != tuple(L.shape):
            raise ValueError(
                f"`latent.codec` {L.codec} encodes images {config.data.image_shape} as latents {shape}, and `latent.shape` "
                f"is {L.shape}: change it, and `net.out_channels`, to fit"
            )
    if text := submodels.get("text_encoder"):
        cfg = text.config.net
        if net.context_dim != cfg.width or net.context_length not in (0, cfg.length):
            raise ValueError(
                f"`latent.text_encoder` {L.text_encoder} encodes texts as {cfg.length}x{cfg.width}, and the network takes "
                f"`net.context_length` {net.context_length} x `net.context_dim` {net.context_dim}: change them to fit"
            )
        if not 0 <= L.skip_blocks < cfg.layers:
            raise ValueError(
                f"`latent.skip_blocks`={L.skip_blocks} must be less than {cfg.layers}, the text encoder's number of blocks"
            )


def make_tokenizer(config: Config, source: Source) -> Tokenizer:
    """The tokenizer of a CLIP: a published one, or one that is trained on the captions.

    Raises:
      ValueError, OSError: it is missing, or has other tokens than the network.
    """
    cfg = config.net.text
    if config.data.tokenizer:
        words = tokenizer.load(config.data.tokenizer, cfg.length)
    else:
        words = tokenizer.train(source.captions(), cfg.vocabulary, cfg.length)
    if words.vocab_size > cfg.vocabulary or words.end_id != cfg.end_token:
        raise ValueError(
            f"the tokenizer has {words.vocab_size} tokens, its end being {words.end_id}: `net.text.vocabulary` "
            f"{words.vocab_size} `net.text.end_token` {words.end_id} would do, in place of {cfg.vocabulary} and "
            f"{cfg.end_token}"
        )
    return words
