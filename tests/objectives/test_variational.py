"""Terms of the variational bound: against float64 integrals, the published code's tables, and whole paths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxdiff import process, schedules, testing
from jaxdiff.objectives import variational
from jaxdiff.process import VARIANCES
from jaxdiff.types import Aux, Gaussian, Prediction

HALF = 1 / 255
STANDARD = np.linspace(-12, 12, 100001)  # standard deviations over which densities are integrated


@pytest.mark.parametrize(
    "q, p",
    [((0.3, 1.0), (0.3, 1.0)), ((0.3, 0.5), (-1.0, 2.0)), ((2.0, 0.01), (2.02, 0.0101)), ((0.0, 3.0), (1.0, 0.5))],
)
def test_kl_is_the_integral_of_its_definition(q, p):
    x = q[0] + q[1] * STANDARD
    log_q, log_p = stats.norm.logpdf(x, *q), stats.norm.logpdf(x, *p)
    want = np.trapezoid(np.exp(log_q) * (log_q - log_p), x)
    np.testing.assert_allclose(variational.kl(Gaussian(*q), Gaussian(*p)), want, rtol=1e-5, atol=1e-6)


def test_kl_takes_a_std_for_each_number():
    mean, std = jnp.zeros([2, 3]), jnp.array([[1.0, 2.0, 3.0], [0.1, 0.5, 1.0]])
    found = variational.kl(Gaussian(mean, 1.0), Gaussian(mean + 0.5, std))
    each = [variational.kl(Gaussian(0.0, 1.0), Gaussian(0.5, s)) for s in std.ravel()]
    np.testing.assert_allclose(found.ravel(), each, rtol=1e-6)


def test_the_prior_term_is_that_of_float64():
    x0 = np.array([[0.5, -1.0], [0.9, 0.1]])
    for schedule, betas in [
        (schedules.linear(), np.linspace(1e-4, 0.02, 1000)),
        (schedules.linear(10), np.linspace(1e-4, 0.02, 10)),
    ]:
        abar = np.prod(1 - betas)
        want = (abar * x0**2 - abar - np.log1p(-abar)).mean() / 2 / np.log(2)
        np.testing.assert_allclose(variational.prior_term(schedule, jnp.asarray(x0, jnp.float32)), want, rtol=1e-5)


def test_pure_noise_has_no_prior_term_and_a_finite_gradient():
    schedule = schedules.zero_terminal_snr(schedules.linear())
    value, slope = jax.value_and_grad(variational.prior_term, argnums=1)(schedule, jnp.array([0.5, -1.0]))
    assert float(value) == 0 and not np.any(slope)


# The decoder


@functools.partial(jax.jit, static_argnums=3)
def decode(x0, mean, std, bins=256):
    """-log P of vectors of means, and its derivatives with respect to mean and std."""
    one = lambda x0, mean, std: variational.decoder_nll(x0, Gaussian(mean, std), bins)
    return jax.vmap(jax.value_and_grad(one, argnums=(1, 2)), (0, 0, None))(x0, mean, std)


def by_quadrature(x0, mean, std):
    """-log of the integral over a bin, and its derivative in the mean, in float64; 20,000 midpoints, by logarithms."""
    lo, hi = x0 - HALF, x0 + HALF
    if abs(x0) == 1:  # an open bin: up to 40 standard deviations beyond its edge, or beyond the mean
        far = x0 * (max(abs(lo), abs(hi), x0 * mean) + 40 * std)
        lo, hi = (lo, far) if x0 > 0 else (far, hi)
    edges = np.linspace(lo, hi, 20001)
    z = ((edges[1:] + edges[:-1]) / 2 - mean) / std
    logs = stats.norm.logpdf(z) + np.log((hi - lo) / 20000 / std)
    total = special.logsumexp(logs)
    return -total, -(np.exp(logs - total) * z).sum() / std


@pytest.mark.parametrize("std", [0.001, 0.0047, 0.0074, 0.05, 0.5, 1.0])  # linear and cosine schedules: about 0.005
@pytest.mark.parametrize("x0", [0.0, -1.0, 1.0, 1 - 2 / 255])
def test_the_decoder_is_the_integral_over_a_bin_and_so_is_its_slope(x0, std):
    means = np.concatenate([np.linspace(-0.01, 0.01, 9) + x0, [-2.0, -0.3, 0.141, 0.15, 0.6, 1.0, 3.0]])
    values, (slopes, _) = decode(np.full(16, x0, np.float32), means.astype(np.float32), np.float32(std))
    want = np.array([by_quadrature(x0, np.float64(np.float32(mean)), std) for mean in means])
    # The mean is a float32 near x0: its last digit is 1e-7 / std of a standard deviation.
    np.testing.assert_allclose(values, want[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slopes, want[:, 1], rtol=1e-3, atol=1e-4 / std)


@pytest.mark.parametrize("mean, std", [(0.0, 0.01), (0.97, 0.005), (-1.2, 0.3), (0.5, 1.0)])
@pytest.mark.parametrize("bins", [2, 32, 256])
def test_probabilities_add_up_to_one(mean, std, bins):
    nll, _ = decode(np.linspace(-1, 1, bins, dtype=np.float32), np.full(bins, mean, np.float32), np.float32(std), bins)
    assert float(np.exp(-nll).sum()) == pytest.approx(1, abs=1e-4)


def test_the_far_tail_is_accurate():
    """At 10^5 and 10^9 standard deviations the value is z^2 / 2 and the derivative z / std."""
    x0, mean = np.float32([0, 1]), np.float32([1, 1])
    for off, std in [(-300.0, 0.003), (-1e9, 1.0)]:
        values, (by_mean, by_std) = decode(x0, off * mean, np.float32(std))
        np.testing.assert_allclose(values, 0.5 * (off / std) ** 2, rtol=0.01)
        np.testing.assert_allclose(by_mean, off / std**2, rtol=0.01)
        np.testing.assert_allclose(by_std, -(off**2) / std**3, rtol=0.01)


# Steps


class Published:
    """Tables as in improved DDPM's code, of a chain with one level per step: index k is the step k + 1 -> k."""

    def __init__(self, alphas_cumprod):
        abar = np.asarray(alphas_cumprod, np.float64)
        before = np.append(1.0, abar[:-1])
        self.betas = 1 - abar / before
        variance = self.betas * (1 - before) / (1 - abar)
        self.log_small = np.log(np.append(variance[1], variance[1:]))  # posterior_log_variance_clipped
        self.log_large = np.log(np.append(variance[1], self.betas[1:]))  # FIXED_LARGE
        self.coef_x0 = self.betas * np.sqrt(before) / (1 - abar)
        self.coef_x = (1 - before) * np.sqrt(1 - self.betas) / (1 - abar)

    def term(self, k, x0, predicted, x_t, variance, raw):
        """Term of step k in bits per dimension."""
        share = (raw + 1) / 2
        log_var = {
            "posterior": self.log_small[k],
            "beta": self.log_large[k],
            "learned": share * np.log(self.betas[k]) + (1 - share) * self.log_small[k],
        }[variance]
        mean = self.coef_x0[k] * predicted + self.coef_x[k] * x_t
        if k == 0:
            std = np.broadcast_to(np.exp(log_var / 2), x0.shape)
            return np.mean([by_quadrature(*numbers)[0] for numbers in zip(x0, mean, std)]) / np.log(2)
        error = self.coef_x0[k] * x0 + self.coef_x[k] * x_t - mean
        true = self.log_small[k]
        kl = 0.5 * (-1 + log_var - true + np.exp(true - log_var) + error**2 * np.exp(-log_var))
        return kl.mean() / np.log(2)


