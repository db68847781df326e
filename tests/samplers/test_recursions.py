"""Every sampler on Gaussian data against its own recursion, from the papers' formulas in float64.

The optimal denoiser of a Gaussian is affine in x, and so is every step: with h = (x, memory, 1) a sampler is a product of
matrices, h <- M h + N z, so that x after every step is an affine function of x_T and of all draws z. That is compared path
by path, to float32. The draws are independent standard normals, so mean and covariance follow, and their distance from the
data's is the sampler's bias. Here the formulas act on rows of such matrices; the samplers run with denoisers of networks
that output the exact eps, x0, v or score.
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
from jaxdiff.samplers.cfgpp import ddim_cfgpp
from jaxdiff.samplers.dpmpp import dpmpp_2m
from jaxdiff.samplers.euler_ancestral import euler_ancestral
from jaxdiff.samplers.flow_heun import flow_heun
from jaxdiff.samplers.heun import heun
from jaxdiff.samplers.lcm import lcm
from jaxdiff.samplers.ode import probability_flow_fixed
from jaxdiff.samplers.pndm import pndm
from jaxdiff.samplers.sde import euler_maruyama, reverse_diffusion
from jaxdiff.samplers.unipc import unipc
from jaxdiff.types import Aux, Guided

T, N, D = 1000, 6, 2
ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, T))])
ANGLE = np.arctan2(np.sqrt(1 - ABAR), np.sqrt(ABAR))
SCHEDULE = schedules.linear(T)
DATA = {  # mean and covariance
    "cloud": (np.array([1.0, -0.5]), np.array([[0.5, 0.2], [0.2, 0.3]])),
    "point": (np.array([1.5, -0.5]), np.zeros([2, 2])),
    "standard": (np.zeros(2), np.eye(2)),
}
LEVELS = {
    "leading": timesteps.grid(T, N, "leading", offset=1, end=1),
    "trailing": timesteps.grid(T, N, "trailing"),
    "linspace": timesteps.grid(T, N, "linspace"),
    "quadratic": timesteps.grid(T, N, "quadratic"),
    "karras": timesteps.grid_by_sigma(SCHEDULE, N, "karras", end=0),
    "exponential": timesteps.grid_by_sigma(SCHEDULE, N, "exponential"),
}
CASES = list(itertools.product(DATA, LEVELS))
RAW = np.array([0.4, -0.5])  # the network's output for the variance of each component
SHIFT = np.array([0.6, -0.4])  # of the mean of conditional data


# The schedule in float64; between levels by interpolation in the angle.


def angle(t):
    return np.interp(t, np.arange(T + 1), ANGLE)


def alpha(t):
    return np.cos(angle(t))


def sigma(t):
    return np.sin(angle(t))


def w(t):
    return np.tan(angle(t))


def lam(t):
    """Half the log-SNR; infinite at level 0."""
    return -np.log(w(t))


def beta_of(t, s):
    """beta of a step t -> s."""
    return 1 - alpha(t) ** 2 / alpha(s) ** 2


# The papers' formulas. predict(x, t) is E[x_0 | x_t = x] and E[eps | x_t = x], with SHIFT those of conditional data;
# `levels` are those visited so far, t and s the last two; z is the step's draw. Each returns x_s and the memory.


def ddpm(variance, predict, levels, x, z, memory):
    """Ho et al. 2020, eqs. 6 and 7, with the beta of a step t -> s; Nichol and Dhariwal 2021, eq. 15."""
    *_, t, s = levels
    beta = beta_of(t, s)
    first, second = alpha(s) * beta / sigma(t) ** 2, np.sqrt(1 - beta) * sigma(s) ** 2 / sigma(t) ** 2
    small, large = beta * sigma(s) ** 2 / sigma(t) ** 2, beta if s > 0 else 0.0
    share = {"posterior": 0.0, "beta": 1.0, "learned": (RAW[:, None] + 1) / 2}[variance]
    return first * predict(x, t)[0] + second * x + np.sqrt(large**share * small ** (1 - share)) * z, []


def ddim(eta, predict, levels, x, z, memory):
    """Song, Meng and Ermon 2021, eqs. 12 and 16."""
    *_, t, s = levels
    x0, eps = predict(x, t)
    std = eta * sigma(s) / sigma(t) * np.sqrt(beta_of(t, s))
    return alpha(s) * x0 + np.sqrt(sigma(s) ** 2 - std**2) * eps + std * z, []


def cfg_pp(scale, predict, levels, x, z, memory):
    """Chung et al. 2024, algorithm 2."""
    *_, t, s = levels
    (_, cond), (_, uncond) = predict(x, t, SHIFT), predict(x, t)
    eps = uncond + scale * (cond - uncond)
    x0 = (x - sigma(t) * eps) / alpha(t)
    return alpha(s) * x0 + sigma(s) * uncond, []


def maruyama(predict, levels, x, z, memory):
    """Song et al. 2021 (score SDE), eq. 6 with the drift of eq. 11 and the integral of beta."""
    *_, t, s = levels
    B = 2 * np.log(alpha(s) / alpha(t))
    return x + B / 2 * x - B * predict(x, t)[1] / sigma(t) + np.sqrt(B) * (s > 0) * z, []


def reversed_chain(predict, levels, x, z, memory):
    """Song et al. 2021 (score SDE), algorithm 3, predictor."""
    *_, t, s = levels
    beta = beta_of(t, s)
    return (2 - np.sqrt(1 - beta)) * x - beta * predict(x, t)[1] / sigma(t) + np.sqrt(beta) * (s > 0) * z, []


def flow(predict, levels, x, z, memory):
    """Heun's method for dx/dphi = cos(phi) eps - sin(phi) x0, to level 1, and DDIM from there to 0."""
    *_, t, s = levels

    def v(x, t):
        x0, eps = predict(x, t)
        return alpha(t) * eps - sigma(t) * x0

    to = max(s, 1)
    step, begin = angle(to) - angle(t), v(x, t)
    x = x + step / 2 * (begin + v(x + step * begin, to))
    return (x if s else predict(x, to)[0]), []


