"""Specifications of networks: the shape of each as data, and the questions that the rest of the package asks of it."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from jaxdiff.registry import Choice, Registry
from jaxdiff.types import Cond

NETS = Registry("network")

Role = Literal["denoiser", "classifier", "autoencoder", "clip", "text_encoder", "image_encoder"]


@dataclasses.dataclass(frozen=True)
class NetSpec(Choice):
    """Base of the specifications: frozen dataclasses, registered in `NETS`, that make a flax module.

    Attributes:
      role: "denoiser" if images are sampled from it, "classifier" of noisy images, "autoencoder", "clip", or
        "text_encoder".
      classes: number of labels that it is conditioned on, or tells apart; 0 without labels.
    """

    role: ClassVar[Role] = "denoiser"

    @property
    def classes(self) -> int:
        return 0

    def make(self):
        """Returns the flax module."""
        raise NotImplementedError

    def example(self, shape: tuple[int, int, int]) -> tuple:
        """Arguments of the module for one example, for initialisation.

        Args:
          shape: height, width and channels of the images, or of the latents of a latent diffusion.
        """
        return (np.zeros((1, *shape), np.float32),)

    def check_image(self, shape: tuple[int, int, int]) -> None:
        """Raises ValueError unless the network takes images of this shape."""

    def check_platform(self, platform: str) -> None:
        """Raises ValueError unless the network runs on such devices, named as `jax.default_backend()` names them."""

    def without_kernels(self) -> "NetSpec":
        """Returns the same network, computed by programs that every platform has."""
        return self

    def in_dtype(self, dtype: str) -> "NetSpec":
        """Returns the same network, computing in `dtype`, "float32" or "bfloat16"."""
        fields = {field.name for field in dataclasses.fields(self)}
        return dataclasses.replace(self, dtype=dtype) if "dtype" in fields else self


@dataclasses.dataclass(frozen=True)
class DenoiserSpec(NetSpec):
    """Base of the specifications of networks (x_t [B, H, W, C], time [B], `Cond`, keys) -> [B, H, W, out_channels].

    A subclass declares those of these that it supports as fields.

    Attributes:
      out_channels: channels of the output; twice the image's where a variance is learned.
      num_classes: labels 0..num_classes - 1, num_classes being the null label; 0 without labels.
      vector_dim: size of `Cond.vector`; 0 without.
      context_dim: width of `Cond.context`; 0 without.
      context_length: tokens of the context; 0 is any number.
      image_channels: channels of `Cond.image`; 0 without.
      guidance_dim: size of the embedding of `Cond.guidance`; 0 without.
      image_prompt_dim: width of `Cond.image_prompt`; 0 without.
      takes_end: whether it takes `Cond.end`.
      attention_kernel: see `jaxdiff.nets.attention.attend`.
    """

    # Not annotated: the order of fields is the subclass's.
    num_classes = 0
    vector_dim = 0
    context_dim = 0
    context_length = 0
    image_channels = 0
    guidance_dim = 0
    image_prompt_dim = 0
    takes_end = False
    attention_kernel = "plain"

    @property
    def classes(self) -> int:
        return self.num_classes

    @property
    def null_label(self) -> int | None:
        """The unconditional label; None without labels."""
        return self.num_classes or None

    def learns_variance(self, channels: int) -> bool:
        """Whether the network also predicts a variance of images of so many channels."""
        return self.out_channels == 2 * channels

    def label_embedding(self, params, label):
        """Returns embeddings of labels, [B, D], that the network takes in their place; None where it takes none."""
        return None

    def check_platform(self, platform: str) -> None:
        """Raises ValueError unless this network runs on such devices, named as `jax.default_backend()` names them."""
        for kernel, devices, platforms in (("cudnn", "GPUs", ("gpu", "cuda")), ("flash", "TPUs", ("tpu",))):
            if self.attention_kernel == kernel and platform not in platforms:
                raise ValueError(
                    f"attention_kernel={kernel!r} runs on {devices} only and this is a {platform.upper()}: choose 'auto'"
                )

    def check_attention_edits(self) -> None:
        """Raises ValueError unless the network has attention to the words of a text that can be edited."""

    def check_control(self) -> None:
        """Raises ValueError unless the network takes the residuals of a ControlNet."""
        raise ValueError(f"a ControlNet is a copy of half a U-Net, and this network is of kind {self.kind!r}")

    def example(self, shape: tuple[int, int, int]) -> tuple:
        context = (1, self.context_length or 1, self.context_dim)
        cond = Cond(
            label=np.zeros(1, np.int32) if self.num_classes else None,
            vector=np.zeros((1, self.vector_dim), np.float32) if self.vector_dim else None,
            context=np.zeros(context, np.float32) if self.context_dim else None,
            image=np.zeros((1, *shape[:2], self.image_channels), np.float32) if self.image_channels else None,
            guidance=np.ones(1, np.float32) if self.guidance_dim else None,
            image_prompt=np.zeros((1, self.image_prompt_dim), np.float32) if self.image_prompt_dim else None,
            image_prompt_scale=np.ones(1, np.float32) if self.image_prompt_dim else None,
        )
        return np.zeros((1, *shape), np.float32), np.zeros(1, np.int32), cond
