"""CFG++: special cases in which it is DDIM, and its scales; recursions on Gaussians: test_recursions.py, test_table.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import solver_checks
from jax.tree_util import Partial
from solver_checks import LINEAR

from jaxdiff import guidance, samplers, testing
from jaxdiff.samplers.cfgpp import ddim_cfgpp
from jaxdiff.testing.oracle import labeled
from jaxdiff.timesteps import grid
from jaxdiff.types import Cond, Guided

ORACLE = labeled(testing.mixture([0.7, 0.3], [[-1.0, 0.5], [1.0, 0.2]], [0.2, 0.1]), [0, 1])
DENOISE = ORACLE.denoiser(LINEAR)
X_T = samplers.noise(samplers.keys_for(solver_checks.KEY, 4), (2,))
LABEL, NULL = Cond(label=jnp.array([0, 1, 0, 1])), Cond(label=jnp.full(4, 2))
EACH = np.array([0.0, 0.3, 0.6, 1.0], np.float32)
shapes = []


def run(sampler, denoise, cond):
    return samplers.sample(None, sampler, denoise, LINEAR, grid(100, 5), X_T, cond)[0]


@pytest.mark.parametrize(
    "scale, cond, same",
    [(0.0, Guided(LABEL, NULL), NULL), (0.7, Guided(LABEL, LABEL), LABEL), (0.4, Guided(NULL, NULL), None)],
    ids=["scale 0", "equal halves", "both null"],
)
def test_without_guidance_it_is_ddim(scale, cond, same):
    x = run(ddim_cfgpp(scale), DENOISE, cond)
    np.testing.assert_allclose(x, run(samplers.ddim(), DENOISE, same), rtol=1e-5, atol=1e-5)


def test_its_last_step_is_guided_ddim_and_the_others_are_not():
    """Into level 0 no noise is added, conditional or not."""
    step = lambda s: samplers.sample(None, ddim_cfgpp(0.6), DENOISE, LINEAR, [60, s], X_T, Guided(LABEL, NULL))[0]
    guided = lambda s: samplers.sample(
        None, samplers.ddim(), guidance.cfg(DENOISE, 0.6), LINEAR, [60, s], X_T, Guided(LABEL, NULL)
    )[0]
    np.testing.assert_allclose(step(0), guided(0), rtol=1e-5, atol=1e-5)
    assert np.abs(step(20) - guided(20)).max() > 0.05


def of_level(k, t):
    return k * t / 100


def test_a_scale_may_be_of_each_example_or_of_the_level():
    many, cond = run(ddim_cfgpp(EACH), DENOISE, Guided(LABEL, NULL)), Guided(LABEL, NULL)
    for i, scale in enumerate(EACH):
        np.testing.assert_allclose(many[i], run(ddim_cfgpp(scale), DENOISE, cond)[i], rtol=1e-5, atol=1e-5)
    step = lambda scale: samplers.sample(None, ddim_cfgpp(scale), DENOISE, LINEAR, [60, 20], X_T, cond)[0]
    np.testing.assert_allclose(step(Partial(of_level, 0.5)), step(0.3), rtol=1e-5, atol=1e-5)


def test_one_call_per_step_for_both_conditions_and_the_prediction_is_the_guided_one():
    def count(x_t, t, cond):
        shapes.append(x_t.shape)
        return DENOISE(x_t, t, cond)

    cond, state = Guided(LABEL, NULL), samplers.State(X_T)
    _, prediction = ddim_cfgpp(0.6).step(None, count, LINEAR, state, jnp.int32(60), jnp.int32(20), cond)
    assert shapes == [(8, 2)]
    jax.tree.map(np.testing.assert_array_equal, prediction, guidance.cfg(DENOISE, 0.6)(X_T, jnp.int32(60), cond))


def with_guided(sampler):
    """The sampler with its condition as both of a `Guided`."""
    return sampler._replace(step=Partial(guided_step, sampler.step))


def guided_step(step, keys, denoise, schedule, state, t, s, cond):
    return step(keys, denoise, schedule, state, t, s, Guided(cond, cond))


def test_all_ends_work():
    solver_checks.assert_all_ends_work(with_guided(ddim_cfgpp(0.6)))


def test_other_values_do_not_recompile():
    first, *later = solver_checks.count_traces(lambda scale: with_guided(ddim_cfgpp(scale)), 0, 0.6, np.float64(1.0))
    assert first > 0 and later == [0, 0]


@pytest.mark.parametrize("scale", [-0.1, 3])
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        ddim_cfgpp(scale)


def test_it_needs_two_conditions():
    with pytest.raises(ValueError, match=r"give cond=jaxdiff.Guided\(cond, uncond\)"):
        run(ddim_cfgpp(0.5), DENOISE, LABEL)