def straight(predict, levels, x, z, memory):
    """Heun's method for dy/dv = eps - x0 with y = x / (alpha + sigma) and v = sigma / (alpha + sigma); Euler's to 0."""
    *_, t, s = levels
    size, v = (lambda t: alpha(t) + sigma(t)), (lambda t: sigma(t) / (alpha(t) + sigma(t)))
    slope = lambda y, t: np.subtract(*predict(size(t) * y, t)[::-1])
    y = x / size(t)
    d = slope(y, t)
    euler = y + (v(s) - v(t)) * d
    return size(s) * (euler if s == 0 else y + (v(s) - v(t)) * (d + slope(euler, s)) / 2), []


def edm(churn, predict, levels, x, z, memory):
    """Karras et al. 2022, algorithm 2, in y = x / alpha; no level is raised above T."""
    *_, t, s = levels
    slope = lambda y, t: (y - predict(alpha(t) * y, t)[0]) / w(t)
    up = np.interp(np.arctan((1 + churn) * w(t)), ANGLE, np.arange(T + 1)) if churn else t
    y = x / alpha(t) + np.sqrt(w(up) ** 2 - w(t) ** 2) * z
    d = slope(y, up)
    euler = y + (w(s) - w(up)) * d
    return alpha(s) * (euler if s == 0 else y + (w(s) - w(up)) * (d + slope(euler, s)) / 2), []


def dpm_2m(sde, predict, levels, x, z, memory):
    """Lu et al. 2022 (DPM-Solver++), algorithm 2, and its SDE form; first order where a log-SNR is infinite."""
    *past, t, s = levels
    x0, _ = predict(x, t)
    if s == 0:
        return x0, [x0]
    D, h = x0, lam(s) - lam(t)
    if past:
        r = (lam(t) - lam(past[-1])) / h
        D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * memory[0]
    if not sde:
        return sigma(s) / sigma(t) * x - alpha(s) * np.expm1(-h) * D, [x0]
    mean = sigma(s) / sigma(t) * np.exp(-h) * x - alpha(s) * np.expm1(-2 * h) * D
    return mean + sigma(s) * np.sqrt(-np.expm1(-2 * h)) * z, [x0]


