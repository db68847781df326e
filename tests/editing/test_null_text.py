"""Null-text inversion and what stands in for it, on a toy whose prediction is its context."""

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
    """x0 is half of the context and half of what is seen."""
    return predict_from("x0", SCHEDULE, (cond.context[:, 0] + x_t) / 2, x_t, t)


PATH = editing.invert(denoise, SCHEDULE, LEVELS, X0, GUIDED.cond)


def missed(null, scale):
    """By how much each example is missed on the way back, with such nulls."""
    cond, axes = GUIDED._replace(uncond=Cond(context=null)), Guided(None, Cond(context=0))
    again = editing.reconstruct(guidance.cfg(denoise, scale), SCHEDULE, LEVELS, PATH[0], cond, axes)
    return np.abs(again - X0).max(1)


def test_guidance_leads_back_with_what_was_found_and_not_without():
    search = editing.published(20, most=200, rate=0.05)._replace(enough=jnp.full(20, 1e-9))
    found = editing.null_text(denoise, SCHEDULE, LEVELS, PATH, GUIDED, 7.5, search)
    assert found.shape == (20, 6, 1, 2)
    assert missed(found, 7.5).max() < 0.02 and missed(jnp.zeros_like(found), 7.5).min() > 0.5


def test_an_example_that_is_on_its_path_ends_its_search_at_once():
    """Where the null says what the condition says, guidance changes nothing."""
    null = GUIDED.uncond.context.at[2].set(GUIDED.cond.context[2])
    path = editing.invert(denoise, SCHEDULE, LEVELS, X0, GUIDED.cond, refine=50)
    search = editing.published(20)._replace(enough=jnp.full(20, 1e-4))
    found = editing.null_text(denoise, SCHEDULE, LEVELS, path, GUIDED._replace(uncond=Cond(context=null)), 3.0, search)
    assert (found[:, 2] == null[None, 2]).all() and (found[:, 0] != null[None, 0]).any()


def test_watched_is_the_same_and_another_scale_compiles_nothing():
    whole, ticks = editing.null_text(denoise, SCHEDULE, LEVELS, PATH, GUIDED, 2.0), []
    watched = editing.null_text(denoise, SCHEDULE, LEVELS, PATH, GUIDED, 2.0, tick=ticks.append)
    np.testing.assert_allclose(watched, whole, atol=1e-6)
    assert ticks == [10, 10]
    before = _steps._cache_size()
    editing.null_text(denoise, SCHEDULE, LEVELS, PATH, GUIDED, 5.0, editing.published(20, most=3))
    assert _steps._cache_size() == before


def test_a_trajectory_of_other_levels_is_refused():
    with pytest.raises(ValueError, match="20 points is none of 21 levels"):
        editing.null_text(denoise, SCHEDULE, LEVELS, PATH[1:], GUIDED, 2.0)
    with pytest.raises(ValueError, match="20 points is none of 21 levels"):
        editing.direct(samplers.ddim(), LEVELS, PATH[1:], np.ones(6, bool))


def test_the_published_numbers():
    search = editing.published(50)
    np.testing.assert_allclose(search.rate[jnp.array([0, 20])], [1e-2, 8e-3], rtol=1e-5)
    np.testing.assert_allclose(search.enough[jnp.array([0, 20])], [1e-5, 41e-5], rtol=1e-5)


def test_a_negative_prompt_makes_the_scale_of_no_matter():
    null = editing.negative_prompt(LEVELS, GUIDED)
    np.testing.assert_allclose(missed(null, 7.5), missed(null, 2.0), atol=1e-4)


@pytest.mark.parametrize("scale", [2.0, 7.5])
def test_direct_inversion_keeps_the_source_and_leaves_the_others(scale):
    """Rows 0..5 are sources; 6..11 go where they would."""
    twice = lambda x: jnp.concatenate([x, x])
    cond, x_T = jax.tree.map(twice, GUIDED), twice(PATH[0])
    sampler = editing.direct(samplers.ddim(), LEVELS, jnp.concatenate([PATH, PATH], 1), np.arange(12) < 6)
    run = lambda sampler, levels=LEVELS: samplers.sample(
        None, sampler, guidance.cfg(denoise, scale), SCHEDULE, levels, x_T, cond
    )[0]
    found, plain = run(sampler), run(samplers.ddim())
    np.testing.assert_array_equal(found[:6], X0)
    np.testing.assert_allclose(found[6:], plain[6:], atol=1e-5)
    between = np.append(LEVELS[:-1] - 1, 0)  # of these only the last is on the path
    np.testing.assert_array_equal(run(sampler, between)[:6], X0)
    np.testing.assert_allclose(run(sampler, between[:-1]), run(samplers.ddim(), between[:-1]), atol=1e-6)
