"""Every sampler on Gaussian data against its own recursion, from the papers' formulas in float64.

The optimal denoiser of a Gaussian is affine in x, and so is every step: with h = (x, what is remembered, 1) a sampler is a
product of matrices, h <- M h + noise, and mean and covariance after every step follow. Their distance from the data's is
the sampler's bias. Here the formulas act on rows of such matrices; the samplers run on 20,000 paths, with denoisers made
from networks that say the exact eps, x0, v or score.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.tree_util import Partial

from jaxdiff import denoise, process, samplers, schedules, testing, timesteps
from jaxdiff.samplers.dpmpp import dpmpp_2m
from jaxdiff.samplers.euler_ancestral import euler_ancestral
from jaxdiff.samplers.heun import heun
from jaxdiff.samplers.lcm import lcm
from jaxdiff.samplers.ode import probability_flow_fixed
from jaxdiff.samplers.pndm import pndm
from jaxdiff.samplers.sde import euler_maruyama, reverse_diffusion
from jaxdiff.samplers.unipc import unipc
from jaxdiff.types import Aux

T, PATHS, D = 1000, 20_000, 2
ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, T))])
ALPHA, SIGMA = np.sqrt(ABAR), np.sqrt(1 - ABAR)
ANGLE = np.arctan2(SIGMA, ALPHA)
with np.errstate(divide="ignore"):
    LAMBDA = np.log(ALPHA) - np.log(SIGMA)  # half the log-SNR; infinite at level 0
W = SIGMA / ALPHA
SCHEDULE = schedules.linear(T)
DATA = {  # mean and covariance
    "cloud": (np.array([1.0, -0.5]), np.array([[0.5, 0.2], [0.2, 0.3]])),
    "point": (np.array([1.5, -0.5]), np.zeros([2, 2])),
    "standard": (np.zeros(2), np.eye(2)),
}
LEVELS = {
    "leading": timesteps.grid(T, 6, "leading", offset=1, end=1),
    "trailing": timesteps.grid(T, 6, "trailing"),
    "linspace": timesteps.grid(T, 6, "linspace"),
    "quadratic": timesteps.grid(T, 6, "quadratic"),
}
KINDS = process.KINDS
CASES = [("cloud", spacing, kind) for spacing in LEVELS for kind in range(len(KINDS))]
CASES += [(data, spacing, kind) for data in ("point", "standard") for kind, spacing in enumerate(LEVELS)]


# The papers' formulas. believe(x, t) is E[x_0 | x_t = x] and E[eps | x_t = x]; `past` are the levels before t.
# Each returns x_s without its noise, what is remembered, and the noise's standard deviation.


def ddpm(variance, believe, t, s, past, x, memory):
    """Ho et al. 2020, eqs. 6 and 7, with the beta of a step t -> s."""
    beta = 1 - ABAR[t] / ABAR[s]
    first, second = ALPHA[s] * beta / (1 - ABAR[t]), np.sqrt(1 - beta) * (1 - ABAR[s]) / (1 - ABAR[t])
    small = beta * (1 - ABAR[s]) / (1 - ABAR[t])
    large = beta if s > 0 else 0
    return first * believe(x, t)[0] + second * x, [], np.sqrt({"posterior": small, "beta": large}[variance])


def ddim(eta, believe, t, s, past, x, memory):
    """Song, Meng and Ermon 2021, eqs. 12 and 16."""
    x0, eps = believe(x, t)
    std = eta * np.sqrt((1 - ABAR[s]) / (1 - ABAR[t])) * np.sqrt(1 - ABAR[t] / ABAR[s])
    return ALPHA[s] * x0 + np.sqrt(1 - ABAR[s] - std**2) * eps, [], std


def maruyama(believe, t, s, past, x, memory):
    """Song et al. 2021 (score SDE), eq. 6 with the drift of eq. 11, over the integral of beta."""
    B = np.log(ABAR[s] / ABAR[t])
    return x + B / 2 * x - B * believe(x, t)[1] / SIGMA[t], [], np.sqrt(B) * (s > 0)


def reversed_chain(believe, t, s, past, x, memory):
    """The same, algorithm 3, predictor."""
    beta = 1 - ABAR[t] / ABAR[s]
    return (2 - np.sqrt(1 - beta)) * x - beta * believe(x, t)[1] / SIGMA[t], [], np.sqrt(beta) * (s > 0)


def flow(believe, t, s, past, x, memory):
    """Heun's method for dx/dphi = cos(phi) eps - sin(phi) x0, to level 1, and DDIM from there to 0."""

    def v(x, t):
        x0, eps = believe(x, t)
        return ALPHA[t] * eps - SIGMA[t] * x0

    to = max(s, 1)
    step, begin = ANGLE[to] - ANGLE[t], v(x, t)
    x = x + step / 2 * (begin + v(x + step * begin, to))
    return (x if s else believe(x, to)[0]), [], 0.0


