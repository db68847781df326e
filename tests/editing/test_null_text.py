"""Null-text inversion and its alternatives without optimisation, with a toy whose x0 depends on its context."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Cond, Guided, editing, guidance, samplers, schedules, timesteps
from jaxdiff.editing.null_text import _steps
from jaxdiff.process import predict_from

SCHEDULE = schedules.cosine(1000)
LEVELS = timesteps.grid(1000, 20)
X0 = jax.random.normal(jax.random.key(0), [6, 2])
GUIDED = Guided(Cond(context=X0[:, None] + 0.3), Cond(context=jnp.zeros([6, 1, 2])))


def denoise(x_t, t, cond):
    """x0 is the mean of the context and x_t."""
    return predict_from("x0", SCHEDULE, (cond.context[:, 0] + x_t) / 2, x_t, t)


PATH = editing.invert(denoise, SCHEDULE, LEVELS, X0, GUIDED.cond)


def errors(null, scale):
    """Largest error of each example's reconstruction with such unconditional embeddings."""
    cond, axes = GUIDED._replace(uncond=Cond(context=null)), Guided(None, Cond(context=0))
    again = editing.reconstruct(guidance.cfg(denoise, scale), SCHEDULE, LEVELS, PATH[0], cond, axes)
    return np.abs(again - X0).max(1)


def test_guidance_reconstructs_with_the_optimised_embeddings_and_not_without():
    search = editing.null_text_config(20, max_iterations=200, learning_rate=0.05)._replace(tolerance=jnp.full(20, 1e-9))
    found = editing.null_text(denoise, SCHEDULE, LEVELS, PATH, GUIDED, 7.5, search)
    assert found.shape == (20, 6, 1, 2)
    assert errors(found, 7.5).max() < 0.02 and errors(jnp.zeros_like(found), 7.5).min() > 0.5


def test_it_is_adam_written_out():
    """In numpy and float64, with the gradient of the mean squared error written out; x0 has derivative 1/2 by the null."""
    w, most, search = 3.0, 4, editing.null_text_config(20, max_iterations=4, learning_rate=0.1)
    search = search._replace(tolerance=jnp.full(20, 0.02))  # some examples stop early at some steps, others do not
    null, z, found, ended = np.zeros([6, 2]), np.asarray(PATH[0], np.float64), [], 0
    for i, (t, s) in enumerate(itertools.pairwise(LEVELS)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, SCHEDULE(level)) for level in (t, s))

        def down(null, z=z, a=alpha_s - sigma_s * alpha_t / sigma_t, b=sigma_s / sigma_t):
            x0 = (null + z) / 2 + w * (np.asarray(GUIDED.cond.context[:, 0], np.float64) - null) / 2
            return a * x0 + b * z, a * (1 - w) / 2

        first = second = np.zeros([6, 2])
        for step in range(1, most + 1):
            x_s, slope = down(null)
            off = np.asarray(PATH[i + 1]) - x_s
            going = (off**2).mean(1, keepdims=True) > 0.02
            gradient = -off * slope
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            null = np.where(going, null - float(search.learning_rate[i]) * change, null)
            ended += (~going).sum()
        z = down(null)[0]
        found.append(null)
    assert 0 < ended < 20 * 6 * most
    found_here = editing.null_text(denoise, SCHEDULE, LEVELS, PATH, GUIDED, w, search)
    np.testing.assert_allclose(found_here[:, :, 0], found, atol=2e-3)


def test_an_example_within_tolerance_is_not_optimised():
    """With the condition as the unconditional embedding, guidance changes nothing."""
    null = GUIDED.uncond.context.at[2].set(GUIDED.cond.context[2])
    path = editing.invert(denoise, SCHEDULE, LEVELS, X0, GUIDED.cond, refine=50)
    search = editing.null_text_config(20)._replace(tolerance=jnp.full(20, 1e-4))
    found = editing.null_text(denoise, SCHEDULE, LEVELS, path, GUIDED._replace(uncond=Cond(context=null)), 3.0, search)
    assert (found[:, 2] == null[None, 2]).all() and (found[:, 0] != null[None, 0]).any()


def test_progress_does_not_change_the_result_and_another_scale_does_not_recompile():
    whole, ticks = editing.null_text(denoise, SCHEDULE, LEVELS, PATH, GUIDED, 2.0), []
    watched = editing.null_text(denoise, SCHEDULE, LEVELS, PATH, GUIDED, 2.0, tick=ticks.append)
    np.testing.assert_allclose(watched, whole, atol=1e-6)
    assert ticks == [10, 10]
    before = _steps._cache_size()
    editing.null_text(denoise, SCHEDULE, LEVELS, PATH, GUIDED, 5.0, editing.null_text_config(20, max_iterations=3))
    assert _steps._cache_size() == before


def test_a_trajectory_of_other_levels_is_refused():
    with pytest.raises(ValueError, match="`trajectory` has 20 points and `timesteps` has 21 levels"):
        editing.null_text(denoise, SCHEDULE, LEVELS, PATH[1:], GUIDED, 2.0)
    with pytest.raises(ValueError, match="`trajectory` has 20 points and `timesteps` has 21 levels"):
        editing.direct_inversion(samplers.ddim(), LEVELS, PATH[1:], np.ones(6, bool))
    with pytest.raises(ValueError, match="`config` is of 50 steps and `timesteps` of 20"):
        editing.null_text(denoise, SCHEDULE, LEVELS, PATH, GUIDED, 2.0, editing.null_text_config(50))


def test_the_published_settings():
    search = editing.null_text_config(50)
    np.testing.assert_allclose(search.learning_rate[jnp.array([0, 20])], [1e-2, 8e-3], rtol=1e-5)
    np.testing.assert_allclose(search.tolerance[jnp.array([0, 20])], [1e-5, 41e-5], rtol=1e-5)


def test_negative_prompt_inversion_does_not_depend_on_the_scale():
    null = editing.negative_prompt_inversion(LEVELS, GUIDED)
    np.testing.assert_allclose(errors(null, 7.5), errors(null, 2.0), atol=1e-4)


@pytest.mark.parametrize("scale", [2.0, 7.5])
def test_direct_inversion_keeps_the_source_and_leaves_the_others(scale):
    """Rows 0..5 are sources; rows 6..11 are as without it."""
    twice = lambda x: jnp.concatenate([x, x])
    cond, x_T = jax.tree.map(twice, GUIDED), twice(PATH[0])
    sampler = editing.direct_inversion(samplers.ddim(), LEVELS, jnp.concatenate([PATH, PATH], 1), np.arange(12) < 6)
    args = guidance.cfg(denoise, scale), SCHEDULE
    run = lambda sampler, levels: samplers.sample(None, sampler, *args, levels, x_T, cond, collect=keep)[1]
    found, plain = run(sampler, LEVELS), run(samplers.ddim(), LEVELS)
    np.testing.assert_array_equal(found[:, :6], PATH[1:])
    np.testing.assert_allclose(found[:, 6:], plain[:, 6:], atol=1e-5)
    between = np.append(LEVELS[:-1] - 1, 0)  # only the last of these is a level of the inversion
    found, plain = run(sampler, between), run(samplers.ddim(), between)
    np.testing.assert_allclose(found[:-1], plain[:-1], atol=1e-6)
    np.testing.assert_array_equal(found[-1, :6], X0)


def keep(state, prediction):
    return state.x