def uni_move(variant, x, x0, t, s, others):
    """From t to s through x0 at t and others, (x0 at a level, level); Zhao et al. 2023, eqs. 3 and 8, in data."""
    h = lam(s) - lam(t)
    B = {"bh1": -h, "bh2": np.expm1(-h)}[variant]
    x = sigma(s) / sigma(t) * x - alpha(s) * np.expm1(-h) * x0
    r = [(lam(level) - lam(t)) / h for _, level in others]
    b, phi, factorial = [], np.expm1(-h) / -h - 1, 1  # h phi_{k + 1}
    for k in range(1, len(r) + 1):
        b.append(phi * factorial / B)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    rho = [1 / 2] if len(r) == 1 else np.linalg.solve(np.vander(r, increasing=True).T, b)
    return x - alpha(s) * B * sum(p * (other - x0) / q for p, q, (other, _) in zip(rho, r, others))


def uni_pc(order, variant, predict, levels, x, z, memory):
    """Zhao et al. 2023, algorithms 5 and 6; x is the predicted one, which is corrected first."""
    *past, t, s = levels
    x0, _ = predict(x, t)
    corrected, *known = memory
    known = list(zip(known, past[::-1]))  # the newest first
    if past:
        x = uni_move(variant, corrected, known[0][0], past[-1], t, [*known[1:order], (x0, t)])
    then = x0 if s == 0 else uni_move(variant, x, x0, t, s, known[: order - 1])
    return then, [x, x0, *memory[1:order]]


def plms(predict, levels, x, z, memory):
    """Liu et al. 2022, eq. 12 with its start-up formulas, through the transfer of eq. 11, which is DDIM's step."""
    *past, t, s = levels
    eps, (e1, e2, e3) = predict(x, t)[1], memory
    move = lambda e: alpha(s) * (x - sigma(t) * e) / alpha(t) + sigma(s) * e
    slope = [
        lambda: (eps + predict(move(eps), s)[1]) / 2,
        lambda: (3 * eps - e1) / 2,
        lambda: (23 * eps - 16 * e1 + 5 * e2) / 12,
        lambda: (55 * eps - 59 * e1 + 37 * e2 - 9 * e3) / 24,
    ][min(len(past), 3)]()
    return move(slope), [eps, e1, e2]


def k_ancestral(predict, levels, x, z, memory):
    """Euler to w_down and noise w_up, in y = x / alpha (k-diffusion)."""
    *_, t, s = levels
    up = np.sqrt(w(s) ** 2 * (w(t) ** 2 - w(s) ** 2) / w(t) ** 2)
    down = np.sqrt(w(s) ** 2 - up**2)
    y = x / alpha(t)
    return alpha(s) * (y + (down - w(t)) * (y - predict(x, t)[0]) / w(t) + up * z), []


def consistency(predict, levels, x, z, memory):
    """Luo et al. 2023, algorithm 3, with c_skip and c_out of the published timestep t - 1, scaled by 10."""
    *_, t, s = levels
    tau, d = 10 * (t - 1), 0.5
    end = d**2 / (tau**2 + d**2) * x + tau / np.sqrt(tau**2 + d**2) * predict(x, t)[0]
    return alpha(s) * end + sigma(s) * z, []


def with_shift(sampler):
    """The sampler with a condition at every step that shifts the mean."""
    return sampler._replace(step=Partial(guided_step, sampler.step))


def guided_step(step, keys, denoise, schedule, state, t, s, cond):
    cond, uncond = (jnp.broadcast_to(jnp.float32(by), state.x.shape) for by in (SHIFT, 0 * SHIFT))
    return step(keys, denoise, schedule, state, t, s, Guided(cond, uncond))


