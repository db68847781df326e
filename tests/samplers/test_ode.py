"""The probability flow: against the Gaussian's exact flow, and on a mixture against RK4 in float64."""

import itertools
import subprocess
import sys

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import denoise, samplers, schedules, testing
from jaxdiff.samplers import ode
from jaxdiff.samplers.ode import probability_flow, probability_flow_fixed
from jaxdiff.types import Aux, Prediction

ZERO_SNR = schedules.from_betas(np.append(np.linspace(1e-4, 0.02, 999), 1.0))
SCHEDULES = {"linear": schedules.linear(), "cosine": schedules.cosine(), "zero SNR": ZERO_SNR}
CLOUD = testing.gaussian([1.0, -0.5], [[0.5, 0.2], [0.2, 0.3]])
TWO = testing.mixture([0.3, 0.7], [[-1.0], [0.8]], [0.1, 0.05])
X_T = np.random.default_rng(0).standard_normal([16, 2]).astype(np.float32)


def run(sampler, data, schedule, levels, x_T, **options):
    return samplers.sample(None, sampler, data.denoiser(schedule), schedule, levels, x_T, **options)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    "levels", [[1000, 1], [1000, 600, 20, 1], [1000.0, 333.3, 1.5]], ids=["one", "three", "between"]
)
def test_adaptive_steps_follow_the_exact_flow_of_a_gaussian(name, levels):
    """At every level of the grid, to ten times the tolerance of a step; the measured error is a fifth of that."""
    schedule, levels = SCHEDULES[name], np.asarray(levels)
    _, xs = run(probability_flow(1e-5, 1e-5), CLOUD, schedule, levels, X_T, collect=lambda state, _: state.x)
    for x, s in zip(xs, levels[1:]):
        np.testing.assert_allclose(x, CLOUD.flow(schedule, X_T, levels[0], s), atol=1e-4)


def test_the_flow_is_integrated_upwards_too():
    schedule = schedules.cosine()
    x, _ = run(probability_flow(1e-5, 1e-5), CLOUD, schedule, [1, 1000], X_T, rising=True)
    np.testing.assert_allclose(x, CLOUD.flow(schedule, X_T, 1, 1000), atol=1e-4)


def runge_kutta(x, steps):
    """RK4 in float64 over y = x / alpha by k = sigma / alpha, dy/dk = E[eps | x], for TWO; from level 1000 to 1."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    k_T, k_1 = (np.sqrt(1 - a) / np.sqrt(a) for a in (abar[-1], abar[0]))
    weights, means, variances = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.1, 0.05])

    def eps(y, log_k):
        k = np.exp(log_k)  # y = x_0 + k eps: a mixture of N(mean, var + k^2)
        difference, var = y[..., None] - means, variances + k**2
        density = weights * np.exp(-(difference**2) / var / 2) / np.sqrt(var)
        return k * (k * (density * difference / var).sum(-1) / density.sum(-1))  # times dk / dlog k

    y, grid = x * np.sqrt(1 + k_T**2), np.linspace(np.log(k_T), np.log(k_1), steps + 1)
    for a, b in itertools.pairwise(grid):
        h, half = b - a, (a + b) / 2
        c1 = eps(y, a)
        c2 = eps(y + h / 2 * c1, half)
        c3 = eps(y + h / 2 * c2, half)
        y = y + h / 6 * (c1 + 2 * c2 + 2 * c3 + eps(y + h * c3, b))
    return y / np.sqrt(1 + k_1**2)


def test_adaptive_steps_follow_the_flow_of_a_mixture():
    x_T = np.linspace(-2, 2, 21)
    want = runge_kutta(x_T, 1000)
    assert np.abs(want - runge_kutta(x_T, 500)).max() < 1e-7  # the reference is more accurate than the test needs
    x, _ = run(probability_flow(1e-5, 1e-5), TWO, schedules.linear(), [1000, 1], np.float32(x_T)[:, None])
    np.testing.assert_allclose(x[:, 0], want, atol=1e-4)


def test_tolerances_have_effect():
    schedule = schedules.linear()
    exact = CLOUD.flow(schedule, X_T, 1000, 1)
    loose, tight = (run(probability_flow(tol, tol), CLOUD, schedule, [1000, 1], X_T)[0] for tol in (1e-2, 1e-5))
    assert np.abs(tight - exact).max() < 0.1 * np.abs(loose - exact).max()


@pytest.mark.parametrize(
    "sampler, levels",
    [(probability_flow(), [500, 0]), (probability_flow_fixed(3), [500, 0]), (probability_flow_fixed(3), [500, 1, 0])],
    ids=["adaptive", "fixed", "by way of level 1"],
)
def test_level_0_is_reached_by_a_ddim_step_from_level_1(sampler, levels):
    schedule = schedules.linear()
    x_1, _ = run(sampler, CLOUD, schedule, [500, 1], X_T)
    x_0, _ = run(sampler, CLOUD, schedule, levels, X_T)
    np.testing.assert_allclose(x_0, CLOUD.denoiser(schedule)(x_1, 1, None).x0, atol=1e-5)


def test_networks_are_evaluated_at_trained_levels_only():
    schedule, seen = schedules.linear(), []

    def denoise(x_t, t, cond):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return CLOUD.denoiser(schedule)(x_t, t, cond)

    samplers.sample(None, probability_flow(), denoise, schedule, [1000, 300, 0], X_T)[0].block_until_ready()
    jax.effects_barrier()
    assert len(seen) > 20
    assert min(seen) == 1 and max(seen) == 1000


@pytest.mark.parametrize("solver, order", [(None, 2), (diffrax.Euler(), 1)], ids=["heun", "euler"])
def test_fixed_steps_converge_at_the_solvers_order(solver, order):
    counts = [32, 128]
    errors = testing.flow_errors(probability_flow_fixed(solver=solver), counts)
    assert abs(testing.order_of(counts, errors) - order) < 0.2, errors


def test_fixed_steps_between_levels_converge_too():
    schedule = schedules.cosine(4096)
    exact = CLOUD.flow(schedule, X_T, 4096, 1)
    counts, errors = [32, 128], []
    for steps in counts:
        x, _ = run(probability_flow_fixed(steps), CLOUD, schedule, [4096, 1], X_T)
        errors.append(float(jnp.sqrt(jnp.mean((x - exact) ** 2))))
    assert abs(testing.order_of(counts, errors) - 2) < 0.2, errors


def test_every_leaf_and_example_is_within_the_tolerances():
    """One leaf is constant, and of the other's two examples one falls: to the same value as it would alone."""
    field = Partial(lambda phi, y: (jnp.zeros_like(y[0]), -y[1] * jnp.array([0.0, 20.0])))
    y = jnp.ones([2, 500]), jnp.ones(2)
    constant, falling = ode.integrate(ode.adaptive(1e-5, 1e-5), field, y, 0.2, 0.7)
    np.testing.assert_array_equal(constant, 1)
    np.testing.assert_allclose(falling, [1, np.exp(-10)], atol=1e-4)