def edm(believe, t, s, past, x, memory):
    """Karras et al. 2022, algorithm 2 without churn, in y = x / alpha."""
    slope = lambda y, t: (y - believe(ALPHA[t] * y, t)[0]) / W[t]
    y, d = x / ALPHA[t], slope(x / ALPHA[t], t)
    euler = y + (W[s] - W[t]) * d
    return ALPHA[s] * (euler if s == 0 else y + (W[s] - W[t]) * (d + slope(euler, s)) / 2), [], 0.0


def dpm_2m(sde, believe, t, s, past, x, memory):
    """Lu et al. 2022 (DPM-Solver++), algorithm 2, and its SDE form; first order where a log-SNR is not there."""
    x0, _ = believe(x, t)
    D, h = x0, LAMBDA[s] - LAMBDA[t]
    if past and s > 0:
        r = (LAMBDA[t] - LAMBDA[past[-1]]) / h
        D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * memory[0]
    if not sde:
        return SIGMA[s] / SIGMA[t] * x - ALPHA[s] * np.expm1(-h) * D, [x0], 0.0
    mean = SIGMA[s] / SIGMA[t] * np.exp(-h) * x - ALPHA[s] * np.expm1(-2 * h) * D
    return mean, [x0], SIGMA[s] * np.sqrt(-np.expm1(-2 * h))


def uni_pc(believe, t, s, past, x, memory):
    """Zhao et al. 2023, algorithms 5 and 6, UniPC-2 with B_2(h) = e^-h - 1; x is predicted, and corrected here."""
    corrected, last, older = memory
    x0, _ = believe(x, t)
    if past:
        p = past[-1]
        h = LAMBDA[t] - LAMBDA[p]
        B = np.expm1(-h)
        if len(past) == 1:
            change = (x0 - last) / 2
        else:
            r = (LAMBDA[past[-2]] - LAMBDA[p]) / h
            phi = B / -h - 1  # h phi_2, then h phi_3, with their factorials
            b = [phi / B, (phi / -h - 1 / 2) * 2 / B]
            rho = np.linalg.solve([[1, 1], [r, 1]], b)
            change = rho[0] * (older - last) / r + rho[1] * (x0 - last)
        x = SIGMA[t] / SIGMA[p] * corrected - ALPHA[t] * B * (last + change)
    if s == 0:
        return x0, [x, x0, last], 0.0
    h, change = LAMBDA[s] - LAMBDA[t], 0
    if past:
        change = (last - x0) * h / (LAMBDA[past[-1]] - LAMBDA[t]) / 2
    return SIGMA[s] / SIGMA[t] * x - ALPHA[s] * np.expm1(-h) * (x0 + change), [x, x0, last], 0.0


def plms(believe, t, s, past, x, memory):
    """Liu et al. 2022, eq. 12 with its start-up formulas, through the transfer of eq. 11, which is DDIM's step."""
    eps, (e1, e2, e3) = believe(x, t)[1], memory
    move = lambda e: ALPHA[s] * (x - SIGMA[t] * e) / ALPHA[t] + SIGMA[s] * e
    slope = [
        lambda: (eps + believe(move(eps), s)[1]) / 2,
        lambda: (3 * eps - e1) / 2,
        lambda: (23 * eps - 16 * e1 + 5 * e2) / 12,
        lambda: (55 * eps - 59 * e1 + 37 * e2 - 9 * e3) / 24,
    ][min(len(past), 3)]()
    return move(slope), [eps, e1, e2], 0.0


