"""DDIM: whole runs against diffusers, and its eta."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import process, samplers, schedules
from jaxdiff.timesteps import grid
from jaxdiff.types import Prediction

RUNS = np.load(pathlib.Path(__file__).parents[1] / "golden" / "trajectories.npz")
MAKERS = {"linear": schedules.linear, "scaled_linear": schedules.scaled_linear, "cosine": schedules.cosine}
CASES = sorted({name.rsplit("/", 1)[0] for name in RUNS if name.startswith("ddim/")})
LINEAR = schedules.linear(100)


@pytest.mark.parametrize("case", [case for case in CASES if case.split("/")[6] == "0.0"])
def test_a_whole_run_is_diffusers(case):
    """Grid and steps together, on diffusers' grids, with the nonlinear prediction of x0 with which the files were made."""
    _, name, T, N, spacing, kind, _, offset, end = case.split("/")
    T, schedule = int(T), MAKERS[name](int(T))
    levels = grid(T, int(N), spacing, int(offset), end=int(end))
    np.testing.assert_array_equal(levels, RUNS[f"{case}/levels"])

    def denoise(x_t, t, cond):
        x0 = jnp.tanh(0.8 * x_t + 0.5 * jnp.sin(6.0 * t / T))
        alpha, sigma = schedule(t)
        eps = (x_t - alpha * x0) / sigma
        output = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[kind]
        return process.predict_from(kind, schedule, output, x_t, t)

    want = RUNS[f"{case}/x"]
    x_T = jnp.asarray(want[0], jnp.float32)
    x_0, visited = samplers.sample(
        None, samplers.ddim(), denoise, schedule, levels, x_T, collect=lambda state, prediction: state.x
    )
    np.testing.assert_allclose(visited, want[1:], rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(x_0, visited[-1])


def shrinking(x_t, t, cond=None):
    """The perfect denoiser of N(0, I)."""
    alpha, sigma = LINEAR(t)
    return Prediction(alpha * x_t, sigma * x_t)


X_T = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)


def run(key, eta):
    return samplers.sample(key, samplers.ddim(eta), Partial(shrinking), LINEAR, grid(100, 5), X_T)[0]


def test_without_a_key_an_eta_other_than_0_gives_nan():
    chex.assert_trees_all_close(run(None, 0.0), run(jax.random.key(0), 0.0), rtol=1e-6, atol=1e-6)  # two programs
    assert np.all(np.isnan(run(None, 0.5)))


def test_eta_0_does_not_depend_on_the_key_and_others_do():
    one, two = jax.random.key(1), jax.random.key(2)
    chex.assert_trees_all_equal(run(one, 0.0), run(two, 0.0))
    assert np.all(run(one, 0.5) != run(two, 0.5))
    chex.assert_trees_all_equal(run(one, 0.5), run(one, 0.5))


def test_eta_scales_the_noise_of_one_and_the_same_draw():
    """With a prediction of zero only std z is left, and std is eta times the posterior's."""
    zero = Partial(lambda x_t, t, cond: Prediction(jnp.zeros_like(x_t), jnp.zeros_like(x_t)))
    step = lambda eta: samplers.sample(jax.random.key(0), samplers.ddim(eta), zero, LINEAR, np.array([80, 40]), X_T)[0]
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 100))
    std = np.sqrt((1 - abar[39]) / (1 - abar[79]) * (1 - abar[79] / abar[39]))
    z = step(1.0) / std
    assert 0.3 < float(z.std()) < 2
    for eta in (0.25, 0.5):
        np.testing.assert_allclose(step(eta), eta * std * z, rtol=1e-5)


def test_eta_may_be_traced():
    etas = jnp.array([0.0, 0.5, 1.0])
    many = jax.jit(jax.vmap(lambda eta: run(jax.random.key(0), eta)))(etas)
    one_by_one = jnp.stack([run(jax.random.key(0), float(eta)) for eta in etas])
    chex.assert_trees_all_close(many, one_by_one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_grid_can_be_divided_in_two(eta):
    """A step does not depend on the rest of the grid: 100 -> 40 -> 0 is 100 -> 40 and then 40 -> 0."""
    levels, key = np.array([100, 70, 40, 20, 0]), None if eta == 0 else jax.random.key(0)
    sampler, denoise = samplers.ddim(eta), Partial(shrinking)
    collect = lambda state, prediction: state.x
    whole, visited = samplers.sample(key, sampler, denoise, LINEAR, levels, X_T, collect=collect)
    first, _ = samplers.sample(key, sampler, denoise, LINEAR, levels[:3], X_T)
    chex.assert_trees_all_close(first, visited[1], rtol=1e-6)
    if eta == 0:
        second, _ = samplers.sample(key, sampler, denoise, LINEAR, levels[2:], first)
        chex.assert_trees_all_close(second, whole, rtol=1e-6)


@pytest.mark.parametrize(
    "sampler",
    [samplers.ddim(), samplers.ddim(0.5), samplers.ddim(1.0), samplers.ddpm(), samplers.ddpm("beta")],
    ids=["eta 0", "eta 0.5", "eta 1", "fixed-small", "fixed-large"],
)
def test_a_single_point_is_found_in_a_single_step(sampler):
    """With the perfect denoiser of a single point, from the score of N(alpha where, sigma^2)."""
    key, where = jax.random.key(1), jnp.array([[0.3, -0.8, 1.0]])
    x, _ = samplers.sample(key, sampler, Partial(of_point, where), LINEAR, grid(100, 1), X_T)
    np.testing.assert_allclose(x, np.repeat(where, len(X_T), 0), atol=1e-5)


def of_point(where, x_t, t, cond=None):
    alpha, sigma = LINEAR(t)
    return process.predict_from("score", LINEAR, -(x_t - alpha * where) / sigma**2, x_t, t)
