"""PNDM: against diffusers, and its evaluations; recursions and orders: test_recursions.py, test_table.py."""

import jax.numpy as jnp
import numpy as np
import pytest
import solver_checks
from jax.tree_util import Partial
from solver_checks import NO_SIGNAL, STABLE

from jaxdiff import samplers, schedules, testing
from jaxdiff.samplers.pndm import ADAMS_BASHFORTH, pndm
from jaxdiff.types import Prediction


def test_the_whole_path_is_far_closer_than_ddims():
    """On steps even in levels, for which it was designed."""
    ours, ddims = (testing.flow_errors(sampler, [32], spacing="trailing") for sampler in (pndm(), samplers.ddim()))
    assert ours < ddims / 30


@pytest.mark.parametrize("case", ["pndm", "pndm/to 1"])
def test_a_whole_run_is_diffusers(case):
    solver_checks.assert_run_is_published(case, pndm())


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_weights_extrapolate_polynomials(count):
    """With n slopes at 0, -1, .. the mean over [0, 1] of a polynomial of degree below n is exact."""
    for degree in range(count):
        found = np.dot(ADAMS_BASHFORTH[count - 1], (-np.arange(4.0)) ** degree)
        np.testing.assert_allclose(found, 1 / (degree + 1), rtol=1e-12)


def test_only_the_first_step_evaluates_twice_and_never_at_level_0():
    """With a denoiser whose eps is the level: the mean of both ends, then the extrapolation, which is exact there."""
    level_as_eps = Partial(lambda x, t, cond: Prediction(jnp.zeros_like(x), jnp.zeros_like(x) + t))
    collect = lambda state, prediction: state.memory.eps[0, 0, 0]
    for levels, steps in (([400, 300, 200, 100, 1], 4), ([400, 0], 1)):
        x, eps = samplers.sample(
            None, pndm(), level_as_eps, STABLE, np.array(levels), jnp.zeros([1, 1]), collect=collect
        )
        np.testing.assert_array_equal(eps, levels[:steps])
        assert np.all(np.isfinite(x))
    levels = np.array([400, 300])
    x, _ = samplers.sample(None, pndm(), level_as_eps, STABLE, levels, jnp.zeros([1, 1]))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, STABLE(t)) for t in levels)
    # DDIM with x0 = 0 and eps = 400, and then the slope corrected to the mean, 350
    want = sigma_s * 400 + alpha_s * (sigma_s / alpha_s - sigma_t / alpha_t) * (350 - 400)
    np.testing.assert_allclose(x, want, rtol=1e-5)


def test_the_first_steps_of_runge_kutta_are_of_fourth_order():
    """Three steps alone, over a range and over half of it: at least 2^4 times less error."""
    data, schedule, errors = testing.gaussian([1.0, -0.5], 0.25), schedules.linear(), []
    x = jnp.array([[0.3, -1.2], [1.0, 0.4]])
    for end in (300.0, 600.0):
        levels = jnp.linspace(900.0, end, 4)
        found, _ = samplers.sample(None, pndm(runge_kutta=True), data.denoiser(schedule), schedule, levels, x)
        errors.append(float(jnp.abs(found - data.flow(schedule, x, 900.0, end)).max()))
    assert errors[1] < errors[0] / 16 < 1e-3


def test_all_ends_work():
    solver_checks.assert_all_ends_work(pndm())
    solver_checks.assert_all_ends_work(pndm())


def test_a_first_step_out_of_a_level_without_signal_is_ddim():
    x, denoise = jnp.ones([1, 2]), Partial(lambda x, t, cond: Prediction(jnp.tanh(x), x))
    step = lambda sampler: samplers.sample(None, sampler, denoise, NO_SIGNAL, np.array([40, 10]), x)[0]
    np.testing.assert_array_equal(step(pndm()), step(samplers.ddim()))


def test_chunks_are_the_whole():
    solver_checks.assert_chunks_are_the_whole(pndm())


def test_other_values_do_not_recompile():
    first, *later = solver_checks.count_traces(lambda _: pndm(), 0, 1, 2)
    assert first > 0 and later == [0, 0]
