"""The variance-exploding process y_w = x_0 + w eps is ours rescaled, y = x / alpha and w = sigma / alpha.

The VE samplers of the papers, in float64 NumPy, give the same samples as ours.
"""

import jax
import numpy as np
import pytest

from jaxdiff import process, samplers, schedules, testing, timesteps

SCHEDULE, DATA = schedules.linear(1000), testing.mixture([0.3, 0.7], [[1.0, -0.5], [-1.0, 0.5]], [0.04, 0.09])
KEY, B, N = jax.random.key(0), 16, 12


def denoise(y, w):
    """E[x_0 | y_w] of the mixture, by its definition and without a schedule."""
    means, variances = np.array([[1.0, -0.5], [-1.0, 0.5]]), np.array([0.04, 0.09])
    total = variances + w**2
    difference = y[:, None] - means
    log_p = np.log([0.3, 0.7]) - np.log(total) - 0.5 * np.square(difference).sum(-1) / total
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return (p[:, :, None] * (means + (variances / total)[:, None] * difference)).sum(1)


def euler(y, w, v, z):
    """dy/dw = (y - D(y, w)) / w (Karras et al. 2022, eq. 1)."""
    return y + (v - w) * (y - denoise(y, w)) / w


def heun(y, w, v, z):
    """Karras et al. 2022, algorithm 1."""
    slope = (y - denoise(y, w)) / w
    ahead = y + (v - w) * slope
    return y + (v - w) * (slope + (ahead - denoise(ahead, v)) / v) / 2 if v > 0 else ahead


def ancestral(y, w, v, z):
    """The reverse of the Markov chain y_w = y_v + sqrt(w^2 - v^2) eps (Song et al. 2021, score SDE, appendix F)."""
    score = (denoise(y, w) - y) / w**2
    return y + (w**2 - v**2) * score + np.sqrt(v**2 * (w**2 - v**2) / w**2) * z


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize(
    "step, sampler",
    [(euler, samplers.ddim()), (heun, samplers.heun()), (ancestral, samplers.ddpm()), (ancestral, samplers.ddim(1.0))],
    ids=["euler is ddim", "heun", "ancestral is ddpm", "ancestral is ddim of eta 1"],
)
def test_variance_exploding_and_preserving_samples_coincide(step, sampler, end):
    keys, levels = samplers.keys_for(KEY, B), timesteps.grid(1000, N, end=end)
    x_T = samplers.noise(keys, (2,))
    x, _ = samplers.sample(KEY, sampler, DATA.denoiser(SCHEDULE), SCHEDULE, levels, x_T)
    alpha, sigma = (np.asarray(table, np.float64)[levels] for table in (SCHEDULE.alpha, SCHEDULE.sigma))
    w, y = sigma / alpha, np.asarray(x_T, np.float64) / alpha[0]
    for i in range(N):
        z = samplers.normal(jax.vmap(jax.random.fold_in, (0, None))(keys, i + 1), (2,))
        y = step(y, w[i], w[i + 1], np.asarray(z, np.float64))
    np.testing.assert_allclose(x, alpha[-1] * y, atol=3e-4)  # float32, through a mixture's switch between its modes


def test_variance_exploding_data_is_variance_preserving_data_rescaled():
    """x_0 + w eps over sqrt(1 + w^2) is q_sample's x_t at the level where sigma / alpha is w."""
    x0, eps = np.float32([[1.0, -2.0]]), np.float32([[0.5, 1.5]])
    for t in (1, 300, 1000):
        alpha, sigma = (float(scale) for scale in SCHEDULE(t))
        y = x0 + sigma / alpha * eps
        x_t = process.q_sample(SCHEDULE, x0, t, eps)
        np.testing.assert_allclose(y / np.sqrt(1 + (sigma / alpha) ** 2), x_t, rtol=1e-5)
