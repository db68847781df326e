"""Geometric augmentation of images, and the amounts that a network can be conditioned on."""

import numpy as np

from jaxdiff.arguments import AT_LEAST_0, check_number

NAMES = ("rotation", "scale", "aspect", "shear", "down", "right")
DIM = len(NAMES)
# An amount of 1: 10 degrees, 10% larger, 10% taller and as much narrower, sheared by 15%, moved by 6% of the side.
_ROTATION, _SCALE, _ASPECT, _SHEAR, _MOVE = np.deg2rad(10), 0.1, 0.1, 0.15, 0.06


def amounts(rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Random amounts of augmentation for one image; all zero with probability 1/2.

    A network that is conditioned on the amounts (by its `Cond.vector`) learns from augmented images without drawing any:
    conditioned on zeros, it draws unaugmented images (Karras et al. 2022, appendix F.2).

    Args:
      rng: NumPy generator.
      strength: largest amount, at least 0.

    Returns:
      float32 [6] in [-strength, strength], in the order of `NAMES`; zeros for half of the images.

    Raises:
      TypeError: `rng` is no NumPy generator.
      ValueError: a strength that is below 0 or not finite.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import augment
        >>> [bool(augment.amounts(np.random.default_rng(seed)).any()) for seed in range(6)]
        [False, False, True, True, False, True]
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"`rng` must be a NumPy generator, such as numpy.random.default_rng(0), not {type(rng).__name__}"
        )
    check_number("strength", strength, *AT_LEAST_0)
    chosen = rng.uniform(-strength, strength, DIM)
    return np.where(rng.random() < 0.5, chosen, 0.0).astype(np.float32)


def affine(image: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Transforms an image about its centre, mirroring it outwards at the border.

    Args:
      image: uint8 [H, W, C].
      amounts: [6], in the order of `NAMES`; 1 stands for 10 degrees counter-clockwise, 10% larger, 10% taller and narrower,
        a shear of 0.15, and 6% of the side down and to the right. Zeros return the image itself.

    Returns:
      uint8 [H, W, C].

    Raises:
      ValueError: images of floats, such as latents, or of other axes; amounts that are not six finite numbers.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import augment
        >>> dot = np.zeros([50, 50, 1], np.uint8)
        >>> dot[20, 30] = 255
        >>> np.argwhere(augment.affine(dot, np.array([0, 0, 0, 0, 1, -1])))[0].tolist()  # 6% of 50 is 3
        [23, 27, 0]
    """
    from scipy import ndimage

    dtype, shape = getattr(image, "dtype", type(image).__name__), np.shape(image)
    if dtype != np.uint8 or len(shape) != 3:
        raise ValueError(f"`image` must be uint8 [H, W, C] to be augmented, not {dtype} {list(shape)}")
    if np.shape(amounts) != (DIM,) or not np.all(np.isfinite(amounts)):
        raise ValueError(f"`amounts` must be {DIM} finite numbers, in the order of `NAMES`")
    if not np.any(amounts):
        return image
    rotation, scale, aspect, shear, down, right = np.asarray(amounts, np.float64)
    angle = _ROTATION * rotation
    height, width = np.exp(_SCALE * scale + _ASPECT * aspect), np.exp(_SCALE * scale - _ASPECT * aspect)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = turn @ np.array([[1.0, 0.0], [_SHEAR * shear, 1.0]]) @ np.diag([height, width])  # of (row, column)
    centre = (np.array(image.shape[:2]) - 1) / 2
    move = _MOVE * np.array([down, right]) * image.shape[:2]
    backward = np.linalg.inv(forward)  # from a pixel of the result to its origin in the image
    offset = centre - backward @ (centre + move)
    channels = [
        ndimage.affine_transform(image[..., c].astype(np.float32), backward, offset, order=3, mode="mirror")
        for c in range(image.shape[-1])
    ]
    return np.clip(np.round(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)
