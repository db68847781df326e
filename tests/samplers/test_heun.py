"""Heun's method: against diffusers and EDM's algorithm 2; recursions and orders: test_recursions.py, test_table.py."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import solver_checks
from solver_checks import KEY, NO_SIGNAL, STABLE

from jaxdiff import samplers, schedules
from jaxdiff.samplers.heun import Churn, _raise, heun, slope_gain


def test_a_whole_run_is_diffusers():
    solver_checks.assert_run_is_published("heun", heun())


def algorithm_2(x, levels, zs, gamma, s_min, s_max, s_noise):
    """EDM's loop in its own variables, float64; x at the last level."""
    eps = lambda x, t: np.tanh(0.8 * x) + 0.3 * np.sin(6.0 * t / 1000)
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    angles = np.concatenate([[0.0], np.arccos(np.sqrt(abar))])
    angle = lambda t: np.interp(t, np.arange(1001), angles)
    y = x / np.cos(angle(levels[0]))
    for t, s, z in zip(levels[:-1], levels[1:], zs):
        w, w_s = np.tan(angle(t)), np.tan(angle(s))
        share = min(gamma, np.sqrt(2) - 1) if s_min <= w <= s_max else 0.0
        w_up = w + share * w
        y_up = y + np.sqrt(w_up**2 - w**2) * s_noise * z
        t_up = np.interp(np.arctan(w_up), angles, np.arange(1001))
        slope = eps(y_up * np.cos(np.arctan(w_up)), t_up)
        y = y_up + (w_s - w_up) * slope
        if w_s > 0:
            y = y_up + (w_s - w_up) * (slope + eps(y * np.cos(np.arctan(w_s)), s)) / 2
    return y * np.cos(angle(levels[-1]))


@jax.jit
def one_step(sampler, keys, state, t, s):
    return sampler.step(keys, solver_checks.toy, STABLE, state, t, s, None)


@pytest.mark.parametrize("churn", [(0.2, 0.0, np.inf, 1.0), (0.9, 0.0, np.inf, 1.003), (0.3, 0.5, 3.0, 1.0)])
@pytest.mark.parametrize("levels", [[900, 600, 250, 40, 0], [900, 600, 250, 40, 1]])
def test_churn_is_that_of_algorithm_2(churn, levels):
    x = np.random.default_rng(0).standard_normal((4, 3))
    sampler, state, zs = heun(*churn), samplers.State(jnp.asarray(x, jnp.float32)), []
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        keys = samplers.keys_for(jax.random.fold_in(KEY, i), 4)
        state, _ = one_step(sampler, keys, state, t, s)
        zs.append(np.asarray(samplers.normal(keys, (3,)), np.float64))
    np.testing.assert_allclose(state.x, algorithm_2(x, levels, zs, *churn), rtol=1e-4, atol=2e-4)


def test_churn_finds_the_level_whose_noise_is_raised():
    x = jnp.ones([1, 2])
    level = jax.jit(lambda churn, t: _raise(churn, STABLE, x, t, 0 * x)[1])
    raised = lambda t, churn: float(level(Churn(*map(jnp.float32, churn)), jnp.int32(t)))
    for t, gamma in ((3, 0.01), (40, 0.4), (500, 0.1), (900, 0.2)):
        up = raised(t, (gamma, 0.0, np.inf, 1.0))
        (alpha, sigma), (alpha_up, sigma_up) = STABLE(t), STABLE(up)
        np.testing.assert_allclose(sigma_up / alpha_up, (1 + gamma) * sigma / alpha, rtol=1e-4)
    assert raised(990, (0.4, 0.0, np.inf, 1.0)) == 1000  # no level is raised above T
    assert raised(500, (0.4, 5.0, np.inf, 1.0)) == 500 == raised(500, (0.4, 0.0, 1.0, 1.0))


def test_out_of_a_level_without_signal_the_step_is_eulers():
    assert float(slope_gain(NO_SIGNAL, 40, 20)) == 0
    cosine = schedules.cosine(1000)
    assert 0 < float(cosine(1000).alpha) < 1e-3
    exploding = schedules.variance_exploding(1000, sigma_max=5000.0)  # of which alpha stays 1
    assert float(slope_gain(exploding, 1000, 999)) == pytest.approx(float(exploding.sigma[999] - 5000), rel=1e-4)
    assert float(slope_gain(cosine, 1000, 500)) == 0 != float(slope_gain(cosine, 999, 500))
    (a_t, b_t), (a_s, b_s) = (map(float, STABLE(t)) for t in (600, 300))
    np.testing.assert_allclose(slope_gain(STABLE, 600, 300), a_s * (b_s / a_s - b_t / a_t), rtol=1e-5)


@pytest.mark.parametrize("churn", [0.0, 0.3])
def test_all_ends_work(churn):
    solver_checks.assert_all_ends_work(heun(churn))


def test_other_values_do_not_recompile():
    for make in (lambda churn: heun(churn, 0.1 * churn, 10 + churn, 1 + churn), lambda churn: heun()):
        first, *later = solver_checks.count_traces(make, 0.1, 0.2, np.float64(0.4))
        assert first > 0 and later == [0, 0]


def test_churn_0_is_left_out_for_any_type_of_number():
    trees = [jax.tree.structure(heun(churn)) for churn in (0, 0.0, np.float32(0), jnp.zeros([]))]
    assert trees == 4 * [jax.tree.structure(heun())] and jax.tree.structure(heun(0.1)) != trees[0]


def test_errors():
    with pytest.raises(ValueError, match=r"`churn`=-0\.1 must be at least 0"):
        heun(-0.1)
    with pytest.raises(ValueError, match="random key"):
        samplers.sample(None, heun(0.1), solver_checks.toy, STABLE, np.array([900, 500, 0]), jnp.ones([1, 2]))
