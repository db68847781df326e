"""Distances between sets of features: closed forms on Gaussians, brute force, and sums batch by batch."""

import functools

import numpy as np
import pytest
import scipy.linalg

from jaxdiff.eval import fid, neighbors

D = 6


def drawn(seed, n, d=D):
    return np.random.default_rng(seed).standard_normal((n, d))


def spread(seed, rank=D):
    """A covariance [D, D] of some rank."""
    x = drawn(seed, rank)
    return x.T @ x


def gaussian(mean, S, n=100):
    """The moments whose mean and covariance are exactly these."""
    return fid.Moments(n, np.asarray(mean, float), (n - 1) * np.asarray(S, float))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(fid, "BLOCK", 7)  # that divides none of the numbers of rows below


def test_moments_batch_by_batch_are_those_of_all():
    x = 1e4 + drawn(0, 103) @ spread(1)  # sums of squares without their mean would lose 8 digits
    batches = np.split(x, [1, 2, 40, 90])
    streamed = functools.reduce(fid.merge, map(fid.moments, batches))
    assert streamed.n == 103
    np.testing.assert_allclose(streamed.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(fid.covariance(streamed), np.cov(x, rowvar=False), rtol=1e-9)
    other = gaussian(x.mean(0) + 1, spread(2))
    assert fid.frechet(streamed, other) == pytest.approx(fid.frechet(fid.moments(x), other), rel=1e-9)


def test_frechet_distance_of_gaussians_with_the_same_axes():
    axes = np.linalg.qr(drawn(0, D))[0]
    a, b, apart = np.array([[1.0, 4, 9, 0, 2, 1], [4.0, 1, 9, 1, 0, 1]]), np.zeros((2, D)), np.arange(D) / 10
    b[1] = apart
    m = [gaussian(mean, axes * values @ axes.T) for mean, values in zip(b, a, strict=True)]
    exact = np.sum(apart**2) + np.sum((np.sqrt(a[0]) - np.sqrt(a[1])) ** 2)
    assert fid.frechet(*m) == pytest.approx(exact, rel=1e-6)  # half the digits are lost at eigenvalues of 0


@pytest.mark.parametrize("rank", [D, 2 * D])
def test_frechet_distance_is_scipy_s(rank):
    S_1, S_2 = spread(0, rank), spread(1, rank)
    root = scipy.linalg.sqrtm(S_1 @ S_2)
    exact = 3.0**2 + np.trace(S_1 + S_2 - 2 * root.real)
    found = fid.frechet(gaussian(np.zeros(D), S_1), gaussian(3.0 * np.eye(D)[2], S_2))
    assert found == pytest.approx(exact, rel=1e-10)


def test_singular_covariances_have_a_distance():
    """In orthogonal planes nothing is shared; a set of fewer rows than dimensions is at no distance from itself."""
    first, last = np.diag([1.0, 2, 0, 0, 0, 0]), np.diag([0, 0, 0, 0, 3.0, 5])
    assert fid.frechet(gaussian(np.zeros(D), first), gaussian(np.zeros(D), last)) == pytest.approx(11, rel=1e-6)
    few = fid.moments(100 * drawn(0, 4, 50))
    assert 0 <= fid.frechet(few, few) < 1e-6 * np.trace(fid.covariance(few))


def test_frechet_distance_of_drawn_gaussians_nears_the_exact_one():
    S_1, S_2, mean = spread(0), spread(1), np.ones(D)
    exact = fid.frechet(gaussian(np.zeros(D), S_1), gaussian(mean, S_2))
    roots = [np.linalg.cholesky(S) for S in (S_1, S_2)]
    x, y = drawn(2, 20_000) @ roots[0].T, drawn(3, 20_000) @ roots[1].T + mean
    assert fid.frechet(fid.moments(x), fid.moments(y)) == pytest.approx(
        exact, rel=0.03
    )  # some 1 / sqrt(20,000) of each


def cubic(mean_x, S_x, mean_y, S_y):
    """E (x . y / d + 1)^3 of independent Gaussians: moments of x and of y, entry by entry, contracted."""

    def moments(m, S):
        third = np.einsum("i,j,k", m, m, m) + sum(np.einsum(f"i,jk->{order}", m, S) for order in ("ijk", "jik", "jki"))
        return m, S + np.outer(m, m), third

    d = len(mean_x)
    s1, s2, s3 = (np.sum(a * b) for a, b in zip(moments(mean_x, S_x), moments(mean_y, S_y), strict=True))
    return s3 / d**3 + 3 * s2 / d**2 + 3 * s1 / d + 1


def test_kernel_distance_has_the_expectation_of_gaussians_and_an_honest_error():
    """Over 200 draws of a few rows: so the mean shows a bias, and the errors are beside what they estimate."""
    p, q = (np.array([0.5, 0, -0.3]), spread(0)[:3, :3]), (np.array([0, 1.0, 0.2]), spread(1)[:3, :3])
    exact = cubic(*p, *p) + cubic(*q, *q) - 2 * cubic(*p, *q)
    rng = np.random.default_rng(0)
    found = [
        fid.kernel_distance(rng.multivariate_normal(*p, size=20), rng.multivariate_normal(*q, size=31))
        for _ in range(200)
    ]
    values, errors = np.array(found).T
    assert abs(values.mean() - exact) < 3 * values.std() / np.sqrt(200)
    assert 0.8 < np.sqrt(np.mean(errors**2)) / values.std() < 1.5


def test_kernel_distance_is_that_of_all_pairs_and_its_error_of_leaving_out_each_row():
    x, y = drawn(0, 9), 1 + drawn(1, 12)

    def brute(x, y):
        k = lambda a, b: (a @ b / D + 1) ** 3
        own = lambda z: np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])
        return own(x) + own(y) - 2 * np.mean([k(a, b) for a in x for b in y])

    without_x = np.array([brute(np.delete(x, i, 0), y) for i in range(9)])
    without_y = np.array([brute(x, np.delete(y, i, 0)) for i in range(12)])
    found = fid.kernel_distance(x, y)
    assert found.value == pytest.approx(brute(x, y), rel=1e-10)
    assert found.standard_error == pytest.approx(np.sqrt(8 * without_x.var() + 11 * without_y.var()), rel=1e-8)


