"""Pictures that a ControlNet is told, made of images: what in them is kept, and what is left to be drawn."""

import numpy as np
from PIL import Image
from scipy import ndimage


def edges(image: np.ndarray) -> np.ndarray:
    """How steep the image is at each pixel, by Sobel's filters; the steepest is white.

        |grad|^2 = sum over channels of (d/drow)^2 + (d/dcolumn)^2

    Args:
      image: uint8 [H, W, C].

    Returns:
      uint8 [H, W, 3], grey; black where the image is all of one colour.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import control_inputs
        >>> image = np.zeros([4, 6, 3], np.uint8)
        >>> image[:, 3:] = 100  # as dark as it is, its edge is white
        >>> control_inputs.edges(image)[0, :, 0].tolist()
        [0, 0, 255, 255, 0, 0]
    """
    slopes = [ndimage.sobel(image.astype(np.float64), axis, mode="nearest") for axis in (0, 1)]
    steep = np.sqrt(np.square(slopes).sum((0, -1)))
    return _grey(np.round(255 * steep / max(steep.max(), 1.0)))  # 1: the least that is not flat


def mask(image: np.ndarray) -> np.ndarray:
    """What is not background: white where the colour is nearer to the one farthest from the background's than to it.

    The background's colour is the median of the pixels at the border, each channel apart; how far a colour is from it is
    the Euclidean distance, and half of the largest one is the threshold.

    Args:
      image: uint8 [H, W, C].

    Returns:
      uint8 [H, W, 3], 0 or 255; black where the image is all of one colour.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import control_inputs
        >>> image = np.full([3, 5, 1], 200, np.uint8)
        >>> image[1, 1:4, 0] = [90, 40, 150]
        >>> control_inputs.mask(image)[1, :, 0].tolist()  # 80 is half of the way from 200 to 40
        [0, 255, 255, 0, 0]
    """
    return _grey(255 * _inside(image))


def outline(image: np.ndarray) -> np.ndarray:
    """The border of `mask`, one pixel wide: those of its pixels that have a neighbour outside, up, down, left or right.

    Outside the image counts as outside.

    Args:
      image: uint8 [H, W, C].

    Returns:
      uint8 [H, W, 3], 0 or 255; black where the image is all of one colour.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import control_inputs
        >>> image = np.zeros([5, 6, 1], np.uint8)
        >>> image[1:4, 1:5] = 255
        >>> for row in control_inputs.outline(image)[..., 0]:
        ...     print("".join("_#"[int(white)] for white in row > 0))
        ______
        _####_
        _#__#_
        _####_
        ______
    """
    inside = _inside(image)
    return _grey(255 * (inside & ~ndimage.binary_erosion(inside)))


def thumbnail(image: np.ndarray) -> np.ndarray:
    """The image as 8x8 squares, each of its mean colour: where which colour is, and no shapes.

    Args:
      image: uint8 [H, W, C], C being 1 or 3; sides that are no multiples of 8 have pixels that count in two squares.

    Returns:
      uint8 [H, W, 3].

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import control_inputs
        >>> image = np.zeros([16, 16, 3], np.uint8)
        >>> image[0, 0] = [200, 100, 0]
        >>> control_inputs.thumbnail(image)[:3, :3, 0].tolist()  # a square is 2x2 pixels
        [[50, 50, 0], [50, 50, 0], [0, 0, 0]]
    """
    height, width, _ = image.shape
    small = Image.fromarray(np.repeat(image, 3 // image.shape[-1], -1)).resize((8, 8), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.NEAREST))


def _inside(image):
    """What is not background, bool [H, W]."""
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])  # each pixel once
    far = np.linalg.norm(image - np.median(border, 0), axis=-1)
    return far > far.max() / 2


def _grey(values):
    return np.repeat(values.astype(np.uint8)[..., None], 3, -1)


CONTROL_INPUTS = {"edges": edges, "mask": mask, "outline": outline, "thumbnail": thumbnail}
