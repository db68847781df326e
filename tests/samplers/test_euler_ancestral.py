"""Euler ancestral: against diffusers and DDPM; its recursion and order: test_recursions.py, test_table.py."""

import jax.numpy as jnp
import numpy as np
import pytest
import solver_checks
from solver_checks import KEY, NO_SIGNAL, STABLE

from jaxdiff import process, samplers
from jaxdiff.samplers.euler_ancestral import _update, euler_ancestral


def test_a_whole_run_is_diffusers():
    move = lambda prediction, x, t, s, z: _update(STABLE, prediction, t, s, z)
    solver_checks.assert_steps_are_published("euler_ancestral", move)


@pytest.mark.parametrize("t, s", [(40, 39), (40, 1), (40, 0), (39, 20), (2, 1), (1, 0)])
def test_its_step_is_ddpms(t, s):
    """Also out of zero signal-to-noise."""
    x, z = (samplers.normal(samplers.keys_for(KEY, n + 4)[n:], (3,)) for n in (0, 4))
    prediction = process.predict_from("v", NO_SIGNAL, jnp.sin(x), x, t)
    want = process.p_step(NO_SIGNAL, prediction, x, t, s, z)
    np.testing.assert_allclose(_update(NO_SIGNAL, prediction, t, s, z), want, rtol=1e-4, atol=1e-5)


def test_the_noise_of_a_step_is_that_of_its_keys():
    keys, x = samplers.keys_for(KEY, 4), jnp.ones([4, 3])
    arguments = solver_checks.toy, STABLE, samplers.State(x), jnp.int32(600), jnp.int32(200), None
    state, prediction = euler_ancestral().step(keys, *arguments)
    want = _update(STABLE, prediction, 600, 200, samplers.normal(keys, (3,)))
    np.testing.assert_allclose(state.x, want, rtol=1e-5, atol=1e-5)


def test_all_ends_work():
    solver_checks.assert_all_ends_work(euler_ancestral())


def test_other_values_do_not_recompile():
    first, *later = solver_checks.count_traces(lambda _: euler_ancestral(), 0, 1, 2)
    assert first > 0 and later == [0, 0]


def test_it_needs_a_key():
    with pytest.raises(ValueError, match="random key"):
        samplers.sample(None, euler_ancestral(), solver_checks.toy, STABLE, np.array([900, 0]), jnp.ones([1, 2]))
