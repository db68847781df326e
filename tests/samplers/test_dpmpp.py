"""DPM-Solver++(2M), ODE and SDE: against diffusers; recursions and orders: test_recursions.py, test_table.py."""

import jax.numpy as jnp
import numpy as np
import pytest
import solver_checks
from solver_checks import KEY, LINEAR, NO_SIGNAL, STABLE

from jaxdiff import process, samplers
from jaxdiff.samplers.dpmpp import _init, _ratio, _update, dpmpp_2m


@pytest.mark.parametrize("case", ["dpmpp_2m", "dpmpp_2m/to 1"])
def test_a_whole_run_is_diffusers(case):
    solver_checks.assert_run_is_published(case, dpmpp_2m())


@pytest.mark.parametrize("case", ["dpmpp_2m/sde", "dpmpp_2m/sde to 1"])
def test_a_whole_run_of_the_sde_is_diffusers(case):
    state = None

    def move(prediction, x, t, s, z):
        nonlocal state
        state = _update(STABLE, prediction, _init(x) if state is None else state, t, s, z)
        return state.x

    solver_checks.assert_steps_are_published(case, move)


@pytest.mark.parametrize("sde", [False, True])
def test_the_step_and_its_noise_are_the_samplers(sde):
    """The sampler's second step is `_update` with the noise of its keys."""
    keys, x = samplers.keys_for(KEY, 4), samplers.noise(samplers.keys_for(KEY, 4), (3,))
    z = samplers.normal(keys, (3,)) if sde else None
    sampler, state = dpmpp_2m(sde), _init(x)
    for t, s in ((900, 600), (600, 200)):
        want = _update(STABLE, solver_checks.toy(state.x, t), state, t, s, z)
        state, _ = sampler.step(keys, solver_checks.toy, STABLE, state, jnp.int32(t), jnp.int32(s), None)
        np.testing.assert_allclose(state.x, want.x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sde", [False, True])
def test_steps_at_the_ends_are_of_first_order(sde):
    """The first one, the one after a level without signal, and the one into level 0."""
    x = samplers.noise(samplers.keys_for(KEY, 4), (3,))
    z, eta = (0.5 * x, 1.0) if sde else (None, 0.0)
    state = _init(x)
    for t, s, first_order in ((40, 30, True), (30, 20, True), (20, 10, False), (10, 0, True)):
        prediction = process.predict_from("v", NO_SIGNAL, jnp.sin(state.x), state.x, t)
        plain = process.p_step(NO_SIGNAL, prediction, state.x, t, s, 0.5 * x, eta=eta)
        state = _update(NO_SIGNAL, prediction, state, t, s, z)
        assert np.allclose(state.x, plain, rtol=1e-6, atol=1e-6) == first_order


def test_the_ratio_is_that_of_steps_in_log_snr():
    for levels in ((90, 60, 20), (100, 99, 98), (50, 7, 1)):
        last, now, then = (LINEAR(t) for t in levels)
        half = [float(level.log_snr) / 2 for level in (last, now, then)]
        np.testing.assert_allclose(_ratio(last, now, then), (half[2] - half[1]) / (half[1] - half[0]), rtol=1e-4)


@pytest.mark.parametrize("sde", [False, True])
def test_all_ends_work(sde):
    solver_checks.assert_all_ends_work(dpmpp_2m(sde))


def test_chunks_are_the_whole():
    solver_checks.assert_chunks_are_the_whole(dpmpp_2m())


@pytest.mark.parametrize("sde", [False, True])
def test_other_values_do_not_recompile(sde):
    first, *later = solver_checks.count_traces(lambda _: dpmpp_2m(sde), 0, 1, 2)
    assert first > 0 and later == [0, 0]


def test_the_sde_needs_a_key():
    with pytest.raises(ValueError, match="random key"):
        samplers.sample(None, dpmpp_2m(True), solver_checks.toy, STABLE, np.array([900, 0]), jnp.ones([1, 2]))