def k_ancestral(believe, t, s, past, x, memory):
    """Euler to w_down and noise w_up, in y = x / alpha (k-diffusion)."""
    up = np.sqrt(W[s] ** 2 * (W[t] ** 2 - W[s] ** 2) / W[t] ** 2)
    down = np.sqrt(W[s] ** 2 - up**2)
    y = x / ALPHA[t]
    return ALPHA[s] * (y + (down - W[t]) * (y - believe(x, t)[0]) / W[t]), [], ALPHA[s] * up


def consistency(believe, t, s, past, x, memory):
    """Luo et al. 2023, algorithm 3, with c_skip and c_out of the published timestep t - 1, scaled by 10."""
    tau, d = 10 * (t - 1), 0.5
    end = d**2 / (tau**2 + d**2) * x + tau / np.sqrt(tau**2 + d**2) * believe(x, t)[0]
    return ALPHA[s] * end, [], SIGMA[s]


DETERMINISTIC = {  # sampler, formula, how many things are remembered
    "ddim 0": (samplers.ddim, Partial(ddim, 0.0), 0),
    "probability_flow_fixed": (probability_flow_fixed, flow, 0),
    "heun": (heun, edm, 0),
    "dpmpp_2m": (dpmpp_2m, Partial(dpm_2m, False), 1),
    "unipc": (unipc, uni_pc, 3),
    "pndm": (pndm, plms, 3),
}
STOCHASTIC = {
    "ddpm posterior": (samplers.ddpm, Partial(ddpm, "posterior"), 0),
    "ddpm beta": (lambda: samplers.ddpm("beta"), Partial(ddpm, "beta"), 0),
    "ddim 0.3": (lambda: samplers.ddim(0.3), Partial(ddim, 0.3), 0),
    "ddim 1": (lambda: samplers.ddim(1.0), Partial(ddim, 1.0), 0),
    "euler_maruyama": (euler_maruyama, maruyama, 0),
    "reverse_diffusion": (reverse_diffusion, reversed_chain, 0),
    "euler_ancestral": (euler_ancestral, k_ancestral, 0),
    "dpmpp_2m sde": (lambda: dpmpp_2m(sde=True), Partial(dpm_2m, True), 1),
    "lcm": (lcm, consistency, 0),
}
EVERY = DETERMINISTIC | STOCHASTIC


def recursion(formula, slots, data, levels):
    """For each step P and Q: x = P (x_T, 1) + noise of covariance Q; a list of ([D, D + 1], [D, D])."""
    mean, cov = data
    n = D * (1 + slots) + 1
    one = np.eye(n)[-1:]

    def believe(x, t):
        """E[x_0 | x_t] = m + alpha S C^-1 (x_t - alpha m) and E[eps | x_t], C = alpha^2 S + sigma^2."""
        inverse = np.linalg.inv(ABAR[t] * cov + (1 - ABAR[t]) * np.eye(D))
        from_mean = inverse @ (x - ALPHA[t] * mean[:, None] * one)
        return mean[:, None] * one + ALPHA[t] * cov @ from_mean, SIGMA[t] * from_mean

    start = np.zeros([n, D + 1])
    start[:D, :D], start[-1, -1] = np.eye(D), 1
    whole, noise, found = start, np.zeros([n, n]), []
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        x, *memory = np.split(np.eye(n)[:-1], 1 + slots)
        x, memory, std = formula(believe, t, s, list(levels[:i]), x, memory)
        step = np.concatenate([x, *memory, one])
        whole, noise = step @ whole, step @ noise @ step.T
        noise[:D, :D] += std**2 * np.eye(D)
        found.append((whole[:D], noise[:D, :D]))
    return found


def marginal(data, t):
    mean, cov = DATA[data]
    return ALPHA[t] * mean, ABAR[t] * cov + (1 - ABAR[t]) * np.eye(D)


def moments(formula, slots, data, spacing):
    """Mean of x and covariance of (x, x_T), [2 D, 2 D], after every step, beginning in the marginal."""
    mean, cov = marginal(data, LEVELS[spacing][0])
    steps = [(P @ np.append(mean, 1), P[:, :D], Q) for P, Q in recursion(formula, slots, DATA[data], LEVELS[spacing])]
    return [(m, np.block([[P @ cov @ P.T + Q, P @ cov], [cov @ P.T, cov]])) for m, P, Q in steps]


