"""Specifications of CLIP and its two transformers."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from jaxdiff.arguments import check_own_types
from jaxdiff.nets.spec import NETS, NetSpec

PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's, of [0, 1]

STEM_GROUPS = 8  # of the group norms between the convolutions of a stem


def _check_tower(config):
    if min(config.width, config.layers, config.heads) < 1 or config.width % config.heads:
        raise ValueError(f"width={config.width} must be a multiple of heads={config.heads}, and layers at least 1")


@NETS.register("text_encoder")
@dataclasses.dataclass(frozen=True)
class TextConfig(NetSpec):
    """Shape of a text transformer. The defaults are those of OpenAI's ViT-L/14, which Stable Diffusion 1 reads.

    Attributes:
      width: channels of a token.
      layers: blocks.
      heads: attention heads of each.
      activation: "quick_gelu", x sigmoid(1.702 x), in OpenAI's weights; "gelu" in OpenCLIP's.
      vocabulary: number of tokens that there are.
      length: number of tokens of a text, padding included.
      end_token: id of the token that ends a text; the text's features are those of its first occurrence.
      inner: width inside of the MLPs; 0 is 4 times `width`.
      projection: size of the space that the features of a text are projected to; 0 is none, as a CLIP projects itself.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    vocabulary: int = 49408
    length: int = 77
    end_token: int = 49407
    inner: int = 0
    projection: int = 0

    role: ClassVar = "text_encoder"

    def make(self):
        from jaxdiff.nets.clip import TextTransformer

        return TextTransformer(self)

    def example(self, shape) -> tuple:
        return (np.zeros((1, self.length), np.int32),)

    def __post_init__(self):
        check_own_types(self)
        _check_tower(self)
        if not 0 <= self.end_token < self.vocabulary:
            raise ValueError(f"end_token={self.end_token} must be below vocabulary={self.vocabulary}")
        if min(self.inner, self.projection) < 0:
            raise ValueError(f"inner={self.inner} and projection={self.projection} must be at least 0")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Shape of an image transformer. The defaults are those of OpenAI's ViT-L/14.

    Attributes:
      width: channels of a token.
      layers: blocks.
      heads: attention heads of each.
      activation: see `TextConfig`.
      inner: see `TextConfig`.
      size: side of the images in pixels.
      patch: side of the squares that become tokens.
      stem: channels of 3x3 convolutions, each of which halves the sides, that make the squares in place of one large
        convolution: small networks learn from far fewer images so (Xiao et al. 2021); () is none, as published.
      mean: of each channel in [0, 1], which is taken off.
      std: of each channel, by which it is divided.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    inner: int = 0
    size: int = 224
    patch: int = 14
    stem: tuple[int, ...] = ()
    mean: tuple[float, ...] = PIXEL_MEAN
    std: tuple[float, ...] = PIXEL_STD

    def __post_init__(self):
        check_own_types(self)
        _check_tower(self)
        if self.patch < 1 or self.size % self.patch:
            raise ValueError(f"size={self.size} must be a multiple of patch={self.patch}")
        if self.stem and (2 ** len(self.stem) != self.patch or any(c % STEM_GROUPS for c in self.stem)):
            raise ValueError(
                f"stem={self.stem} must halve the sides down to squares of patch={self.patch}, by channels that are "
                f"multiples of {STEM_GROUPS}"
            )
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean={self.mean} and std={self.std} must be of the same channels")


@NETS.register("image_encoder")
@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig(NetSpec):
    """Shape of an image transformer with a projection, which reads image prompts.

    Attributes:
      vision: of the transformer.
      projection: size of the embedding of an image.
    """

    vision: VisionConfig = VisionConfig()
    projection: int = 768

    role: ClassVar = "image_encoder"

    def __post_init__(self):
        check_own_types(self)

    def make(self):
        from jaxdiff.nets.clip import ImageEncoder

        return ImageEncoder(self)

    def example(self, shape) -> tuple:
        return (np.zeros((1, self.vision.size, self.vision.size, len(self.vision.mean)), np.float32),)


@NETS.register("clip")
@dataclasses.dataclass(frozen=True)
class CLIPConfig(NetSpec):
    """Shape of a `CLIP`.

    Attributes:
      text: of the text transformer.
      vision: of the image transformer.
      projection: size of the space in which they meet.
    """

    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()
    projection: int = 768

    role: ClassVar = "clip"

    def __post_init__(self):
        check_own_types(self)

    def make(self):
        from jaxdiff.nets.clip import CLIP

        return CLIP(self)

    def example(self, shape) -> tuple:
        return (*self.text.example(shape), *super().example(shape))

    def check_image(self, shape) -> None:
        if shape[-1] != len(self.vision.mean):
            raise ValueError(f"`vision.mean` is of {len(self.vision.mean)} channels, and images have {shape[-1]}")