LINEAR = schedules.linear(100, 1e-3, 0.2)
ABAR = np.append(1.0, np.cumprod(1 - np.linspace(1e-3, 0.2, 100)))
NO_SIGNAL = schedules.from_betas([0.1, 0.3, 0.6, 1.0])
CHAINS = {
    "every level": (schedules.linear(6, 0.01, 0.5), np.cumprod(1 - np.linspace(0.01, 0.5, 6)), np.arange(7)),
    "strided": (LINEAR, ABAR[[7, 25, 60, 100]], np.array([0, 7, 25, 60, 100])),
    "floats": (LINEAR, ABAR[[7, 25, 60, 100]], np.array([0.0, 7.0, 25.0, 60.0, 100.0])),
    "to pure noise": (NO_SIGNAL, np.cumprod([0.9, 0.7, 0.4, 0.0]), np.arange(5)),
}


@functools.partial(jax.jit, static_argnums=0)
def terms(variance, schedule, x0, predicted, raw, x_t, t, s, above):
    """One term per step, with all levels traced."""

    def one(x0, predicted, raw, x_t, t, s, above):
        prediction = process.predict_from("x0", schedule, predicted, x_t, t)._replace(aux=Aux(variance=raw))
        return variational.bound_term(schedule, prediction, x0, x_t, t, s, above, variance)

    return jax.vmap(one)(x0, predicted, raw, x_t, t, s, above)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("name", CHAINS)
