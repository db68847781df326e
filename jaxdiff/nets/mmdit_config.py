"""Specification of transformers with joint attention of image and text."""

import dataclasses
from typing import Literal

from jaxdiff.arguments import check_own_types
from jaxdiff.nets.spec import NETS, DenoiserSpec


@NETS.register("mmdit")
@dataclasses.dataclass(frozen=True)
class MMDiTConfig(DenoiserSpec):
    """Shape of an `MMDiT`, which is sampled and not trained here. The defaults are those of Stable Diffusion 3.

    Attributes:
      out_channels: channels of the output.
      depth: blocks; the last one updates the image alone.
      heads: attention heads.
      head_dim: channels of a head; the width of the network is heads * head_dim.
      patch: squares of this many pixels are a token; both sides of an image must be multiples.
      context_dim: width of the context.
      context_length: how many tokens of context there are; 0 is any number.
      vector_dim: size of the vector, of whole texts.
      places: side, in patches, of the square of positions of which an image has the middle.
      base_places: side, in patches, of the images that positions are counted for.
      qk_norm: normalise queries and keys in each head.
      dual_attention: blocks, as positions from 0, in which the image also attends to itself alone (Stable Diffusion 3.5
        medium).
      dtype: of the computation; parameters, norms and softmax are float32.
      remat: keep only the input of each block for the backward pass, which computes the rest again.
      attention_kernel: see `jaxdiff.nets.attention.attend`.

    Example::

        >>> from jaxdiff.nets.mmdit_config import MMDiTConfig
        >>> MMDiTConfig().width
        1536
    """

    out_channels: int = 16
    depth: int = 24
    heads: int = 24
    head_dim: int = 64
    patch: int = 2
    context_dim: int = 4096
    context_length: int = 0
    vector_dim: int = 2048
    places: int = 192
    base_places: int = 64
    qk_norm: bool = False
    dual_attention: tuple[int, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    attention_kernel: Literal["auto", "plain", "xla", "cudnn", "flash"] = "auto"

    def __post_init__(self):
        check_own_types(self)
        numbers = ("out_channels", "depth", "heads", "head_dim", "patch", "context_dim", "vector_dim", "places")
        for name in (*numbers, "base_places"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.width % 4:
            raise ValueError(
                f"heads={self.heads} of head_dim={self.head_dim} channels must be a multiple of 4 together"
            )
        if self.context_length < 0:
            raise ValueError(f"context_length={self.context_length} must be at least 0")
        if not all(0 <= i < self.depth for i in self.dual_attention):
            raise ValueError(f"dual_attention={self.dual_attention} must name blocks 0..{self.depth - 1}")
        if self.attention_kernel == "cudnn" and self.dtype != "bfloat16":
            raise ValueError(f"attention_kernel='cudnn' needs dtype='bfloat16', not {self.dtype!r}")

    @property
    def width(self) -> int:
        """Channels of each token."""
        return self.heads * self.head_dim

    def make(self):
        from jaxdiff.nets.mmdit import MMDiT

        return MMDiT(self)

    def without_kernels(self) -> "MMDiTConfig":
        return dataclasses.replace(self, attention_kernel="plain")

    def check_attention_edits(self) -> None:
        raise ValueError(
            "joint attention of image and text has no cross-attention that could be edited: choose the `method` sdedit, "
            "inpaint or ddib"
        )

    def check_image(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless images [..., H, W, C] are whole patches, and no more than there are positions."""
        height, width = shape[-3:-1]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images of {height}x{width} do not fit patches of {self.patch}x{self.patch}: both sides must be multiples"
            )
        if max(height, width) > self.places * self.patch:
            raise ValueError(
                f"images of {height}x{width} are larger than the {self.places * self.patch} that have positions"
            )
