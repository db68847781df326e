"""Closed forms of the oracles, against quadrature, SciPy and an integration in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff import process, samplers, schedules, testing
from jaxdiff.testing.oracle import labeled
from jaxdiff.types import Cond

SCHEDULE = schedules.linear(100, 1e-3, 0.2)
COVS = [[[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.8]], np.diag([0.1, 0.2, 0.3]), np.eye(3)]
THREE = testing.mixture([0.5, 0.3, 0.2], [[0, 0, 0], [2, 1, -1], [-1, 3, 0.5]], COVS)
LEVELS = [1, 37, 100]
denoise = jax.jit(lambda data, x, t: data.denoiser(SCHEDULE)(x, t, None))
log_prob = jax.jit(lambda data, x, t: data.log_prob(SCHEDULE, x, t))


def scales(t):
    """alpha and sigma in float64."""
    alphabar = np.prod(1 - np.linspace(1e-3, 0.2, 100)[:t])
    return np.sqrt(alphabar), np.sqrt(1 - alphabar)


@pytest.mark.parametrize("t", LEVELS)
def test_denoiser_and_density_are_those_of_quadrature(t):
    """One dimension: E[x_0 | x_t] and q(x_t) as integrals over x_0."""
    weights, means, stds = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.3, 0.5])
    data = testing.mixture(weights, means[:, None], stds**2)
    x, (alpha, sigma) = np.linspace(-3, 3, 13), scales(t)
    x0 = np.linspace(-8, 8, 400001)
    joint = stats.norm.pdf(x[:, None], alpha * x0, sigma) * (
        weights[:, None] * stats.norm.pdf(x0, means[:, None], stds[:, None])
    ).sum(0)
    density = joint.sum(1) * (x0[1] - x0[0])
    expected = (joint * x0).sum(1) / joint.sum(1)
    prediction = denoise(data, jnp.asarray(x[:, None], jnp.float32), t)
    np.testing.assert_allclose(prediction.x0[:, 0], expected, atol=2e-5)
    np.testing.assert_allclose(prediction.eps[:, 0], (x - alpha * expected) / sigma, atol=2e-4)
    np.testing.assert_allclose(log_prob(data, jnp.asarray(x[:, None]), t), np.log(density), atol=1e-4)


@pytest.mark.parametrize("t", [0, *LEVELS])
def test_density_is_scipy_s(t):
    x = np.random.default_rng(0).normal(size=(20, 3))
    alpha, sigma = scales(t)
    each = [
        np.log(w)
        + stats.multivariate_normal(
            alpha * np.array(mu, float), alpha**2 * np.array(cov) + sigma**2 * np.eye(3)
        ).logpdf(x)
        for w, mu, cov in zip([0.5, 0.3, 0.2], [[0, 0, 0], [2, 1, -1], [-1, 3, 0.5]], COVS)
    ]
    expected = np.logaddexp.reduce(each)
    np.testing.assert_allclose(log_prob(THREE, jnp.asarray(x, jnp.float32), t), expected, rtol=1e-4, atol=1e-4)


def test_score_is_the_gradient_of_the_log_density():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(10, 3)), jnp.float32)
    t = jnp.arange(1, 11) * 10
    gradient = jax.jit(jax.grad(lambda x: THREE.log_prob(SCHEDULE, x, t).sum()))(x)
    np.testing.assert_allclose(jax.jit(THREE.score)(SCHEDULE, x, t), gradient, atol=2e-4)


def test_flow_is_the_solution_of_the_ode():
    """dx / dphi = alpha eps - sigma x0 with phi = atan2(sigma, alpha), by Runge and Kutta in float64."""
    mean, cov = np.array([1.0, -2.0]), np.array([[0.5, 0.3], [0.3, 0.4]])
    data = testing.gaussian(mean, cov)
    x = np.random.default_rng(2).normal(size=(5, 2))

    def v(x, phi):
        alpha, sigma = np.cos(phi), np.sin(phi)
        solved = np.linalg.solve(alpha**2 * cov + sigma**2 * np.eye(2), (x - alpha * mean).T).T
        return alpha * sigma * solved - sigma * (mean + alpha * solved @ cov)

    phi = [np.arctan2(*scales(t)[::-1]) for t in (90, 5)]
    h, y = (phi[1] - phi[0]) / 400, x
    for i in range(400):
        a = phi[0] + i * h
        k1 = v(y, a)
        k2 = v(y + h / 2 * k1, a + h / 2)
        k3 = v(y + h / 2 * k2, a + h / 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + v(y + h * k3, a + h))
    found = data.flow(SCHEDULE, jnp.asarray(x, jnp.float32), 90, 5)
    np.testing.assert_allclose(found, y, atol=1e-4)
    np.testing.assert_allclose(data.flow(SCHEDULE, found, 5, 90), x, atol=1e-4)


def test_samples_have_the_moments():
    x0 = THREE.sample(samplers.keys_for(jax.random.key(0), 50_000))
    eps = samplers.noise(samplers.keys_for(jax.random.key(1), 50_000), (3,))
    for t in (0, 50):
        x = np.asarray(process.q_sample(SCHEDULE, x0, t, eps), np.float64)
        mean, cov = THREE.moments(SCHEDULE, t)
        np.testing.assert_allclose(x.mean(0), mean, atol=0.04)  # five standard errors
        np.testing.assert_allclose(np.cov(x.T), cov, atol=0.08)


def test_images_are_accepted_in_their_shape():
    data = testing.gaussian(np.arange(12.0), 0.5)
    x = jnp.ones([2, 2, 3, 2])
    prediction = denoise(data, x, jnp.array([3, 50]))
    flat = denoise(data, x.reshape(2, 12), jnp.array([3, 50]))
    np.testing.assert_array_equal(prediction.x0.reshape(2, 12), flat.x0)
    assert prediction.eps.shape == data.flow(SCHEDULE, x, 100, 1).shape == x.shape


@pytest.mark.parametrize("t", [0, 1, 100])
def test_a_point_and_the_ends_are_finite(t):
    schedule = schedules.from_betas([*np.linspace(1e-3, 0.2, 99), 1.0])  # down to zero signal
    prediction = testing.gaussian([2.0], 0.0).denoiser(schedule)(jnp.ones([3, 1]), t, None)
    assert bool(jnp.all(prediction.x0 == 2.0)) and bool(jnp.all(jnp.isfinite(prediction.eps)))


CLASSES = np.array([1, 0, 1])  # of the three, and 2 is the null label
LABELED = labeled(THREE, CLASSES)
of_class = jax.jit(lambda x, t, cond: LABELED.denoiser(SCHEDULE)(x, t, cond))
log_posterior = jax.jit(lambda x, t, cond: LABELED.log_posterior(SCHEDULE)(x, t, cond))


@pytest.mark.parametrize("t", LEVELS)
def test_a_class_is_the_mixture_of_its_components_and_the_null_label_all_of_them(t):
    x = jnp.asarray(np.random.default_rng(3).normal(size=(9, 3)), jnp.float32)
    first = testing.gaussian([2, 1, -1], COVS[1])
    second = testing.mixture([0.5, 0.2], [[0, 0, 0], [-1, 3, 0.5]], [COVS[0], COVS[2]])
    label = jnp.arange(9) % 3
    prediction = of_class(x, t, Cond(label=label))
    for y, data in enumerate((first, second, THREE)):
        expected = denoise(data, x[y::3], t)
        np.testing.assert_allclose(prediction.x0[y::3], expected.x0, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(prediction.eps[y::3], expected.eps, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_class(x, t, None).x0, denoise(THREE, x, t).x0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", [0, *LEVELS])
def test_the_posterior_of_a_class_is_bayes_rule(t):
    """With SciPy's densities."""
    x = np.random.default_rng(4).normal(size=(8, 3))
    alpha, sigma = scales(t)
    each = [
        w
        * stats.multivariate_normal(alpha * np.array(mu, float), alpha**2 * np.array(cov) + sigma**2 * np.eye(3)).pdf(x)
        for w, mu, cov in zip([0.5, 0.3, 0.2], [[0, 0, 0], [2, 1, -1], [-1, 3, 0.5]], COVS)
    ]
    label = np.arange(8) % 3
    joint = np.select([label == 0, label == 1], [each[1], each[0] + each[2]], sum(each))
    log_p = log_posterior(jnp.asarray(x, jnp.float32), t, Cond(label=label))
    np.testing.assert_allclose(log_p, np.log(joint / sum(each)), rtol=1e-4, atol=1e-4)


