r"""Distances between two sets of images by a judge network's features, and the inception score by its class probabilities.

  (1)  FID = |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^{1/2})                          Heusel et al. 2017, eq. 6
  (2)  KID = E k(x, x') + E k(y, y') - 2 E k(x, y),   k(x, y) = (x . y / D + 1)^3           Binkowski et al. 2018, section 4
  (3)  IS = exp(E KL(p(y|x) || p(y)))                                                      Salimans et al. 2016, section 4

(1) and (3) are worked out from sums, `Moments` and `Score`, that are added up batch by batch, so that no features are kept.
(2) compares rows with rows, block by block; give it as many as memory holds. All in float64 on the host.
"""

from typing import NamedTuple

import numpy as np

BLOCK = 256  # rows that are compared with all others at a time


class Moments(NamedTuple):
    """The mean of n rows and the sum of outer products of their deviations from it.

    Attributes:
      n: number of rows.
      mean: float64 [D].
      m2: float64 [D, D], n - 1 times the covariance.
    """

    n: int
    mean: np.ndarray
    m2: np.ndarray


def moments(features) -> Moments:
    """The moments of one batch.

    Args:
      features: real [B, D], B at least 1.

    Returns:
      `Moments`.

    Raises:
      ValueError: not such an array, or a number in it that is not finite.

    Example::

        >>> from jaxdiff.eval import fid
        >>> both = fid.merge(fid.moments([[0.0, 1.0]]), fid.moments([[2.0, 1.0], [4.0, 4.0]]))
        >>> both.n, both.mean.tolist(), fid.covariance(both).tolist()
        (3, [2.0, 2.0], [[4.0, 3.0], [3.0, 3.0]])
    """
    x = rows(features)
    mean = x.mean(0)
    deviations = x - mean
    return Moments(len(x), mean, deviations.T @ deviations)


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of two sets of rows together, equal to those of one array of both but for rounding (Chan et al. 1979).

        m2 = m2_a + m2_b + (mean_b - mean_a) (mean_b - mean_a)^T n_a n_b / n

    Args:
      a: of one set.
      b: of the other.

    Returns:
      `Moments`.

    Example::

        >>> from jaxdiff.eval import fid
        >>> fid.merge(fid.moments([[1.0]]), fid.moments([[2.0]])).mean.tolist()
        [1.5]
    """
    n, apart = a.n + b.n, b.mean - a.mean
    return Moments(n, a.mean + apart * (b.n / n), a.m2 + b.m2 + np.outer(apart, apart) * (a.n * b.n / n))


def covariance(m: Moments) -> np.ndarray:
    """The covariance, by n - 1 as published code has it.

    Args:
      m: moments of at least two rows.

    Returns:
      float64 [D, D].

    Raises:
      ValueError: fewer than two rows.

    Example::

        >>> from jaxdiff.eval import fid
        >>> fid.covariance(fid.moments([[0.0], [2.0]])).tolist()
        [[2.0]]
    """
    if m.n < 2:
        raise ValueError(f"a covariance needs at least 2 rows of features, not {m.n}")
    return m.m2 / (m.n - 1)


def frechet(a: Moments, b: Moments) -> float:
    """Frechet distance of the two Gaussians with these moments, equation (1).

    tr (S_1 S_2)^{1/2} is taken as tr (R S_2 R)^{1/2} with R = S_1^{1/2}: the same number by symmetric matrices alone, which
    holds for singular covariances, too (of n rows in more than n - 1 dimensions). Estimated from few rows it is too large:
    compare numbers of equal n only.

    Args:
      a: of one set, at least two rows.
      b: of the other.

    Returns:
      The distance, squared as published ones are, at least 0.

    Raises:
      TypeError: no `Moments`.
      ValueError: fewer than two rows, or features of different sizes.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.eval import fid
        >>> rng = np.random.default_rng(0)
        >>> a, b = fid.moments(rng.normal(0, 1, (9000, 2))), fid.moments(rng.normal(1, 2, (9000, 2)))
        >>> abs(fid.frechet(a, b) - 4) < 0.3  # two dimensions of 1 for the means and (1 - 2)^2 for the deviations
        True
    """
    for name, one in (("a", a), ("b", b)):
        if not isinstance(one, Moments):
            raise TypeError(f"`{name}` must be Moments, such as fid.moments(features), not {type(one).__name__}")
    check_sizes(a.mean, b.mean)
    S_1, S_2 = covariance(a), covariance(b)
    values, vectors = np.linalg.eigh(S_1)
    R = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = R @ S_2 @ R
    shared = np.linalg.eigvalsh((product + product.T) / 2)
    distance = np.sum((a.mean - b.mean) ** 2) + np.trace(S_1) + np.trace(S_2)
    return max(float(distance - 2 * np.sqrt(np.maximum(shared, 0.0)).sum()), 0.0)


class Distance(NamedTuple):
    """An estimate and its standard error."""

    value: float
    standard_error: float


def kernel_distance(x, y) -> Distance:
    """Kernel Inception distance, equation (2), unbiased at any number of rows, hence now and then below 0.

    It is taken over all pairs of the rows given. Published code averages over random subsets, often 100 of 1000 rows: the
    expectation is the same and the noise larger. The standard error is the jackknife's over rows, rather too large than too
    small where the sets are alike.

    Args:
      x: features of one set, real [M, D], M at least 3.
      y: of the other, real [N, D], N at least 3.

    Returns:
      `Distance`; published tables often have 1000 times as much.

    Raises:
      ValueError: fewer rows, features of different sizes, or a number that is not finite.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.eval import fid
        >>> x = np.random.default_rng(0).normal(size=(400, 8))
        >>> found = fid.kernel_distance(x[:200], x[200:])
        >>> abs(found.value) < 3 * found.standard_error
        True
    """
    x, y = rows(x), rows(y)
    check_sizes(x[0], y[0])
    M, N = len(x), len(y)
    if min(M, N) < 3:
        raise ValueError(f"a kernel distance needs at least 3 rows of features on each side, not {M} and {N}")
    xx, yy = (_kernel_sums(z, z)[0] - _kernel((z * z).sum(1), z.shape[1]) for z in (x, y))  # without a row's own
    xy, yx = _kernel_sums(x, y)

    def distance(xx, yy, xy, M, N):
        return xx / (M * (M - 1)) + yy / (N * (N - 1)) - 2 * xy / (M * N)

    sums = xx.sum(), yy.sum(), xy.sum()
    without_x = distance(sums[0] - 2 * xx, sums[1], sums[2] - xy, M - 1, N)  # [M], each without one row
    without_y = distance(sums[0], sums[1] - 2 * yy, sums[2] - yx, M, N - 1)
    variance = (M - 1) * without_x.var() + (N - 1) * without_y.var()
    return Distance(float(distance(*sums, M, N)), float(np.sqrt(variance)))


def _kernel(product, D):
    return (product / D + 1.0) ** 3


def _kernel_sums(x, y):
    """Sums of k(x_i, y_j) over j [M] and over i [N]."""
    over_y, over_x = np.empty(len(x)), np.zeros(len(y))
    for start in range(0, len(x), BLOCK):
        values = _kernel(x[start : start + BLOCK] @ y.T, x.shape[1])
        over_y[start : start + BLOCK] = values.sum(1)
        over_x += values.sum(0)
    return over_y, over_x


class Score(NamedTuple):
    """Sums over n images for the inception score.

    Attributes:
      n: number of images.
      p: sum of the probabilities of each class, float64 [K].
      p_log_p: sum of p log p over images and classes, in nats.
    """

    n: int
    p: np.ndarray
    p_log_p: float


def score(probabilities) -> Score:
    """The sums of one batch; those of two batches are added by `add`.

    Args:
      probabilities: of classes, real [B, K], rows that sum to 1.

    Returns:
      `Score`.

    Raises:
      ValueError: not such an array.

    Example::

        >>> from jaxdiff.eval import fid
        >>> fid.score([[1.0, 0.0], [0.5, 0.5]]).p.tolist()
        [1.5, 0.5]
    """
    p = rows(probabilities)
    if p.min() < 0 or not np.allclose(p.sum(1), 1, atol=1e-3):
        raise ValueError("probabilities of classes must be at least 0 and sum to 1: give softmax(logits)")
    return Score(len(p), p.sum(0), float(_p_log_p(p).sum()))


def add(a: Score, b: Score) -> Score:
    """The sums of two sets of images together.

    Args:
      a: of one set.
      b: of the other.

    Returns:
      `Score`.

    Example::

        >>> from jaxdiff.eval import fid
        >>> fid.add(fid.score([[1.0, 0.0]]), fid.score([[0.0, 1.0]])).p.tolist()
        [1.0, 1.0]
    """
    return Score(a.n + b.n, a.p + b.p, a.p_log_p + b.p_log_p)


def inception_score(total: Score) -> float:
    """Inception score, equation (3), of all images as one set.

    Published ones are mostly means over 10 sets of 5,000 images, which is a little less than that of all 50,000.

    Args:
      total: sums over all images.

    Returns:
      From 1, where the class is never known or always the same, to K, where it is always known and each as likely.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.eval import fid
        >>> round(fid.inception_score(fid.score(np.eye(10))), 6), round(fid.inception_score(fid.score([[0.5, 0.5]])), 6)
        (10.0, 1.0)
    """
    return float(np.exp(total.p_log_p / total.n - _p_log_p(total.p / total.n).sum()))


def _p_log_p(p):
    return p * np.log(np.where(p > 0, p, 1.0))


def rows(x):
    """x as finite float64 [B, D].

    Raises:
      ValueError: another rank, no rows, or a number that is not finite.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"features must be an array [B, D] with at least one row, not of shape {list(x.shape)}")
    if not np.isfinite(x).all():
        raise ValueError("a feature is not finite: look at the images it is of, and at the network's parameters")
    return x


def check_sizes(x, y):
    """Raises ValueError unless two rows have the same length."""
    if x.shape != y.shape:
        raise ValueError(f"features of {x.size} and {y.size} numbers cannot be compared: take both from one network")
