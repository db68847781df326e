"""Control images for ControlNets, made of images, by name."""

import numpy as np

from jaxdiff.registry import Registry

CONTROL_INPUTS = Registry("control input")
"""Functions uint8 [H, W, C] -> uint8 [H, W, 3] by name; further parameters with defaults are options."""


@CONTROL_INPUTS.register("edges")
def edges(image: np.ndarray) -> np.ndarray:
    """Magnitude of the gradient of the image by Sobel's filters, divided by its maximum.

        |grad|^2 = sum over channels of (d/drow)^2 + (d/dcolumn)^2

    Args:
      image: uint8 [H, W, C].

    Returns:
      uint8 [H, W, 3], grey; all black for an image of one colour.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import control_inputs
        >>> image = np.zeros([4, 6, 3], np.uint8)
        >>> image[:, 3:] = 100  # dark, but its edge is the steepest, hence white
        >>> control_inputs.edges(image)[0, :, 0].tolist()
        [0, 0, 255, 255, 0, 0]
    """
    from scipy import ndimage

    slopes = [ndimage.sobel(image.astype(np.float64), axis, mode="nearest") for axis in (0, 1)]
    magnitude = np.sqrt(np.square(slopes).sum((0, -1)))
    return _grey(np.round(255 * magnitude / max(magnitude.max(), 1.0)))  # any edge has at least 1


@CONTROL_INPUTS.register("canny")
def canny(image: np.ndarray, sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> np.ndarray:
    """Edges of Canny's method (1986): thin lines along the ridges of the gradient, as ControlNets of that name read them.

    Args:
      image: uint8 [H, W, C].
      sigma: standard deviation of the Gaussian that smooths the image first, in pixels.
      low: steepness, of a grey image in [0, 1], above which an edge goes on.
      high: steepness above which one begins.

    Returns:
      uint8 [H, W, 3], 0 or 255.

    Raises:
      ValueError: scikit-image is not installed.
    """
    try:
        from skimage import feature
    except ImportError:
        raise ValueError("canny edges are made by scikit-image: pip install scikit-image") from None

    grey = (image / 255) @ (np.array([0.299, 0.587, 0.114]) if image.shape[-1] == 3 else np.ones(1))
    return _grey(255 * feature.canny(grey, sigma, low, high))


@CONTROL_INPUTS.register("mask")
def mask(image: np.ndarray) -> np.ndarray:
    """Foreground in white, background in black.

    The colour of the background is the median of the border pixels, for each channel. Foreground is every pixel whose
    Euclidean distance from that colour is more than half of the largest distance.

    Args:
      image: uint8 [H, W, C].

    Returns:
      uint8 [H, W, 3], 0 or 255; all black for an image of one colour.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import control_inputs
        >>> image = np.full([3, 5, 1], 200, np.uint8)
        >>> image[1, 1:4, 0] = [90, 40, 150]
        >>> control_inputs.mask(image)[1, :, 0].tolist()  # 80 is half of the way from 200 to 40
        [0, 255, 255, 0, 0]
    """
    return _grey(255 * _foreground(image))


@CONTROL_INPUTS.register("outline")
def outline(image: np.ndarray) -> np.ndarray:
    """Border of the foreground of `mask`, one pixel wide: its pixels with a neighbour (of four) in the background.

    Beyond the image is background.

    Args:
      image: uint8 [H, W, C].

    Returns:
      uint8 [H, W, 3], 0 or 255; all black for an image of one colour.

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
    from scipy import ndimage

    inside = _foreground(image)
    return _grey(255 * (inside & ~ndimage.binary_erosion(inside)))


@CONTROL_INPUTS.register("thumbnail")
def thumbnail(image: np.ndarray) -> np.ndarray:
    """The image at a resolution of 8x8, enlarged to squares of one colour each: a layout of colours without shapes.

    Args:
      image: uint8 [H, W, C], C being 1 or 3; if 8 does not divide a side, some pixels count in two squares.

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
    from PIL import Image

    height, width, _ = image.shape
    small = Image.fromarray(np.repeat(image, 3 // image.shape[-1], -1)).resize((8, 8), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.NEAREST))


def _foreground(image):
    """Mask of the foreground, bool [H, W]."""
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])  # each pixel once
    distance = np.linalg.norm(image - np.median(border, 0), axis=-1)
    return distance > distance.max() / 2


def _grey(values):
    return np.repeat(values.astype(np.uint8)[..., None], 3, -1)