def test_a_label_that_is_no_class_gives_nan_and_probability_0():
    cond, x = Cond(label=jnp.array([3, -1])), jnp.ones([2, 3])
    assert np.all(np.isnan(of_class(x, 37, cond).x0))
    assert np.all(log_posterior(x, 37, cond) == -np.inf)


MISTAKES = {
    "classes": (lambda: labeled(THREE, [0, 1]), "one for each of 3 components"),
    "gap": (lambda: labeled(THREE, [0, 2, 0]), "counted from 0"),
    "weights": (lambda: testing.mixture([1, 0], [[0.0], [1.0]], [1, 1]), "above 0"),
    "means": (lambda: testing.mixture([1, 1], [[0.0]], [1]), r"\[K, D\]"),
    "covs": (lambda: testing.mixture([1], [[0.0, 1.0]], [[1.0, 1.0, 1.0]]), r"\[K, D, D\]"),
    "asymmetric": (lambda: testing.gaussian([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
    "negative": (lambda: testing.gaussian([0.0], -1.0), "negative variance"),
    "flow": (
        lambda: testing.ring().flow(SCHEDULE, jnp.ones([1, 2]), 9, 1),
        "flow of a mixture of 8 has no closed form",
    ),
}


@pytest.mark.parametrize("make, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
