"""Images slightly turned, stretched, slanted and moved, and by how much: few examples become many."""

import numpy as np
from scipy import ndimage

NAMES = ("turn", "size", "aspect", "slant", "down", "right")
DIM = len(NAMES)
# An amount of 1: 10 degrees, 10% larger, 10% taller and as much narrower, 15% slanted, 6% of the side.
_TURN, _SIZE, _ASPECT, _SLANT, _MOVE = np.deg2rad(10), 0.1, 0.1, 0.15, 0.06


def amounts(rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """By how much to change one image; none at all with probability 1/2.

    A network that is told the amounts (as its `Cond.vector`) learns from changed images without drawing any: asked for
    zeros, it draws images as they were (Karras et al. 2022, appendix F.2).

    Args:
      rng: NumPy generator.
      strength: largest amount, at least 0.

    Returns:
      float32 [6], in [-strength, strength], in the order of `NAMES`; zeros for half of the images.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import augment
        >>> [bool(augment.amounts(np.random.default_rng(seed)).any()) for seed in range(6)]
        [False, False, True, True, False, True]
    """
    chosen = rng.uniform(-strength, strength, DIM)
    return np.where(rng.random() < 0.5, chosen, 0.0).astype(np.float32)


def affine(image: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """The image changed by such amounts about its middle, its border mirrored outwards.

    Args:
      image: uint8 [H, W, C].
      amounts: [6], 1 being 10 degrees counter-clockwise, 10% larger, 10% taller and narrower, a slant of 0.15, and 6% of
        the side down and to the right; zeros give back the image itself.

    Returns:
      uint8 [H, W, C].

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import augment
        >>> dot = np.zeros([50, 50, 1], np.uint8)
        >>> dot[20, 30] = 255
        >>> np.argwhere(augment.affine(dot, np.array([0, 0, 0, 0, 1, -1])))[0].tolist()  # 6% of 50 is 3
        [23, 27, 0]
    """
    if not np.any(amounts):
        return image
    turn, size, aspect, slant, down, right = np.asarray(amounts, np.float64)
    angle, height, width = (
        _TURN * turn,
        np.exp(_SIZE * size + _ASPECT * aspect),
        np.exp(_SIZE * size - _ASPECT * aspect),
    )
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = rotation @ np.array([[1.0, 0.0], [_SLANT * slant, 1.0]]) @ np.diag([height, width])  # of (row, column)
    middle = (np.array(image.shape[:2]) - 1) / 2
    move = _MOVE * np.array([down, right]) * image.shape[:2]
    backward = np.linalg.inv(forward)  # where in the image a pixel of the result comes from
    offset = middle - backward @ (middle + move)
    channels = [
        ndimage.affine_transform(image[..., c].astype(np.float32), backward, offset, order=3, mode="mirror")
        for c in range(image.shape[-1])
    ]
    return np.clip(np.round(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)
