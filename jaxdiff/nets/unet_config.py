"""Specifications of U-Nets, and of classifiers made of their encoders."""

import dataclasses
import math
from typing import ClassVar, Literal

from jaxdiff.arguments import check_own_types
from jaxdiff.nets.spec import NETS, DenoiserSpec


def at(value: int | tuple[int, ...], level: int) -> int:
    """A field's value at one resolution: the number for all, or the one of that position."""
    return value[level] if isinstance(value, tuple) else value


@NETS.register("unet")
@dataclasses.dataclass(frozen=True)
class UNetConfig(DenoiserSpec):
    """Shape of a `UNet`. The defaults are DDPM's for CIFAR-10 (35,746,307 parameters).

    Attributes:
      out_channels: channels of the output; twice the image's where the variance is learned.
      channels: channels of each resolution, finest first; each must be divisible by `groups`.
      blocks: residual blocks at each resolution on the way down (one more on the way up); one number for all, or one for
        each, as for the other fields that say so.
      attention: resolutions that have attention, as positions in `channels`.
      mid_attention: attention at the bottom.
      head_dim: channels per attention head; None is as `num_heads` says.
      num_heads: attention heads, where head_dim is None; one number for all resolutions, or one for each.
      context_dim: width of the context; above 0 every attention is a transformer, whose pixels also attend to the context.
      context_length: how many tokens of context there are; 0 is any number.
      transformer_blocks: in a row, in each transformer; one number for all resolutions, or one for each.
      linear_projection: whether a transformer begins and ends in linear layers, as in Stable Diffusion 2, or in 1x1
        convolutions, as in 1.
      image_channels: channels of the picture `Cond.image` that is concatenated to the noisy one; 0 is none.
      guidance_dim: size of the embedding of the guidance scale, of networks distilled to take it as a condition (Meng et
        al. 2023; latent consistency models); 0 is none.
      image_prompt_dim: width of the embedding of an image prompt, whose keys and values stand beside those of the context
        (IP-Adapter, Ye et al. 2023); 0 is none.
      image_prompt_tokens: tokens that an image prompt is projected to.
      groups: groups of the group norms.
      eps: of the group norms.
      dropout: rate inside the residual blocks, in [0, 1).
      patch: squares of this many pixels become channels at the entry (and back at the end); 1 is none.
      time_mode: "add" adds the time embedding in each block; "scale_shift" scales and shifts by it.
      context_mode: "add" adds the embedded label and vector to the time embedding; "multiply" multiplies each block by
        1 + a projection of them.
      num_classes: labels 0..num_classes - 1, num_classes being the null label; 0 is no label.
      vector_dim: size of the vector that conditions; 0 is none.
      takes_end: take `Cond.end`, for average velocities, see `objectives.mean_flow`.
      flip_sin_to_cos: cosines first in the time embedding.
      freq_shift: 1 in DDPM's time embedding, 0 in Stable Diffusion's.
      downsample_padding: zeros on each side before a strided convolution; 0 is one zero at the end only, as in DDPM.
      dtype: of the computation; parameters, norms and softmax are float32.
      remat: keep only the input of each residual block and attention for the backward pass, which computes the rest
        again: less memory, more time.
      attention_kernel: see `jaxdiff.nets.attention.attend`; "cudnn" needs a GPU and dtype "bfloat16", "flash" a TPU.
    """

    out_channels: int = 3
    channels: tuple[int, ...] = (128, 256, 256, 256)
    blocks: int | tuple[int, ...] = 2
    attention: tuple[int, ...] = (1,)
    mid_attention: bool = True
    head_dim: int | None = None
    num_heads: int | tuple[int, ...] = 1
    context_dim: int = 0
    context_length: int = 0
    transformer_blocks: int | tuple[int, ...] = 1
    linear_projection: bool = False
    image_channels: int = 0
    guidance_dim: int = 0
    image_prompt_dim: int = 0
    image_prompt_tokens: int = 4
    groups: int = 32
    eps: float = 1e-6
    dropout: float = 0.0
    patch: int = 1
    time_mode: Literal["add", "scale_shift"] = "add"
    context_mode: Literal["add", "multiply"] = "add"
    num_classes: int = 0
    vector_dim: int = 0
    takes_end: bool = False
    flip_sin_to_cos: bool = False
    freq_shift: float = 1.0
    downsample_padding: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    attention_kernel: Literal["auto", "plain", "xla", "cudnn", "flash"] = "auto"

    def __post_init__(self):
        check_own_types(self)
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels={self.channels} must be one number or more, each at least 1")
        if not math.isfinite(self.freq_shift):
            raise ValueError(f"freq_shift={self.freq_shift} must be a finite number")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps={self.eps} must be a finite number above 0")
        for name in ("blocks", "num_heads", "transformer_blocks"):
            value, depth = getattr(self, name), len(self.channels)
            if isinstance(value, tuple) and len(value) != depth:
                raise ValueError(f"{name}={value} must be one number, or one for each of the {depth} resolutions")
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.groups < 1 or (self.head_dim or 1) < 1:
            raise ValueError(f"groups={self.groups} and head_dim={self.head_dim} must be at least 1")
        if min(self.context_dim, self.context_length, self.image_channels, self.guidance_dim) < 0:
            raise ValueError("context_dim, context_length, image_channels and guidance_dim must be at least 0")
        if self.guidance_dim % 2 or self.guidance_dim == 2:
            raise ValueError(f"guidance_dim={self.guidance_dim} must be even and at least 4, or 0")
        if self.context_dim and not self.attention and not self.mid_attention:
            raise ValueError(f"context_dim={self.context_dim} is read by attention: add some, or leave it at 0")
        if self.image_prompt_dim and not self.context_dim:
            raise ValueError(f"image_prompt_dim={self.image_prompt_dim} is of networks with context_dim")
        if not self.context_dim and (self.context_length or self.transformer_blocks != 1 or self.linear_projection):
            raise ValueError(
                "context_length, transformer_blocks and linear_projection are of networks with context_dim"
            )
        if self.head_dim and self.num_heads != 1:
            raise ValueError(f"head_dim={self.head_dim} and num_heads={self.num_heads} both say it: leave one out")
        for level, c in enumerate(self.channels):
            if c % self.groups:
                common = math.gcd(*self.channels)
                fitting = max(g for g in range(1, self.groups + 1) if not common % g)
                raise ValueError(f"channels={c} cannot be divided into groups={self.groups}: groups={fitting} would do")
            if self.head_dim and c % self.head_dim:
                raise ValueError(f"channels={c} cannot be divided into heads of head_dim={self.head_dim}")
            if not self.head_dim and c % self.heads(level):
                raise ValueError(f"channels={c} cannot be divided into num_heads={self.heads(level)}")
        if not set(self.attention) <= set(range(len(self.channels))):
            raise ValueError(f"attention={self.attention} must name positions 0..{len(self.channels) - 1} in channels")
        if self.channels[0] % 2 or not 0 <= self.dropout < 1 or self.patch < 1:
            raise ValueError("channels[0] must be even, dropout in [0, 1), patch at least 1")
        if self.attention_kernel == "cudnn":
            self._check_cudnn()

    def _check_cudnn(self):
        if self.dtype != "bfloat16":
            raise ValueError(f"attention_kernel='cudnn' needs dtype='bfloat16', not {self.dtype!r}")
        sites = {*self.attention} | {len(self.channels) - 1} if self.mid_attention else {*self.attention}
        for dim in (self.channels[level] // self.heads(level) for level in sorted(sites)):
            if dim % 8 or dim > 256:
                raise ValueError(
                    f"attention_kernel='cudnn' needs a head_dim that is a multiple of 8 up to 256, not {dim}"
                )

    def make(self):
        from jaxdiff.nets.unet import UNet

        return UNet(self)

    def without_kernels(self) -> "UNetConfig":
        return dataclasses.replace(self, attention_kernel="plain")

    def label_embedding(self, params, label):
        from jaxdiff.nets.unet import label_embedding

        return label_embedding(params, label)

    def check_control(self) -> None:
        pass

    def heads(self, level: int) -> int:
        """Attention heads at the resolution of that position in `channels`."""
        return self.channels[level] // self.head_dim if self.head_dim else at(self.num_heads, level)

    def check_image(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless images [..., H, W, C] can be halved as often as this network does."""
        multiple = self.patch * 2 ** (len(self.channels) - 1)
        if shape[-3] % multiple or shape[-2] % multiple:
            raise ValueError(
                f"images of {shape[-3]}x{shape[-2]} do not fit a U-Net with {len(self.channels)} resolutions and "
                f"patch={self.patch}: both sides must be multiples of {multiple}"
            )


@NETS.register("classifier")
@dataclasses.dataclass(frozen=True)
class ClassifierConfig(UNetConfig):
    """Shape of a `Classifier` of noisy images: a U-Net's encoder and a head of `out_channels` classes."""

    role: ClassVar = "classifier"

    @property
    def classes(self) -> int:
        return self.out_channels

    def make(self):
        from jaxdiff.nets.classifier import Classifier

        return Classifier(self)
