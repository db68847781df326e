"""The embedded digits in another style: dark outlines on light ground."""

import dataclasses

import numpy as np

from jaxdiff.data.base import SOURCES, Source
from jaxdiff.data.sources import digits

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)[..., None]


@SOURCES.register("outlined")
def load(image_shape: tuple[int, int, int] | None, split: str = "train", resize: bool = False) -> Source:
    """The handwritten digits as dark outlines on light ground, 28x28x1, with their labels.

    Args:
      image_shape: height, width and channels of the images; None for 28x28x1.
      split: "train", "judge" or "test", as of "digits".
      resize: crop and resize the images to `image_shape`.

    Raises:
      ValueError: unknown split, or images that do not fit `image_shape`.
    """
    source = digits.load(image_shape, split, resize)
    read = lambda i: (example := source.read(i)) | {"image": outline(example["image"])}
    return dataclasses.replace(source, read=read, identity=source.identity ^ 0x0171, encoded=None)


def outline(image: np.ndarray) -> np.ndarray:
    """Dark lines, one pixel wide, on light ground, along the outside of light strokes on dark ground.

    Args:
      image: uint8 [H, W, C].

    Returns:
      uint8 [H, W, C].

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data.sources import outlined
        >>> stroke = np.zeros([5, 7, 1], np.uint8)
        >>> stroke[2, 2:5] = 255
        >>> for row in outlined.outline(stroke)[..., 0]:
        ...     print("".join("_#"[int(dark)] for dark in row < 128))
        _______
        __###__
        _#___#_
        __###__
        _______
    """
    from scipy import ndimage

    return 255 - (ndimage.grey_dilation(image, footprint=_CROSS, mode="constant") - image)
