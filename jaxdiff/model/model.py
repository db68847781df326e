"""A trained model: its weights as arrays, and everything else about it as static structure."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxdiff import samplers
from jaxdiff.adapt.control import Control, with_controls
from jaxdiff.config import Config
from jaxdiff.denoise import denoiser, on_training_levels
from jaxdiff.latent import Codec, kl_codec, vq_codec
from jaxdiff.registry import Choice
from jaxdiff.schedules import Schedule
from jaxdiff.text import encoder
from jaxdiff.text.encoder import TextEncoder
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.timesteps import SPACINGS
from jaxdiff.types import Apply, Array, Denoiser

_static = {"static": True}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Provenance of a model.

    Attributes:
      name: name of its file or run.
      step: number of updates it was trained for.
      weights: "EMA", the averaged parameters; "published" of models of others.
      trained_on: its data source.
      run: directory of its run; None of a file.
    """

    name: str = ""
    step: int = 0
    weights: str = "EMA"
    trained_on: str = ""
    run: str | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model as a pytree: arrays are its leaves, the rest is static and hashable.

    Attributes:
      config: specification: network, process, latents, and defaults of sampling.
      params: parameters of the network, nested dicts; of a run the averaged ones (EMA).
      submodels: those that a latent diffusion model has of "codec", "text_encoder", "second_text_encoder" and
        "image_encoder".
      controls: ControlNets beside the network.
      tokenizer: tokenizer of a CLIP or of its text transformer; None of other models.
      origin: provenance.

    Example::

        >>> import jax, jaxdiff
        >>> model = jaxdiff.load("digits")
        >>> model.image_shape, model.config.net.num_classes
        ((28, 28, 1), 10)
        >>> half = jax.tree.map(lambda leaf: leaf / 2, model)  # a model again
        >>> half.config == model.config
        True
    """

    params: Any
    submodels: Mapping[str, "Model"] = dataclasses.field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    config: Config = dataclasses.field(default=Config(), metadata=_static)
    tokenizer: Tokenizer | None = dataclasses.field(default=None, metadata=_static)
    origin: Origin = dataclasses.field(default=Origin(), metadata=_static)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""
        return self.config.data.image_shape

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of x_t: of an image, or of the latent of one."""
        return self.config.shape

    @property
    def schedule(self) -> Schedule:
        """Noise schedule that it was trained with."""
        return self.config.diffusion.make_schedule()

    def levels(self, num_steps: int, spacing: str | Choice = "trailing") -> np.ndarray:
        """Returns a grid of levels from pure noise to clean data, int32 or float32 [num_steps + 1].

        Raises:
          ValueError: unknown spacing, or a number of steps for which there is no such grid.
        """
        return SPACINGS.choice(spacing)(self.schedule, num_steps)

    def noise(self, key: Array, num: int, level=None) -> Array:
        """Returns x_T of `num` images, float32 [num, *shape]; example i has the i-th key of `key`.

        N(0, 1), but for schedules that do not preserve the variance: see `Schedule.std`. With a level, x there.
        """
        std = self.schedule.std(self.schedule.num_levels if level is None else level)
        return std * samplers.noise(samplers.keys_for(key, num), self.shape)

    @property
    def apply(self) -> Apply:
        """The network as a function of `weights`; of a denoiser or a classifier."""
        return self.config.diffusion.scaled(self._controlled()[0])

    @property
    def weights(self) -> Any:
        """Parameters that `apply` takes: the network's, with those of its ControlNets."""
        return self._controlled()[1]

    def _controlled(self):
        network = self.config.diffusion.network
        return with_controls(network(self.config.make_net()), self.params, self.controls, network)

    @property
    def codec(self) -> Codec | None:
        """Encoder and decoder between images and latents: of an autoencoder, or of a latent diffusion model."""
        if self.config.role != "autoencoder":
            return self.submodels["codec"].codec if "codec" in self.submodels else None
        net, cfg = self.config.make_net(), self.config.net
        if cfg.codebook_size:
            return vq_codec(net, self.params, self.params["quantize"]["embedding"], cfg.scaling_factor)
        return kl_codec(net, self.params, cfg.scaling_factor, cfg.latents_mean, cfg.latents_std)

    @property
    def text_encoder(self) -> TextEncoder | None:
        """Text encoder of a text-to-image model, a CLIP or its text transformer; None of other models."""
        if "text_encoder" not in self.submodels:
            return _text_encoder(self) if self.config.role in ("clip", "text_encoder") else None
        L, both = self.config.latent, ("text_encoder", "second_text_encoder")
        found = [_text_encoder(self.submodels[n], L.skip_blocks, L.context_norm) for n in both if n in self.submodels]
        whole = encoder.side_by_side(*found, L.both_vectors) if len(found) > 1 else found[0]
        return encoder.padded(whole, self.config.net.context_dim, L.zero_tokens) if L.zero_tokens else whole

    def resized(self, width: int, height: int) -> "Model":
        """Returns the model for images of another size.

        Raises:
          ValueError: a size that its network or its autoencoder does not take.
        """
        image = (height, width, self.image_shape[-1])
        if min(width, height) < 1:
            raise ValueError(f"`size`={width}x{height} must be pixels: width and height")
        data, latent = dataclasses.replace(self.config.data, image_shape=image), self.config.latent
        try:
            if "codec" in self.submodels:
                latent = dataclasses.replace(latent, shape=self.submodels["codec"].config.net.latent_shape(image))
            config = dataclasses.replace(self.config, data=data, latent=latent)
            config.net.check_image(config.shape)
        except ValueError as error:
            latents = " (here of latents)" if latent.codec else ""
            raise ValueError(f"`size`={width}x{height} does not fit {self.config.name}: {error}{latents}") from None
        return self.replace(config=config)

    def __copy__(self):
        return self.replace()

    def __deepcopy__(self, memo):
        return self.replace(
            **{name: copy.deepcopy(getattr(self, name), memo) for name in ("params", "submodels", "controls")}
        )

    def __reduce__(self):
        raise TypeError("a Model cannot be pickled: jaxdiff.export writes it to a file, and jaxdiff.load reads it")

    def replace(self, **changes) -> "Model":
        """Returns the model with other values of some attributes."""
        return dataclasses.replace(self, **changes)