def test_angles_are_converted_back_to_levels():
    for schedule in SCHEDULES.values():
        t = jnp.linspace(1, 1000, 777)
        np.testing.assert_allclose(ode.level_at(schedule, ode.angle_of(schedule, t)), t, rtol=2e-4)


def by_variance(x_t, t, cond):
    """Each example's data is N(0, cond); with variance 1 its path is constant."""
    alpha, sigma = SCHEDULES["linear"](t)
    scaled = x_t / (alpha**2 * cond + sigma**2)
    return Prediction(alpha * cond * scaled, sigma * scaled)


def test_the_hardest_example_determines_the_steps_of_all():
    """In a batch with a thousand constant paths one ends as it does alone; with the mean of all errors it would not."""
    variance, x_T = np.ones([1001, 1], np.float32), np.ones([1001, 1], np.float32)
    variance[0] = 1e-4
    ends = lambda cond: samplers.sample(
        None, probability_flow(1e-3, 1e-3), by_variance, SCHEDULES["linear"], [1000, 1], x_T, cond
    )[0]
    alone, beside = ends(np.full_like(variance, 1e-4)), ends(variance)
    np.testing.assert_allclose(beside[0], alone[0], rtol=1e-4)
    np.testing.assert_allclose(beside[1:], 1, atol=1e-5)


def test_too_few_steps_and_a_path_from_below_level_1_give_nan():
    schedule = schedules.linear()
    assert np.all(np.isnan(run(probability_flow(max_steps=3), CLOUD, schedule, [1000, 1], X_T)[0]))
    assert np.all(np.isnan(run(probability_flow(), CLOUD, schedule, [0, 1000], X_T, rising=True)[0]))


def test_zero_signal_to_noise_with_v_prediction_end_to_end():
    """With a network that predicts v exactly; x_T is pure noise, so that x_1 has the data's mean and covariance."""

    def apply(params, x_t, t, cond, keys=None):
        x0, eps, _ = CLOUD.denoiser(ZERO_SNR)(x_t, t, cond)
        alpha, sigma = ZERO_SNR(t)
        return alpha * eps - sigma * x0, Aux()

    x_T = np.random.default_rng(1).standard_normal([4000, 2]).astype(np.float32)
    x, _ = samplers.sample(
        None, probability_flow(), denoise.denoiser(apply, (), ZERO_SNR, "v"), ZERO_SNR, [1000, 0], x_T
    )
    np.testing.assert_allclose(x, CLOUD.flow(ZERO_SNR, x_T, 1000, 0), atol=2e-3)


def test_other_values_do_not_recompile():
    traces = []

    def denoise(x_t, t, cond):
        traces.append(1)
        alpha, sigma = SCHEDULES["linear"](t)
        return Prediction(alpha * x_t, sigma * x_t)

    def run(sampler, levels, x=1.0):
        return samplers.sample(None, sampler, denoise, SCHEDULES["linear"], levels, jnp.full([2, 3], x))[0]

    run(probability_flow(), np.array([1000, 0])), run(probability_flow_fixed(2), np.array([1000, 0]))
    before = len(traces)
    (
        run(probability_flow(1e-3, 1e-2), np.array([900, 10]), 2.0),
        run(probability_flow_fixed(2), np.array([900, 10]), 2.0),
    )
    assert len(traces) == before
    run(probability_flow_fixed(3), np.array([1000, 0]))
    assert len(traces) > before


def test_diffrax_is_imported_only_when_it_is_used():
    """Importing it takes half a second."""
    program = """
import sys
import jaxdiff.samplers
assert "diffrax" not in sys.modules
jaxdiff.samplers.probability_flow()
assert "diffrax" in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_gradients_are_finite_and_right():
    """The flow of a Gaussian is affine in x_T: its derivative is the distance of the ends of two paths."""
    schedule, data = schedules.linear(), testing.gaussian([0.0], 0.25)
    end = lambda x: run(probability_flow(1e-5, 1e-5), data, schedule, np.array([1000, 1]), x[None, None])[0][0, 0]
    want = data.flow(schedule, jnp.ones([1, 1]), 1000, 1)[0, 0]
    np.testing.assert_allclose(jax.jit(jax.grad(end))(jnp.float32(0.7)), want, atol=1e-3)


def test_errors():
    with pytest.raises(ValueError, match="`max_steps`=0 must be at least 1"):
        probability_flow(max_steps=0)
    with pytest.raises(ValueError, match="`substeps`=0 must be at least 1"):
        probability_flow_fixed(0)