def allowed(cov):
    """Five standard errors of a covariance of PATHS draws, and what float32 may add."""
    var = np.diag(cov)
    return 5 * np.sqrt((np.outer(var, var) + cov**2) / PATHS) + 1e-4


# The samplers.


@functools.cache
def network(kind):
    """A network whose parameters are the data's mean and covariance, and which is always right."""

    def apply(params, x, t, cond, keys=None):
        mean, cov = params
        angle = jnp.interp(t, jnp.arange(T + 1), jnp.asarray(ANGLE, jnp.float32))
        alpha, sigma = jnp.cos(angle), jnp.sin(angle)
        away = (x - (alpha * mean)[None]) @ jnp.linalg.inv(alpha**2 * cov + sigma**2 * jnp.eye(D))
        x0, eps = mean[None] + alpha * away @ cov, sigma * away
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "score": -away}[kind], Aux()

    return apply


def of_kind(kind, data, x, t, cond):
    branches = [denoise.denoiser(network(name), data, SCHEDULE, name) for name in process.KINDS]
    return lax.switch(kind, branches, x, t, cond)


def all_paths(sampler, key, paths):
    """For each case x after every step, [cases, steps, paths, D], and x_T [cases, paths, D]."""
    z = np.random.default_rng(0).standard_normal([paths, D])
    firsts = [marginal(data, LEVELS[spacing][0]) for data, spacing, _ in CASES]
    x_T = np.stack([mean + z @ np.linalg.cholesky(cov).T for mean, cov in firsts]).astype(np.float32)

    def draw(mean, cov, kind, levels, x_T):
        denoiser = Partial(of_kind, kind, (mean, cov))
        collect = lambda state, _: state.x
        return samplers.sample(key, sampler, denoiser, SCHEDULE, levels, x_T, collect=collect)[1]

    rows = [(*DATA[data], kind, LEVELS[spacing]) for data, spacing, kind in CASES]
    means, covs, kinds, levels = (np.stack(column) for column in zip(*rows))
    xs = jax.vmap(draw)(means.astype(np.float32), covs.astype(np.float32), kinds, levels, x_T)
    return np.asarray(xs, np.float64), x_T.astype(np.float64)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_mean_and_covariance_after_every_step_follow_the_recursion(name):
    """With the covariance of x and x_T, which shows how much of the noise is new, as eta says."""
    make, formula, slots = STOCHASTIC[name]
    xs, x_T = all_paths(make(), jax.random.key(0), PATHS)
    for case, first, after in zip(CASES, x_T, xs):
        for x, (mean, cov) in zip(after, moments(formula, slots, *case[:2])):
            off = np.abs(x.mean(0) - mean)
            assert np.all(off < 5 * np.sqrt(np.diag(cov)[:D] / PATHS) + 1e-4), f"{case}: mean off by {off}"
            off = np.abs(np.cov(np.concatenate([x, first], 1).T) - cov)
            assert np.all(off < allowed(cov)), f"{case}: covariance off by {off}"


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_path_follows_the_recursion(name):
    """Without noise it holds path by path, to float32, and so for their mean and covariance."""
    make, formula, slots = DETERMINISTIC[name]
    xs, x_T = all_paths(make(), None, 2000)
    for case, first, after in zip(CASES, x_T, xs):
        for x, (P, _) in zip(after, recursion(formula, slots, DATA[case[0]], LEVELS[case[1]])):
            np.testing.assert_allclose(x, first @ P[:, :D].T + P[:, D], atol=5e-4)


# What the recursions must be by theory: the formulas above are held to it, and so the samplers.
NOT_EXACT = {  # on a single point: another variance, a drift or an angle discretised, or no solver
    "ddpm beta",
    "euler_maruyama",
    "reverse_diffusion",
    "probability_flow_fixed",
    "lcm",
}
EXACT_ON_POINTS = [name for name in EVERY if name not in NOT_EXACT]


