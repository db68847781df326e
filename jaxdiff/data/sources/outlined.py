"""The embedded digits in another style: dark outlines on light ground."""

import dataclasses

import numpy as np
from scipy import ndimage

from jaxdiff.data.base import Source
from jaxdiff.data.sources import digits

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)[..., None]


def load(split: str, image_shape: tuple[int, int, int] | None, resize: bool) -> Source:
    """Opens a split of the outlined digits, see `jaxdiff.data.load`; the splits are those of `digits.Digits`."""
    source = digits.load(split, image_shape, resize)
    read = lambda i: (example := source.read(i)) | {"image": outline(example["image"])}
    return dataclasses.replace(source, read=read, identity=source.identity ^ 0x0171)


def outline(image: np.ndarray) -> np.ndarray:
    """Dark lines on light ground, a pixel wide, where light strokes on dark ground end.

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
    return 255 - (ndimage.grey_dilation(image, footprint=_CROSS, mode="constant") - image)