EVERY = {  # sampler, formula, number of arrays in memory
    "ddpm posterior": (samplers.ddpm, Partial(ddpm, "posterior"), 0),
    "ddpm beta": (lambda: samplers.ddpm("beta"), Partial(ddpm, "beta"), 0),
    "ddpm learned": (lambda: samplers.ddpm("learned"), Partial(ddpm, "learned"), 0),
    "ddim 0": (samplers.ddim, Partial(ddim, 0.0), 0),
    "ddim 0.3": (lambda: samplers.ddim(0.3), Partial(ddim, 0.3), 0),
    "ddim 1": (lambda: samplers.ddim(1.0), Partial(ddim, 1.0), 0),
    "ddim_cfgpp": (lambda: with_shift(ddim_cfgpp(0.6)), Partial(cfg_pp, 0.6), 0),
    "probability_flow_fixed": (probability_flow_fixed, flow, 0),
    "euler_maruyama": (euler_maruyama, maruyama, 0),
    "reverse_diffusion": (reverse_diffusion, reversed_chain, 0),
    "euler_ancestral": (euler_ancestral, k_ancestral, 0),
    "heun": (heun, Partial(edm, 0.0), 0),
    "heun churn": (lambda: heun(0.3), Partial(edm, 0.3), 0),
    "flow_heun": (flow_heun, straight, 0),
    "dpmpp_2m": (dpmpp_2m, Partial(dpm_2m, False), 1),
    "dpmpp_2m sde": (lambda: dpmpp_2m(sde=True), Partial(dpm_2m, True), 1),
    "unipc": (unipc, Partial(uni_pc, 2, "bh2"), 3),
    "unipc bh1": (lambda: unipc(2, "bh1"), Partial(uni_pc, 2, "bh1"), 3),
    "unipc 1": (lambda: unipc(1), Partial(uni_pc, 1, "bh2"), 2),
    "unipc 3": (lambda: unipc(3), Partial(uni_pc, 3, "bh2"), 4),
    "pndm": (pndm, plms, 3),
    "lcm": (lcm, consistency, 0),
}


def recursion(formula, slots, data, levels):
    """x after each step as an affine function of (x_T, all draws, 1): a list of [D, D + N D + 1]."""
    mean, cov = data
    n = D * (1 + slots)

    def predict(x, t, shift=0.0):
        """E[x_0 | x_t] = m + alpha S C^-1 (x_t - alpha m) and E[eps | x_t], C = alpha^2 S + sigma^2."""
        m = (mean + shift)[:, None] * np.eye(n + 1 + D)[n]
        from_mean = np.linalg.solve(alpha(t) ** 2 * cov + sigma(t) ** 2 * np.eye(D), x - alpha(t) * m)
        return m + alpha(t) * cov @ from_mean, sigma(t) * from_mean

    whole, found = np.zeros([n + 1, D + N * D + 1]), []
    whole[:D, :D], whole[-1, -1] = np.eye(D), 1
    for i in range(N):
        h, z = np.eye(n + 1 + D)[:n], np.eye(n + 1 + D)[n + 1 :]
        x, *memory = np.split(h, 1 + slots)
        x, memory = formula(predict, list(levels[: i + 2]), x, z, memory)
        step = np.concatenate([x, *memory])
        fresh = step[:, n + 1 :]
        whole[:n] = step[:, : n + 1] @ whole
        whole[:n, D * (i + 1) : D * (i + 2)] += fresh
        found.append(whole[:D].copy())
    return found


def marginal(data, t):
    mean, cov = DATA[data]
    return alpha(t) * mean, alpha(t) ** 2 * cov + sigma(t) ** 2 * np.eye(D)


def moments(formula, slots, data, spacing):
    """Mean and covariance of x after every step, starting in the marginal, with standard normal draws."""
    mean, cov = marginal(data, LEVELS[spacing][0])
    steps = recursion(formula, slots, DATA[data], LEVELS[spacing])
    return [(P[:, :D] @ mean + P[:, -1], P[:, :D] @ cov @ P[:, :D].T + P[:, D:-1] @ P[:, D:-1].T) for P in steps]


# The samplers.


@functools.cache
def network(kind):
    """An exact network, whose parameters are the data's mean, axes and variances; a condition shifts the mean."""

    def apply(params, x, t, cond, keys=None):
        mean, axes, variances = params
        mean = mean[None] if cond is None else mean[None] + cond
        alpha, sigma = SCHEDULE(t)
        scaled = (x - alpha * mean) @ axes / (alpha**2 * variances + sigma**2)[None]
        x0, eps = mean + alpha * (scaled * variances[None]) @ axes.T, sigma * scaled @ axes.T
        output = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "score": -scaled @ axes.T, "flow": eps - x0}[
            kind
        ]
        return jnp.concatenate([output, jnp.broadcast_to(jnp.float32(RAW), x.shape)], -1), Aux()

    return apply


def of_all_kinds(data, x, t, cond):
    """The first paths with the network that outputs eps, the next ones with that of x0, and so on."""
    split = lambda rows: jnp.split(rows, len(process.KINDS))
    chunks = zip(process.KINDS, split(x), [None] * len(process.KINDS) if cond is None else split(cond))
    predictions = [
        denoise.denoiser(network(kind), data, SCHEDULE, kind)(chunk, t, cond) for kind, chunk, cond in chunks
    ]
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *predictions)


