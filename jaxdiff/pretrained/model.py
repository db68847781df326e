"""A trained network, what stands at its ends, and what steers it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdiff.adapt.control import Control, with_controls
from jaxdiff.config import Config
from jaxdiff.denoise import denoiser, network
from jaxdiff.latent import Codec, Encoders, kl_codec, vq_codec
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.clip import CLIPConfig, TextConfig
from jaxdiff.text import encoder
from jaxdiff.text.encoder import TextEncoder
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.types import Apply, Denoiser


class Model(NamedTuple):
    """A trained network and what it was trained as.

    Attributes:
      config: of the run that it was trained in.
      params: its parameters, for a run the averaged ones (EMA), float32.
      about: where it came from: "model" or "run", "step", "weights" and "trained_on".
      parts: the models that stand at its ends, "codec" and "text", where there are such.
      tokenizer: with which it was trained, of a CLIP or its text transformer.
      controls: ControlNets that steer it.
    """

    config: Config
    params: Any
    about: dict[str, Any]
    parts: Mapping[str, "Model"] = {}
    tokenizer: Tokenizer | None = None
    controls: tuple[Control, ...] = ()

    @property
    def apply(self) -> Apply:
        """The network as a function of its `weights`; of a U-Net or a classifier."""
        return with_controls(network(self.config.make_net()), self.params, self.controls)[0]

    @property
    def weights(self) -> Any:
        """What `apply` takes: its parameters, and those of its ControlNets, see `adapt.control.add_control`."""
        return with_controls(network(self.config.make_net()), self.params, self.controls)[1]

    def denoiser(self) -> Denoiser:
        """The network as a `Denoiser`, a pytree.

        Raises:
          ValueError: it is none: a classifier, an autoencoder or a CLIP.
        """
        if self.config.classifies:
            raise ValueError("a classifier is no denoiser: its logits are model.apply(model.params, x_t, t)[0]")
        if not self.config.draws:
            raise ValueError(f"{self.config.name} is no denoiser: it is of {type(self.config.net).__name__}")
        return denoiser(self.apply, self.weights, self.config.diffusion.make_schedule(), self.config.diffusion.predict)

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
    def ends(self) -> Encoders:
        """What stands at the two ends of the network's diffusion."""
        return Encoders(self.codec, self.reads)


def _text_encoder(model: Model, skip: int) -> TextEncoder:
    model = text_of(model)
    if model.tokenizer is None:
        raise ValueError(f"{model.config.name} has lost its tokenizer: give the run or the file that it was trained to")
    return encoder.text_encoder(model.tokenizer, model.config.make_net(), model.params, skip)


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
