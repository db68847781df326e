"""Precision, recall and nearest neighbours of sampled images among real ones.

(1)  precision: part of the fake rows that are within radius_k of some real row,
     recall: part of the real rows that are within radius_k of some fake row        Kynkaanniemi et al. 2019, eq. 1, 2
"""

from typing import NamedTuple

import numpy as np

from jaxdiff.arguments import as_array, check_count
from jaxdiff.eval.fid import BLOCK, check_sizes, rows


class PrecisionRecall(NamedTuple):
    """Share of samples near to real data, and share of real data near to samples; both in [0, 1]."""

    precision: float
    recall: float


def precision_recall(real, fake, k: int = 3) -> PrecisionRecall:
    """Precision and recall by nearest neighbours, equation (1).

    radius_k of a row is its distance to its k-th nearest neighbour in its own set, itself not counted. Both numbers depend
    on how many rows there are: compare numbers of equal M and N only, M = N by custom.

    Args:
      real: features, real [M, D], M more than k.
      fake: features, real [N, D], N more than k.
      k: which neighbour; 3 as published.

    Returns:
      `PrecisionRecall`.

    Raises:
      ValueError: too few rows, features of different sizes, no whole k of at least 1, or a number that is not finite.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.eval import neighbors
        >>> real = np.random.default_rng(0).normal(size=(500, 2))
        >>> fake = real[np.argsort(real[:, 0])][:250]  # only one half of the data is ever drawn
        >>> found = neighbors.precision_recall(real, fake)
        >>> found.precision, 0.4 < found.recall < 0.7
        (1.0, True)
    """
    real, fake = rows(real), rows(fake)
    check_sizes(real[0], fake[0])
    k = check_count("k", k)
    if not k < min(len(real), len(fake)):
        raise ValueError(f"`k`={k} must be less than the number of rows, {len(real)} and {len(fake)}")
    return PrecisionRecall(_covered(fake, real, _radii(real, k)), _covered(real, fake, _radii(fake, k)))


def _radii(x, k):
    """Squared distance of each row to its k-th nearest neighbour."""
    radii = np.empty(len(x))
    for start, squares in _squared_distances(x, x):
        own = np.arange(len(squares))
        squares[own, start + own] = np.inf
        radii[start : start + BLOCK] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return radii


def _covered(x, y, radii):
    """Part of the rows of x that are within the radius of some row of y."""
    return float(sum((squares <= radii).any(1).sum() for _, squares in _squared_distances(x, y)) / len(x))


def _squared_distances(x, y):
    """Yields where each block of x begins, and the squares of its distances to y, [BLOCK, N]."""
    center = y.mean(0)  # about which fewer digits are lost
    x, y = x - center, y - center
    squares = (y * y).sum(1)
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        yield start, np.maximum((part * part).sum(1)[:, None] + squares - 2 * part @ y.T, 0.0)


def nearest(images, others) -> np.ndarray:
    """Distance of each image to the nearest of the others, sqrt(sum of squared differences of pixels).

    Samples that were only remembered are nearer to training images than unseen data is.

    Args:
      images: [N, ...] of any real type, taken as the numbers they are.
      others: [M, ...] of the same shape but for M.

    Returns:
      float64 [N].

    Raises:
      ValueError: images of different shapes or types, none at all, or a number that is not finite.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.eval import neighbors
        >>> neighbors.nearest(np.array([[0, 0], [3, 4]], np.uint8), np.array([[0, 0], [255, 255]], np.uint8)).tolist()
        [0.0, 5.0]
    """
    images, others = (np.asarray(as_array(*pair)) for pair in (("images", images), ("others", others)))
    if images.dtype != others.dtype:
        raise ValueError(f"images of {images.dtype} and {others.dtype} cannot be compared: give both in one range")
    if images.shape[1:] != others.shape[1:]:
        raise ValueError(f"images of {images.shape[1:]} and {others.shape[1:]} cannot be compared: give them one shape")
    for name, pixels in (("images", images), ("others", others)):
        if not pixels.size:
            raise ValueError(f"`{name}` must be at least one image, not of shape {list(pixels.shape)}")
    x, y = (rows(pixels.reshape(len(pixels), -1)) for pixels in (images, others))
    found = np.empty(len(x))
    for start, squares in _squared_distances(x, y):
        closest = y[squares.argmin(1)]  # of which the difference itself is taken: exact where it is 0
        found[start : start + BLOCK] = np.linalg.norm(x[start : start + BLOCK] - closest, axis=1)
    return found