def check_model(model: Any, name: str = "model") -> None:
    """Raises TypeError for what is no `Model`, such as the name of one."""
    if not isinstance(model, Model):
        raise TypeError(f"`{name}` must be a Model, from jaxdiff.load, not {type(model).__name__}")


def check_denoiser(model: Any, name: str = "model") -> None:
    """Raises TypeError for what is no `Model`, and ValueError for one that no images are drawn from."""
    check_model(model, name)
    if not model.config.samples:
        raise ValueError(f"{model.config.name} is not a denoiser: its network is of kind {model.config.net.kind!r}")


def denoiser_of(model: Model, round_levels: bool = False) -> Denoiser:
    """Denoiser of a model, without guidance.

    Args:
      model: from `jaxdiff.load`.
      round_levels: see `jaxdiff.config.Compat`.

    Returns:
      `Denoiser`, a pytree: it can be an argument of jitted functions, which other weights do not compile anew.

    Raises:
      TypeError: no `Model`.
      ValueError: round_levels with a preconditioned network; the model is no denoiser but a classifier, an autoencoder or a
        CLIP.

    Example::

        >>> import jax, jaxdiff
        >>> model = jaxdiff.load("digits")
        >>> cond = jaxdiff.condition(model, labels=[7]).cond
        >>> jax.eval_shape(jaxdiff.denoiser_of(model), model.noise(jax.random.key(0), 1), 1000, cond).x0.shape
        (1, 28, 28, 1)
    """
    check_denoiser(model)
    if round_levels and (model.config.diffusion.sigma_data or model.config.net.takes_end):
        raise ValueError(
            "`round_levels` is not for a network that is preconditioned or takes the end of a step: leave it out"
        )
    apply = on_training_levels(model.apply) if round_levels else model.apply
    return denoiser(apply, model.weights, model.schedule, model.config.diffusion.predict)


def _text_encoder(model, skip=0, norm=True):
    model = text_transformer_of(model)
    if model.tokenizer is None:
        raise ValueError(f"{model.config.name} has lost its tokenizer: give the run or the file that it was trained to")
    return encoder.text_encoder(model.tokenizer, model.config.make_net(), model.params, skip, norm)


def text_transformer_of(model: Model) -> Model:
    """The text transformer of a CLIP, as a model of its own; a text transformer as it is.

    Raises:
      ValueError: the model is neither.
    """
    if model.config.role == "text_encoder":
        return model
    if model.config.role != "clip":
        raise ValueError(f"{model.config.name} has no text encoder: name a CLIP")
    config = dataclasses.replace(model.config, net=model.config.net.text)
    return model.replace(config=config, params=model.params["text_model"])
