"""Checks that the tests of several solvers share: against diffusers' runs, and of properties of every sampler."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff import process, samplers, schedules
from jaxdiff.timesteps import grid
from jaxdiff.types import Prediction

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "solvers.npz")
STABLE = schedules.scaled_linear()
LINEAR = schedules.linear(100)
NO_SIGNAL = schedules.from_betas([*np.linspace(1e-3, 0.2, 39), 1.0])  # zero signal-to-noise at level 40
KEY = jax.random.key(0)
state_x = lambda state, prediction: state.x


def toy(x_t, t, cond=None):
    """The nonlinear prediction of eps with which the files were made."""
    eps = jnp.tanh(0.8 * x_t) + 0.3 * jnp.sin(6.0 * t / 1000)
    return process.predict_from("eps", STABLE, eps, x_t, t)


def published(case):
    """Levels, x at each level, and noise of each step (None if there is none) of one of diffusers' runs."""
    noise = GOLDEN[f"{case}:noise"] if f"{case}:noise" in GOLDEN else None
    return GOLDEN[f"{case}:levels"], GOLDEN[f"{case}:x"], noise


def assert_run_is_published(case, sampler):
    """A deterministic sampler visits the same x as diffusers' run."""
    levels, want, _ = published(case)
    x_T = jnp.asarray(want[0], jnp.float32)
    _, visited = samplers.sample(None, sampler, Partial(toy), STABLE, levels, x_T, collect=state_x)
    np.testing.assert_allclose(visited, want[1:], rtol=1e-4, atol=1e-4)


def assert_steps_are_published(case, move):
    """A sampler of x_s = move(prediction, x, t, s, z), with the noise of diffusers' run, visits the same x."""
    levels, want, noise = published(case)
    x, visited = jnp.asarray(want[0], jnp.float32), []
    for t, s, z in zip(levels[:-1], levels[1:], jnp.asarray(noise, jnp.float32)):
        x = move(toy(x, int(t)), x, int(t), int(s), z)
        visited.append(x)
    np.testing.assert_allclose(visited, want[1:], rtol=1e-4, atol=1e-4)


def count_traces(make, *arguments):
    """Numbers of traces of the denoiser in calls with each of the arguments, with new objects in each call.

    Args:
      make: argument -> Sampler.
      arguments: numbers of the sampler; the levels, x_T, schedule, weights and key also change from call to call.
    """
    traces, counts = [], []

    def denoise(w, x_t, t, cond):
        traces.append(1)
        x0 = jnp.tanh(w * x_t) + cond
        alpha, sigma = LINEAR(t)
        return Prediction(x0, (x_t - alpha * x0) / sigma)

    changes = [(LINEAR, grid(100, 5)), (schedules.cosine(100), grid(100, 5, "leading", end=0)), (LINEAR, grid(100, 5))]
    for i, (argument, (schedule, levels)) in enumerate(zip(arguments, changes, strict=True)):
        before = len(traces)
        x_T, cond = jnp.full([2, 3], 1.0 + i), jnp.full([2, 3], 0.1 * i)
        denoiser = Partial(denoise, jnp.float32(0.5 + i))
        x, _ = samplers.sample(jax.random.key(i), make(argument), denoiser, schedule, levels, x_T, cond)
        assert np.all(np.isfinite(x))
        counts.append(len(traces) - before)
    return counts


def assert_chunks_are_the_whole(sampler):
    """A sampler's memory is passed from chunk to chunk."""
    x_T = samplers.noise(samplers.keys_for(KEY, 2), (3,))
    arguments = KEY, sampler, Partial(toy), STABLE, grid(1000, 6), x_T
    *_, (x, _) = samplers.chunks(*arguments, size=2)
    np.testing.assert_allclose(x, samplers.sample(*arguments)[0], rtol=1e-4, atol=1e-4)


def in_v(w, schedule, x_t, t, cond=None):
    """Predicts v, for zero signal-to-noise; at level 0, where networks are not trained, NaN with gradients of NaN."""
    v = jnp.sin(w * x_t) * jnp.where(t < 1, jnp.nan, 1.0)
    return process.predict_from("v", schedule, v, x_t, t)


def assert_all_ends_work(sampler):
    """Grids to levels 0 and 1, from zero signal-to-noise and not: results and gradients are finite, also under vmap.

    So they are at float levels, which agree with integer levels (27.0 and 27).
    """

    def total(w, schedule, x_T, levels):
        x, _ = samplers.sample(KEY, sampler, Partial(in_v, w, schedule), schedule, levels, x_T)
        return jnp.square(x).sum(), x

    x_T, w = samplers.noise(samplers.keys_for(KEY, 2), (3,)), jnp.float32(0.8)
    levels = np.array([[40, 27, 13, 5, 0], [40, 27, 13, 5, 1]])
    derive = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    for schedule in (schedules.linear(40), NO_SIGNAL):
        xs = []
        for row in levels:
            (_, x), gradients = derive(w, schedule, x_T, row)
            assert np.all(np.isfinite(x)), f"not finite over {row}"
            finite = [np.all(np.isfinite(gradient)) for gradient in jax.tree.leaves(gradients)]
            assert all(finite), f"gradient not finite over {row}"
            assert float(gradients[0]) != 0 and np.all(np.asarray(gradients[2]) != 0)
            xs.append(x)
    floats = np.concatenate([levels, levels - np.array([[0, 0.1, 0, 0, 0]])]).astype(np.float32)

    def each(w):
        sums, xs = jax.vmap(lambda row: total(w, NO_SIGNAL, x_T, row))(floats)
        return sums.sum(), xs

    (_, together), gradient = jax.jit(jax.value_and_grad(each, has_aux=True))(w)
    np.testing.assert_allclose(together[:2], xs, rtol=1e-4, atol=1e-4)
    change = np.abs(together[2:] - together[:2]).max((1, 2))
    assert np.all((1e-5 < change) & (change < 0.3)), f"between levels it changes by {change}"
    assert np.isfinite(gradient), "under vmap the gradient is not finite"