KEY, PATHS = jax.random.key(0), 16 * len(process.KINDS)  # per kind more than there are columns of P


def draws(paths):
    """x_T before it is scaled, and the draws of the steps, [1 + N, paths, D]."""
    keys = samplers.keys_for(KEY, paths)
    uses = jnp.arange(1 + N)
    return np.asarray(jax.jit(jax.vmap(lambda use: samplers.normal(samplers.fold(keys, use), (D,))))(uses), np.float64)


@jax.jit
def after_every_step(sampler, data, levels, x_T):
    """x for each case, [cases, N, PATHS, D]."""

    def draw(case):
        data, levels, x_T = case
        denoiser = Partial(of_all_kinds, data)
        return samplers.sample(KEY, sampler, denoiser, SCHEDULE, levels, x_T, collect=lambda state, _: state.x)[1]

    return lax.map(draw, (data, levels, x_T))


@pytest.mark.parametrize("name", EVERY)
def test_every_path_follows_the_recursion(name):
    """On all data, spacings and kinds; with the noise, draw by draw, and therefore mean and covariance."""
    make, formula, slots = EVERY[name]
    z = draws(PATHS)
    for whole in (True, False):  # levels are int, or float, which is another program
        cases = [(data, spacing) for data, spacing in CASES if (LEVELS[spacing].dtype == np.int32) == whole]
        firsts = [marginal(data, LEVELS[spacing][0]) for data, spacing in cases]
        x_T = np.stack([mean + z[0] @ np.linalg.cholesky(cov).T for mean, cov in firsts])
        data = [(DATA[data][0], *np.linalg.eigh(DATA[data][1])[::-1]) for data, _ in cases]
        data = [np.stack(column).astype(np.float32) for column in zip(*data)]
        levels = np.stack([LEVELS[spacing] for _, spacing in cases])
        xs = after_every_step(make(), data, levels, x_T.astype(np.float32))
        for case, first, after in zip(cases, x_T, np.asarray(xs)):
            given = np.concatenate([first, *z[1:], np.ones([PATHS, 1])], 1)
            for x, P in zip(after, recursion(formula, slots, DATA[case[0]], LEVELS[case[1]])):
                np.testing.assert_allclose(x, given @ P.T, atol=5e-4, err_msg=str(case))


def test_the_draws_are_independent_standard_normals():
    """x_T, and those of all steps: 20,000 paths, five standard errors."""
    paths = 20_000
    z = np.concatenate(draws(paths), 1)
    assert np.max(np.abs(z.mean(0))) < 5 / np.sqrt(paths)
    assert np.max(np.abs(np.cov(z.T) - np.eye(len(z.T))) / np.sqrt(1 + np.eye(len(z.T)))) < 5 / np.sqrt(paths)


# The recursions themselves against theory.
NOT_EXACT = {  # on a single point: another variance, a drift or an angle discretised, two points, or not a solver
    "ddpm beta",
    "ddpm learned",
    "ddim_cfgpp",
    "euler_maruyama",
    "reverse_diffusion",
    "probability_flow_fixed",
    "lcm",
}
EXACT_ON_POINTS = [name for name in EVERY if name not in NOT_EXACT]


@pytest.mark.parametrize("spacing", LEVELS)
@pytest.mark.parametrize("name, data", [(name, "point") for name in EXACT_ON_POINTS] + [("ddpm beta", "standard")])
def test_the_recursion_is_the_marginal_in_cases_of_theory(name, data, spacing):
    _, formula, slots = EVERY[name]
    for s, (mean, cov) in zip(LEVELS[spacing][1:], moments(formula, slots, data, spacing)):
        if s > 0 or data == "point":  # fixed-large adds no noise into level 0
            np.testing.assert_allclose(mean, marginal(data, s)[0], atol=1e-9)
            np.testing.assert_allclose(cov, marginal(data, s)[1], atol=1e-9)