def test_kernel_distance_of_the_same_distribution_is_now_below_and_now_above_zero():
    found = np.array([fid.kernel_distance(drawn(2 * i, 30), drawn(2 * i + 1, 30)).value for i in range(100)])
    assert 0.3 < (found < 0).mean() < 0.8
    assert abs(found.mean()) < 3 * found.std() / 10


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_comparing_everything(k):
    real, fake = drawn(0, 60, 2), 0.7 + drawn(1, 45, 2)
    apart = lambda x, y: np.linalg.norm(x[:, None] - y[None], axis=-1)
    radius = lambda x: np.sort(apart(x, x), axis=1)[:, k]  # the first is the row itself
    precision = (apart(fake, real) <= radius(real)).any(1).mean()
    recall = (apart(real, fake) <= radius(fake)).any(1).mean()
    assert 0 < recall < 1 and 0 < precision < 1 and precision != recall
    assert neighbors.precision_recall(real, fake, k) == pytest.approx((precision, recall), abs=1e-12)


def test_dropping_a_mode_costs_recall_and_noise_costs_precision():
    first, second = drawn(0, 50), 100 + drawn(1, 50)
    both = np.concatenate([first, second])
    assert neighbors.precision_recall(both, first) == (1.0, 0.5)
    assert neighbors.precision_recall(first, both) == (0.5, 1.0)
    assert neighbors.precision_recall(first, second) == (0.0, 0.0)


def test_nearest_is_the_smallest_distance_and_exactly_zero_for_a_copy():
    rng = np.random.default_rng(0)
    images, others = (rng.integers(0, 256, (n, 4, 4, 1), np.uint8) for n in (23, 40))
    images[5] = others[33]
    differences = images[:, None].astype(float) - others[None]
    found = neighbors.nearest(images, others)
    np.testing.assert_allclose(found, np.sqrt((differences**2).sum((2, 3, 4))).min(1), rtol=1e-12)
    assert found[5] == 0 and np.delete(found, 5).min() > 0


def test_inception_score_of_what_is_known():
    logits = drawn(0, 40)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    kl = scipy.special.rel_entr(p, p.mean(0, keepdims=True)).sum(1)
    streamed = functools.reduce(fid.add, map(fid.score, np.split(p, [1, 17])))
    assert fid.inception_score(streamed) == pytest.approx(np.exp(kl.mean()), rel=1e-12)
    assert fid.inception_score(fid.score(np.eye(8))) == pytest.approx(8)
    assert fid.inception_score(fid.score(np.full((5, 8), 1 / 8))) == pytest.approx(1)
    assert fid.inception_score(fid.score(np.eye(8)[[3, 3, 3]])) == pytest.approx(1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: fid.moments(np.zeros(4)), "must be an array"),
        (lambda: fid.moments(np.zeros((0, 4))), "at least one row"),
        (lambda: fid.moments([[np.nan, 1.0]]), "not finite"),
        (lambda: fid.frechet(*[fid.moments(np.ones((1, 2)))] * 2), "at least 2 rows"),
        (lambda: fid.frechet(fid.moments(drawn(0, 5, 2)), fid.moments(drawn(0, 5, 3))), "one network"),
        (lambda: fid.kernel_distance(drawn(0, 2), drawn(0, 9)), "at least 3 rows"),
        (lambda: fid.kernel_distance(drawn(0, 5, 2), drawn(0, 5, 3)), "one network"),
        (lambda: neighbors.precision_recall(drawn(0, 3), drawn(0, 9)), "`k`=3 must be"),
        (lambda: neighbors.precision_recall(drawn(0, 9), drawn(0, 9), k=0), "`k`=0 must be"),
        (lambda: neighbors.nearest(np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 3))), "one shape"),
        (lambda: fid.score([[3.0, -2.0]]), "softmax"),
        (lambda: fid.score([[0.5, 0.1]]), "softmax"),
    ],
)
def test_bad_input_is_told_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