def test_terms_are_those_of_the_published_code(name, variance):
    schedule, abar, levels = CHAINS[name]
    N, rng, chain = len(abar), np.random.default_rng(0), Published(abar)
    x0 = np.round(rng.uniform(0, 255, [N, 5])) / 127.5 - 1
    x0[:, 0], x0[:, 1] = 1, -1
    predicted, raw = x0 + 0.05 * rng.normal(size=x0.shape), rng.uniform(-1, 1, x0.shape)
    x_t = np.sqrt(abar)[:, None] * x0 + np.sqrt(1 - abar)[:, None] * rng.normal(size=x0.shape)
    above = np.append(levels[2:], schedule.num_levels + 1)  # of the first step: a level that does not exist
    rows = [jnp.asarray(x, jnp.float32) for x in (x0, predicted, raw, x_t)]
    found = terms(variance, schedule, *rows, levels[1:], levels[:-1], above)
    want = [chain.term(k, x0[k], predicted[k], x_t[k], variance, raw[k]) for k in range(N)]
    np.testing.assert_allclose(found, want, rtol=2e-4, atol=1e-5)


def test_the_published_approximation_of_the_decoder_is_close_in_its_range():
    """Within three bins and two standard deviations: 0.01 nats."""
    phi = lambda x: 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    mean, std = np.linspace(-0.02, 0.02, 41)[:, None], np.array([0.01, 0.02, 0.05])
    want = -np.log(phi((HALF - mean) / std) - phi((-HALF - mean) / std))
    found = variational.decoder_nll(jnp.zeros([41, 3]), Gaussian(jnp.asarray(mean + 0 * std), jnp.asarray(std)[None]))
    np.testing.assert_allclose(found, want, atol=0.01)


@pytest.mark.parametrize("variance", VARIANCES)
def test_gradients_are_finite_at_both_ends_and_depend_on_a_learned_variance(variance):
    """With respect to the prediction and the schedule's tables, with levels traced; also for an exact prediction."""
    x0 = jnp.array([1.0, -1.0, 0.2, 0.4])

    @jax.jit
    def slopes(off, t, s, above):
        x_t = process.q_sample(NO_SIGNAL, x0, t, jnp.array([0.3, -1.0, 0.5, 2.0]))
        prediction = process.predict_from("x0", NO_SIGNAL, x0 + off, x_t, t)
        prediction = prediction._replace(aux=Aux(variance=jnp.full(4, 0.1)))
        total = lambda schedule, prediction: variational.bound_term(
            schedule, prediction, x0, x_t, t, s, above, variance
        )
        return jax.grad(total, argnums=(0, 1))(NO_SIGNAL, prediction)

    for off in (0.0, 0.3, 50.0):
        for t, s, above in [(1, 0, 2), (2, 0, 4), (2, 1, 3), (4, 3, 5), (4, 1, 0)]:
            found = slopes(off, t, s, above)
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found)), (off, t, s)
            assert off == 0 or np.any(found[1].x0), "the prediction has no gradient"
            assert np.any(found[1].aux.variance) == (variance == "learned")


# The whole bound

MEAN, COV = np.array([0.2, -0.3]), np.array([[0.09, 0.04], [0.04, 0.06]])
SHORT, BETAS = schedules.linear(10, 0.02, 0.7), np.linspace(0.02, 0.7, 10)


