"""Consistency sampling: against diffusers, and exact with an exact consistency model."""

import jax.numpy as jnp
import numpy as np
import pytest
import solver_checks
from jax.tree_util import Partial
from solver_checks import KEY, STABLE

from jaxdiff import process, samplers, schedules, testing
from jaxdiff.samplers.lcm import end_of_path, lcm
from jaxdiff.timesteps import grid
from jaxdiff.types import Prediction


@pytest.mark.parametrize("case", ["lcm", "lcm/10"])
def test_a_whole_run_is_diffusers(case):
    def move(prediction, x, t, s, z):
        end = end_of_path(10.0, 0.5, prediction, x, t)
        return process.q_sample(STABLE, end, s, z)

    solver_checks.assert_steps_are_published(case, move)


def test_the_noise_of_a_step_is_that_of_its_keys():
    keys, x = samplers.keys_for(KEY, 4), jnp.ones([4, 3])
    arguments = solver_checks.toy, STABLE, samplers.State(x), jnp.int32(2), jnp.int32(1), None
    state, prediction = lcm(0.3, 0.7).step(keys, *arguments)
    want = process.q_sample(STABLE, end_of_path(0.3, 0.7, prediction, x, 2), 1, samplers.normal(keys, (3,)))
    np.testing.assert_allclose(state.x, want, rtol=1e-5, atol=1e-5)


def test_a_perfect_consistency_model_meets_the_marginals_on_any_grid():
    """The end of the path of x_t is data, and noised data is x_s."""
    schedule, data, batch = schedules.linear(1000), testing.gaussian([1.0, -0.5], [[0.5, 0.2], [0.2, 0.3]]), 8192

    def jump(x_t, t, cond):
        x0 = data.flow(schedule, x_t, t, 0)
        alpha, sigma = schedule(t)
        return Prediction(x0, (x_t - alpha * x0) / sigma)

    x_T = samplers.noise(samplers.keys_for(KEY, batch), (2,))
    mean, cov = data.moments(schedule, 1000)
    x_T = jnp.asarray(mean + np.asarray(x_T) @ np.linalg.cholesky(cov).T, jnp.float32)
    levels = grid(1000, 5)
    _, xs = samplers.sample(KEY, lcm(), Partial(jump), schedule, levels, x_T, collect=lambda state, _: state.x)
    for x, s in zip(np.asarray(xs, np.float64), levels[1:]):
        mean, cov = data.moments(schedule, s)
        # Five standard errors: variances are below 1, so that those of mean and covariance are below sqrt(2 / batch).
        np.testing.assert_allclose(x.mean(0), mean, atol=5 / np.sqrt(batch))
        np.testing.assert_allclose(np.cov(x.T), cov, atol=5 * np.sqrt(2 / batch))


def test_at_level_1_the_path_has_ended():
    x = jnp.array([[0.3, -2.0]])
    np.testing.assert_array_equal(end_of_path(10.0, 0.5, Prediction(5 * x, x), x, 1), x)
    # tau = 0.1 * 5 = d: c_skip is a half and c_out its root.
    found = end_of_path(0.1, 0.5, Prediction(jnp.ones([1, 2]), x), x, 6)
    np.testing.assert_allclose(found, 0.5 * x + np.sqrt(0.5), rtol=1e-6)


def test_all_ends_work():
    solver_checks.assert_all_ends_work(lcm(0.01))


def test_other_values_do_not_recompile():
    first, *later = solver_checks.count_traces(lambda scaling: lcm(scaling, scaling / 20), 10, 7.5, np.float64(1.0))
    assert first > 0 and later == [0, 0]


def test_it_needs_a_key():
    with pytest.raises(ValueError, match="random key"):
        samplers.sample(None, lcm(), solver_checks.toy, STABLE, np.array([900, 0]), jnp.ones([1, 2]))
