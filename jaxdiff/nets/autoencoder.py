"""The convolutional encoder and decoder of latent diffusion (Rombach et al. 2022; Esser et al. 2021, VQGAN).

They are a U-Net's way down and way up without time and without what crosses over.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn

from jaxdiff.nets.layers import Conv, GroupNorm, depth_to_space, space_to_depth
from jaxdiff.nets.unet import DownBlock, MidBlock, Told, UpBlock
from jaxdiff.nets.unet_config import UNetConfig
from jaxdiff.types import Array


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of an autoencoder. The defaults are Stable Diffusion's (83,653,863 parameters).

    Attributes:
      image_channels: channels of the image.
      channels: channels of each resolution, finest first; each must be divisible by `groups`.
      blocks: residual blocks per resolution of the encoder; the decoder has one more.
      latent_channels: channels of the latent.
      groups: groups of the group norms.
      mid_attention: self-attention at the bottom.
      patch: squares of this many pixels become channels at the entry (and back at the end); 1 is none.
      scaling_factor: by which a diffusion multiplies the latents, so that they are near unit variance; see `latent`.
      dtype: of the computation; parameters, norms and softmax are float32.
      remat: see `UNetConfig`.
      attention_kernel: see `UNetConfig`.
    """

    image_channels: int = 3
    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    groups: int = 32
    mid_attention: bool = True
    patch: int = 1
    scaling_factor: float = 0.18215
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    attention_kernel: Literal["plain", "xla", "cudnn"] = "plain"

    def __post_init__(self):
        if min(self.image_channels, self.latent_channels, self.patch, self.blocks) < 1:
            raise ValueError("image_channels, latent_channels, patch and blocks must be at least 1")
        if not self.scaling_factor > 0:
            raise ValueError(f"scaling_factor={self.scaling_factor} must be above 0")
        self.unet()  # which checks the others

    @property
    def factor(self) -> int:
        """How many pixels a side of the image has for each of the latent's."""
        return self.patch * 2 ** (len(self.channels) - 1)

    def latent_shape(self, image: tuple[int, ...]) -> tuple[int, int, int]:
        """Shape of the latent of an image [..., H, W, C].

        Raises:
          ValueError: an image of other channels, or one that cannot be divided.
        """
        H, W, C = image[-3:]
        if C != self.image_channels:
            raise ValueError(f"this autoencoder is of images of {self.image_channels} channels, and these have {C}")
        if H % self.factor or W % self.factor:
            raise ValueError(f"this autoencoder divides sides by {self.factor}, which images of {H}x{W} do not allow")
        return H // self.factor, W // self.factor, self.latent_channels

    def unet(self) -> UNetConfig:
        """The same shape in the words of the blocks that a U-Net is made of."""
        return UNetConfig(
            channels=self.channels,
            blocks=self.blocks,
            attention=(),
            mid_attention=self.mid_attention,
            groups=self.groups,
            patch=self.patch,
            dtype=self.dtype,
            remat=self.remat,
            attention_kernel=self.attention_kernel,
        )


class ImageEncoder(nn.Module):
    """Images [B, H, W, C] -> [B, h, w, features], the sides divided by `config.factor`."""

    config: AutoencoderConfig
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        self.config.latent_shape(x.shape)
        cfg, dtype, depth = self.config.unet(), jnp.dtype(self.config.dtype), len(self.config.channels)
        x = Conv(cfg.channels[0], dtype=dtype, name="conv_in")(space_to_depth(x, cfg.patch))
        for i, features in enumerate(cfg.channels):
            x, _ = DownBlock(features, False, i == depth - 1, cfg, name=f"down_blocks_{i}")(x, Told())
        x = MidBlock(cfg.channels[-1], cfg, name="mid_block")(x, Told())
        x = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="conv_norm_out")(x))
        return Conv(self.features, dtype=dtype, name="conv_out")(x)


class ImageDecoder(nn.Module):
    """Latents [B, h, w, latent_channels] -> float32 images [B, H, W, C]."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, z: Array) -> Array:
        cfg, dtype, depth = self.config.unet(), jnp.dtype(self.config.dtype), len(self.config.channels)
        x = Conv(cfg.channels[-1], dtype=dtype, name="conv_in")(z)
        x = MidBlock(cfg.channels[-1], cfg, name="mid_block")(x, Told())
        for i, features in enumerate(cfg.channels[::-1]):
            x = UpBlock(features, False, i == depth - 1, cfg, name=f"up_blocks_{i}")(x, None, Told())
        x = nn.silu(GroupNorm(cfg.groups, cfg.eps, dtype, name="conv_norm_out")(x))
        x = Conv(self.config.image_channels * cfg.patch**2, dtype=dtype, name="conv_out")(x)
        return depth_to_space(x, cfg.patch).astype(jnp.float32)