def log_normal(x, mean, std):
    """Log density of each example, which has two numbers."""
    return -0.5 * np.square((x - mean) / std).sum(-1) - 2 * np.log(std) - np.log(2 * np.pi)


def direct(x, raw, variance):
    """-log p(x_0, ..., x_T) + log q(x_1, ..., x_T | x_0) of paths x [T + 1, N, 2], in nats of each; float64.

    The model's step is the posterior with the exact prediction of x_0, computed here by conditioning a Gaussian.
    """
    abar = np.append(1.0, np.cumprod(1 - BETAS))
    nats = -log_normal(x[10], 0.0, 1.0)
    for t in range(1, 11):
        beta, a, before = BETAS[t - 1], abar[t], abar[t - 1]
        nats += log_normal(x[t], np.sqrt(1 - beta) * x[t - 1], np.sqrt(beta))
        gain = np.sqrt(a) * COV @ np.linalg.inv(a * COV + (1 - a) * np.eye(2))
        predicted = MEAN + (x[t] - np.sqrt(a) * MEAN) @ gain.T
        mean = (np.sqrt(before) * beta * predicted + np.sqrt(1 - beta) * (1 - before) * x[t]) / (1 - a)
        small = beta * (1 - before) / (1 - a) if t > 1 else BETAS[1] * (1 - abar[1]) / (1 - abar[2])
        large = beta if t > 1 or variance == "learned" else small
        share = {"posterior": 0.0, "beta": 1.0, "learned": (raw + 1) / 2}[variance]
        std = np.sqrt(large**share * small ** (1 - share))
        if t > 1:
            nats -= log_normal(x[t - 1], mean, std)
        else:
            nats -= np.log(np.diff(special.ndtr((x[0] - mean)[..., None] / std + [-HALF / std, HALF / std]))).sum(
                (1, 2)
            )
    return nats


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_bound_is_that_of_whole_paths(variance):
    """L_T + sum_t L_{t-1} + L_0 is the expectation of a path's log-ratio: 100,000 paths, to four standard errors.

    Terms and log-ratios are of the same paths, so that only their difference has noise: below 0.005 bits per dimension.
    """
    N, raw, rng = 100_000, 0.3, np.random.default_rng(0)
    x0 = np.round(127.5 * (rng.multivariate_normal(MEAN, COV, N) + 1)) / 127.5 - 1
    x0 = x0[np.abs(x0).max(-1) < 1]  # no value at the edges, so that no bin is open
    x = [x0]
    for beta in BETAS:
        x.append(np.sqrt(1 - beta) * x[-1] + np.sqrt(beta) * rng.normal(size=x0.shape))
    want = direct(x, raw, variance) / 2 / np.log(2)

    @jax.jit
    def bound(x):
        data, total = testing.gaussian(MEAN, COV), jax.vmap(variational.prior_term, (None, 0))(SHORT, x[0])
        for t in range(1, 11):
            x0, eps, _ = data.denoiser(SHORT)(x[t], t, None)
            prediction = Prediction(x0, eps, Aux(variance=jnp.full_like(x0, raw)))
            term = lambda p, x0, x_t, t=t: variational.bound_term(SHORT, p, x0, x_t, t, t - 1, t + 1, variance)
            total += jax.vmap(term)(prediction, x[0], x[t])
        return total

    off = np.asarray(bound(jnp.asarray(np.stack(x), jnp.float32)), np.float64) - want
    error = off.std() / np.sqrt(len(off))
    assert error < 0.005 and abs(off.mean()) < 4 * error, f"{off.mean():.4f} bits off, of a standard error {error:.4f}"


def test_errors():
    x = jnp.zeros(2)
    with pytest.raises(ValueError, match="unknown variance 'fixed'"):
        variational.bound_term(SHORT, Prediction(x, x), x, x, 2, 1, 3, "fixed")
    with pytest.raises(ValueError, match="needs a network with 2C output channels"):
        variational.bound_term(SHORT, Prediction(x, x), x, x, 2, 1, 3, "learned")