def test_the_recursions_differ_so_that_these_tests_can_fail():
    """Each pair by much more than the tolerance in some case, except for three names of the same step."""
    same = {"ddpm posterior", "ddim 1", "euler_ancestral"}
    found = {
        name: np.array([recursion(formula, slots, DATA[data], LEVELS[spacing]) for data, spacing in CASES])
        for name, (_, formula, slots) in EVERY.items()
    }
    for (one, a), (other, b) in itertools.combinations(found.items(), 2):
        apart = np.max(np.abs(a - b))
        assert apart < 1e-9 if {one, other} <= same else apart > 5e-3, (one, other, apart)


NOT_AFFINE = {"predictor_corrector", "probability_flow"}  # their step sizes depend on x
ELSEWHERE = {"mean_flow"}  # its denoiser knows the end of a step: tests/objectives/test_mean_flow.py


def test_no_sampler_is_left_out():
    assert {name.split()[0] for name in EVERY} == set(samplers.SAMPLERS) - NOT_AFFINE - ELSEWHERE


# On other data the bias falls at the stated order: on a mixture, of the means of three functions at level 1.

FINE = schedules.linear(4096, 0.1 / 4096, 20 / 4096)  # the VP-SDE's own schedule, so fine that levels need no rounding
WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.1, 0.05])
MIXTURE = testing.mixture(WEIGHTS, MEANS[:, None], VARIANCES)


def mixture_at(t):
    """Means and variances of the components."""
    alpha, sigma = (float(v) for v in FINE(t))
    return alpha * MEANS, alpha**2 * VARIANCES + sigma**2


def order_of_bias(sampler, key, x_T, weights, grids):
    """Order of the errors of the means of x, x^2 and cos(2 x); compiled for the fewest steps."""
    errors, (m, v) = [], mixture_at(1)
    exact = WEIGHTS @ np.stack([m, m**2 + v, np.exp(-2 * v) * np.cos(2 * m)], -1)
    arguments, x_T = (key, sampler, MIXTURE.denoiser(FINE), FINE), jnp.asarray(x_T, jnp.float32)[:, None]
    for levels in grids:
        *_, (x, _) = samplers.chunks(*arguments, levels, x_T, size=len(grids[0]) - 1)
        x = np.asarray(x[:, 0], np.float64)
        errors.append(np.linalg.norm(weights @ np.stack([x, x**2, np.cos(2 * x)], -1) - exact))
    return testing.order_of([len(levels) - 1 for levels in grids], errors)


FLOW = {  # order, spacing, numbers of steps: large enough for the order, small enough for float32
    "ddim 0": (1, "trailing", (32, 128)),
    "probability_flow_fixed": (2, "trailing", (32, 128)),
    "heun": (2, "karras", (32, 64, 128)),
    "dpmpp_2m": (2, "karras", (32, 64, 128)),
    "unipc": (3, "karras", (32, 64, 128)),
    "pndm": (2, "karras", (64, 128, 256)),
}


@pytest.mark.parametrize("name", FLOW)
def test_on_a_mixture_the_bias_of_the_flow_falls_at_its_order(name):
    """x_T by the midpoint rule over its density, which is exact to float32 for a smooth map."""
    (order, spacing, counts), (m, v) = FLOW[name], mixture_at(4096)
    x_T = np.linspace(-6, 6, 2001)
    weights = np.exp(-((x_T[:, None] - m) ** 2) / v / 2) / np.sqrt(v) @ WEIGHTS
    karras, even = functools.partial(timesteps.grid_by_sigma, FINE), functools.partial(timesteps.grid, 4096, end=1)
    grids = [karras(count) if spacing == "karras" else even(count) for count in counts]
    found = order_of_bias(EVERY[name][0](), None, x_T, weights / weights.sum(), grids)
    assert abs(found - order) < 0.3, found


@pytest.mark.parametrize("name", ["ddpm posterior", "ddpm beta", "euler_maruyama", "reverse_diffusion"])
def test_on_a_mixture_the_bias_of_random_samplers_falls_at_first_order(name):
    """50,000 paths: standard error 0.004."""
    paths, rng, (m, v) = 50_000, np.random.default_rng(0), mixture_at(4096)
    k = rng.choice(2, paths, p=WEIGHTS)
    x_T = m[k] + np.sqrt(v[k]) * rng.standard_normal(paths)
    grids = [timesteps.grid(4096, count, end=1) for count in (8, 32)]
    found = order_of_bias(EVERY[name][0](), jax.random.key(1), x_T, np.full(paths, 1 / paths), grids)
    assert abs(found - 1) < 0.3, found