@pytest.mark.parametrize("spacing", LEVELS)
@pytest.mark.parametrize("name, data", [(name, "point") for name in EXACT_ON_POINTS] + [("ddpm beta", "standard")])
def test_the_recursion_is_the_marginal_where_theory_says_so(name, data, spacing):
    _, formula, slots = EVERY[name]
    for s, (mean, cov) in zip(LEVELS[spacing][1:], moments(formula, slots, data, spacing)):
        if s > 0 or data == "point":  # fixed-large adds no noise into level 0
            np.testing.assert_allclose(mean, marginal(data, s)[0], atol=1e-9)
            np.testing.assert_allclose(cov[:D, :D], marginal(data, s)[1], atol=1e-9)


def test_the_recursions_differ_so_that_these_tests_can_fail():
    """Somewhere by more than is allowed, but for three names of the same step."""
    same = {"ddpm posterior", "ddim 1", "euler_ancestral"}
    covs = {name: [cov for case in CASES for _, cov in moments(*how[1:], *case[:2])] for name, how in EVERY.items()}
    for (one, a), (other, b) in itertools.combinations(covs.items(), 2):
        apart = max((np.abs(p - q) / allowed(p)).max() for p, q in zip(a, b))
        assert apart < 1e-9 if {one, other} <= same else apart > 1, (one, other, apart)


NOT_AFFINE = {"predictor_corrector", "probability_flow"}  # their steps are as long as x says


def test_no_sampler_is_left_out():
    makers = {name: getattr(samplers, name) for name in samplers.__all__}
    named = {name for name, f in makers.items() if getattr(f, "__annotations__", {}).get("return") is samplers.Sampler}
    assert named >= {"ddim", "ddpm"}
    assert named - NOT_AFFINE <= {name.split()[0] for name in EVERY}


# Elsewhere the bias falls at the order claimed: on a mixture, the means of three functions at level 1.

FINE = schedules.linear(4096, 0.1 / 4096, 20 / 4096)  # the VP-SDE's own schedule, so fine that levels need no rounding
WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.1, 0.05])
MIXTURE = testing.mixture(WEIGHTS, MEANS[:, None], VARIANCES)


def mixture_at(t):
    """Means and variances of the components."""
    alpha, sigma = (float(v) for v in FINE(t))
    return alpha * MEANS, alpha**2 * VARIANCES + sigma**2


def bias(sampler, key, x_T, weights, steps):
    """Distance of the means of x, x^2 and cos(2 x) from the exact ones."""
    levels = timesteps.grid(4096, steps, end=1)
    x, _ = samplers.sample(key, sampler, MIXTURE.denoiser(FINE), FINE, levels, jnp.asarray(x_T, jnp.float32)[:, None])
    x, (m, v) = np.asarray(x[:, 0], np.float64), mixture_at(1)
    exact = WEIGHTS @ np.stack([m, m**2 + v, np.exp(-2 * v) * np.cos(2 * m)], -1)
    return np.linalg.norm(weights @ np.stack([x, x**2, np.cos(2 * x)], -1) - exact)


@pytest.mark.parametrize("name, order", [("ddim 0", 1), ("probability_flow_fixed", 2)])
def test_on_a_mixture_the_bias_of_the_flow_falls_at_its_order(name, order):
    """x_T by the midpoint rule over its density, which is exact to float32 for a smooth map."""
    x_T, (m, v) = np.linspace(-6, 6, 2001), mixture_at(4096)
    weights = np.exp(-((x_T[:, None] - m) ** 2) / v / 2) / np.sqrt(v) @ WEIGHTS
    counts = [32, 128]
    errors = [bias(EVERY[name][0](), None, x_T, weights / weights.sum(), count) for count in counts]
    assert abs(testing.order_of(counts, errors) - order) < 0.3, errors


@pytest.mark.parametrize("name", ["ddpm posterior", "ddpm beta", "euler_maruyama", "reverse_diffusion"])
def test_on_a_mixture_the_bias_of_random_samplers_falls_at_first_order(name):
    """100,000 paths: standard error 0.003."""
    paths, rng, (m, v) = 100_000, np.random.default_rng(0), mixture_at(4096)
    k = rng.choice(2, paths, p=WEIGHTS)
    x_T = m[k] + np.sqrt(v[k]) * rng.standard_normal(paths)
    counts = [8, 32]
    errors = [bias(EVERY[name][0](), jax.random.key(1), x_T, np.full(paths, 1 / paths), count) for count in counts]
    assert abs(testing.order_of(counts, errors) - 1) < 0.3, errors
