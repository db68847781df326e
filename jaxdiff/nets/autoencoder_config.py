"""The specification of the autoencoders of latent diffusion."""

import dataclasses
import math
from typing import ClassVar, Literal

from jaxdiff.arguments import check_own_types
from jaxdiff.nets.spec import NETS, NetSpec
from jaxdiff.nets.unet_config import UNetConfig


@NETS.register("autoencoder")
@dataclasses.dataclass(frozen=True)
class AutoencoderConfig(NetSpec):
    """Shape of an autoencoder. The defaults are Stable Diffusion's (83,653,863 parameters).

    Attributes:
      image_channels: channels of the image.
      channels: channels of each resolution, finest first; each must be divisible by `groups`.
      blocks: residual blocks per resolution of the encoder; the decoder has one more.
      latent_channels: channels of the latent.
      codebook_size: vectors of the codebook that latents are quantized to; 0 is a KL regularization instead.
      groups: groups of the group norms.
      mid_attention: self-attention at the bottom.
      patch: squares of this many pixels become channels at the entry (and back at the end); 1 is none.
      scaling_factor: by which a diffusion multiplies the latents, so that they are near unit variance; see `latent`.
      latents_mean: what a diffusion takes off the latents first, one number or one for each channel.
      latents_std: what it divides them by, likewise.
      quant_convs: 1x1 convolutions around the latents; without a codebook.
      dtype: of the computation; parameters, norms and softmax are float32.
      remat: see `UNetConfig`.
      attention_kernel: see `UNetConfig`.
    """

    image_channels: int = 3
    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    codebook_size: int = 0
    groups: int = 32
    mid_attention: bool = True
    patch: int = 1
    scaling_factor: float = 0.18215
    latents_mean: float | tuple[float, ...] = 0.0
    latents_std: float | tuple[float, ...] = 1.0
    quant_convs: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    attention_kernel: Literal["auto", "plain", "xla", "cudnn", "flash"] = "auto"

    role: ClassVar = "autoencoder"

    def __post_init__(self):
        check_own_types(self)
        if self.codebook_size < 0 or self.codebook_size == 1:
            raise ValueError(f"`codebook_size`={self.codebook_size} must be 0, or at least 2")
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels={self.channels} must be one number or more, each at least 1")
        if min(self.image_channels, self.latent_channels, self.patch, self.blocks) < 1:
            raise ValueError("image_channels, latent_channels, patch and blocks must be at least 1")
        if not 0 < self.scaling_factor < math.inf:
            raise ValueError(f"scaling_factor={self.scaling_factor} must be above 0 and finite")
        for name in ("latents_mean", "latents_std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.latent_channels:
                raise ValueError(
                    f"{name} has {len(value)} numbers, and must have {self.latent_channels}, one a channel"
                )
        means, stds = (x if isinstance(x, tuple) else (x,) for x in (self.latents_mean, self.latents_std))
        if not all(map(math.isfinite, means)):
            raise ValueError(f"latents_mean={self.latents_mean} must be finite")
        if not all(0 < std < math.inf for std in stds):
            raise ValueError(f"latents_std={self.latents_std} must be above 0 and finite")
        whitened = self.latents_mean != 0.0 or self.latents_std != 1.0
        if self.codebook_size and (whitened or not self.quant_convs):
            raise ValueError("latents_mean, latents_std and quant_convs are of autoencoders without a codebook")
        self.unet()  # which checks the others

    def make(self):
        if self.codebook_size:
            from jaxdiff.nets.vq_vae import VQAutoencoder

            return VQAutoencoder(self)
        from jaxdiff.nets.kl_vae import KLAutoencoder

        return KLAutoencoder(self)

    def check_image(self, shape: tuple[int, int, int]) -> None:
        self.latent_shape(shape)

    def check_platform(self, platform: str) -> None:
        self.unet().check_platform(platform)

    def without_kernels(self) -> "AutoencoderConfig":
        return dataclasses.replace(self, attention_kernel="plain")

    @property
    def factor(self) -> int:
        """Side of an image divided by that of its latent."""
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
