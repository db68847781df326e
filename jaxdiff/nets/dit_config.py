"""Specification of diffusion transformers."""

import dataclasses
import math
from typing import Literal

from jaxdiff.arguments import check_own_types
from jaxdiff.nets.spec import NETS, DenoiserSpec

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}  # width, depth, heads


@NETS.register("dit")
@dataclasses.dataclass(frozen=True)
class DiTConfig(DenoiserSpec):
    """Shape of a `DiT`. The defaults are DiT-S/2 for latents of four channels, without labels.

    Attributes:
      out_channels: channels of the output; twice the image's where the variance is learned.
      width: channels of each token.
      depth: blocks.
      heads: attention heads; they divide the width.
      patch: squares of this many pixels are a token; both sides of an image must be multiples.
      mlp_ratio: width inside of the feed-forward layers, in widths.
      num_classes: labels 0..num_classes - 1, num_classes being the null label; 0 is no label.
      vector_dim: size of the vector that conditions; 0 is none.
      context_dim: width of the context, which each block attends to (PixArt-alpha, Chen et al. 2023); 0 is none.
      context_length: how many tokens of context there are; 0 is any number.
      takes_end: take `Cond.end`, for average velocities, see `objectives.mean_flow`.
      positions: "sin_cos", fixed waves added to the tokens; or "rotary", by which queries and keys are turned, half of each
        head's channels by the row and half by the column (Su et al. 2021).
      qk_norm: normalise queries and keys in each head.
      eps: of the norm before the feed-forward layers; the others have 1e-6.
      dropout: rate inside of the feed-forward layers, in [0, 1).
      dtype: of the computation; parameters, norms and softmax are float32.
      remat: keep only the input of each block for the backward pass, which computes the rest again.
      attention_kernel: see `jaxdiff.nets.attention.attend`.

    Example::

        >>> from jaxdiff.nets.dit_config import dit
        >>> config = dit("XL", patch=2, out_channels=8, num_classes=1000)  # of 32x32x4 latents, with a learned variance
        >>> config.width, config.depth
        (1152, 28)
    """

    out_channels: int = 4
    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 2
    mlp_ratio: float = 4.0
    num_classes: int = 0
    vector_dim: int = 0
    context_dim: int = 0
    context_length: int = 0
    takes_end: bool = False
    positions: Literal["sin_cos", "rotary"] = "sin_cos"
    qk_norm: bool = False
    eps: float = 1e-6
    dropout: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    attention_kernel: Literal["auto", "plain", "xla", "cudnn", "flash"] = "auto"

    def __post_init__(self):
        check_own_types(self)
        for name in ("width", "depth", "heads", "patch", "mlp_ratio", "eps"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name}={value} must be above 0 and finite")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}, and of 4")
        if self.positions == "rotary" and (self.width // self.heads) % 4:
            raise ValueError(f"heads of {self.width // self.heads} channels cannot be turned: a multiple of 4 can")
        if min(self.num_classes, self.vector_dim, self.context_dim, self.context_length) < 0:
            raise ValueError("num_classes, vector_dim, context_dim and context_length must be at least 0")
        if self.context_length and not self.context_dim:
            raise ValueError(f"context_length={self.context_length} is of networks with context_dim")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")
        if self.attention_kernel == "cudnn" and self.dtype != "bfloat16":
            raise ValueError(f"attention_kernel='cudnn' needs dtype='bfloat16', not {self.dtype!r}")

    def make(self):
        from jaxdiff.nets.dit import DiT

        return DiT(self)

    def without_kernels(self) -> "DiTConfig":
        return dataclasses.replace(self, attention_kernel="plain")

    def label_embedding(self, params, label):
        from jaxdiff.nets.unet import label_embedding

        return label_embedding(params, label)

    def check_image(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless images [..., H, W, C] are whole patches."""
        if shape[-3] % self.patch or shape[-2] % self.patch:
            raise ValueError(
                f"images of {shape[-3]}x{shape[-2]} do not fit patches of {self.patch}x{self.patch}: both sides must be "
                "multiples"
            )


def dit(size: Literal["S", "B", "L", "XL"], patch: int = 2, **fields) -> DiTConfig:
    """A specification of the sizes of Peebles and Xie 2022, table 1.

    Args:
      size: "S", "B", "L" or "XL".
      patch: side of a patch; DiT-XL/2 is of 2.
      **fields: others of `DiTConfig`.

    Raises:
      KeyError: another size.

    Example::

        >>> from jaxdiff.nets.dit_config import dit
        >>> dit("B", patch=4).heads
        12
    """
    width, depth, heads = SIZES[size]
    return DiTConfig(width=width, depth=depth, heads=heads, patch=patch, **fields)
