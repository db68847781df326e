"""Draws of levels: their frequencies, and the mean of reweighted losses."""

import functools
from collections import deque

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import samplers
from jaxdiff.objectives import levels

KEYS = samplers.keys_for(jax.random.key(0), 20_000)
THRESHOLD = 160  # of chi-square with 99 degrees of freedom: probability 1e-4


def chi_square(t, shares):
    expected = len(t) * np.asarray(shares, np.float64)
    return ((np.bincount(t, minlength=len(shares) + 1)[1:] - expected) ** 2 / expected).sum()


def test_uniform_levels_are_uniform_over_1_to_T():
    t, weight = levels.uniform().draw((), KEYS, None, 100)
    assert t.min() == 1 and t.max() == 100
    assert chi_square(np.asarray(t), np.full(100, 0.01)) < THRESHOLD
    chex.assert_trees_all_equal(weight, jnp.ones(len(KEYS)))


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (-0.6, 1.2)])
def test_logit_normal_levels_follow_their_law(mean, std):
    t, weight = levels.logit_normal(mean, std).draw((), KEYS, None, 100)
    edges = np.arange(101) / 100
    with np.errstate(divide="ignore"):
        z = (np.log(edges) - np.log1p(-edges) - mean) / std
    cdf = np.asarray(jax.scipy.special.ndtr(jnp.asarray(z)), np.float64)
    shares, t = np.diff(cdf), np.asarray(t)
    common = shares > 5 / len(KEYS)
    counts = np.bincount(t, minlength=101)[1:]
    expected = len(KEYS) * shares
    assert ((counts - expected)[common] ** 2 / expected[common]).sum() < THRESHOLD
    assert counts[~common].sum() <= 10 + 3 * expected[~common].sum()
    chex.assert_trees_all_equal(weight, jnp.ones(len(KEYS)))


def test_stratified_levels_leave_no_gap_in_a_step_and_are_uniform_over_many():
    draws = levels.stratified(jax.random.key(5), 50)
    t, weight = draws.draw((), None, jnp.arange(20_000), 100)
    chex.assert_trees_all_equal(weight, jnp.ones(20_000))
    for step in np.asarray(t).reshape(-1, 50):
        strata = np.sort(step)
        assert set(np.diff(strata)) <= {1, 2, 3}  # 2 apart, but for rounding to levels
    # Within a step levels lie 2 apart, so that a level is drawn in half of the steps, like a coin toss per step.
    counts = np.bincount(np.asarray(t), minlength=101)[1:]
    assert np.abs(counts - 200).max() < 5 * np.sqrt(400 * 0.25)
    assert (
        len(np.unique(np.asarray(t).reshape(-1, 50)[:, 0])) > 90
    )  # an example's position does not determine its level


def test_stratified_levels_depend_on_the_position_and_not_on_the_device():
    draws = levels.stratified(jax.random.key(5), 8)
    whole, _ = draws.draw((), None, jnp.arange(32), 1000)
    for device in range(4):
        part, _ = draws.draw((), None, jnp.arange(32)[device::4], 1000)
        chex.assert_trees_all_equal(part, whole[device::4])


def test_importance_draws_by_root_mean_squares_and_preserves_the_mean():
    T, losses = 20, np.linspace(0.1, 2.0, 20)
    draws = levels.importance(history=3)
    extra = draws.init(T)
    for i in range(3):
        t, weight = draws.draw(extra, KEYS, None, T)
        chex.assert_trees_all_close(weight, jnp.ones(len(KEYS)), rtol=1e-5)  # until all have three
        assert chi_square(np.asarray(t), np.full(T, 1 / T)) < THRESHOLD
        extra = draws.update(extra, None, jnp.arange(1, T + 1), jnp.asarray(losses * [0.0, 1.0, 2.0][i], jnp.float32))
    t, weight = draws.draw(extra, KEYS, None, T)
    p = 0.999 * losses / losses.sum() + 0.001 / T
    assert chi_square(np.asarray(t), p) < THRESHOLD
    np.testing.assert_allclose(weight, (1 / (T * p))[np.asarray(t) - 1], rtol=1e-5)
    weighed = np.asarray(weight) * losses[np.asarray(t) - 1]
    assert weighed.mean() == pytest.approx(losses.mean(), abs=5 * weighed.std() / np.sqrt(len(KEYS)))
    assert weighed.std() < 0.01 * losses.std()  # with constant losses p removes all of the variance


def test_importance_records_the_last_losses_of_each_level():
    """Against a queue for each level, fed one loss after the other."""
    rng, queues = np.random.default_rng(0), {t: deque(maxlen=4) for t in range(1, 6)}
    draws = levels.importance(history=4)
    extra, update = draws.init(5), jax.jit(draws.update)
    for step in range(6):
        index, t, loss = rng.permutation(16) + 16 * step, rng.integers(1, 6, 16), rng.random(16, np.float32)
        for i in np.argsort(index):
            queues[t[i]].appendleft(loss[i])
        extra = update(extra, jnp.asarray(index), jnp.asarray(t), jnp.asarray(loss))
    for t, queue in queues.items():
        np.testing.assert_array_equal(extra.losses[t], list(queue))
    np.testing.assert_array_equal(extra.counts[1:], 4 * np.ones(5))


def test_all_devices_record_the_losses_of_one_device():
    alone = levels.importance(history=4)
    shared = levels.importance(history=4, axis_name="batch")
    rng = np.random.default_rng(1)
    index, t, loss = np.arange(32), rng.integers(1, 6, 32), rng.random(32, np.float32)
    expected = alone.update(alone.init(5), jnp.asarray(index), jnp.asarray(t), jnp.asarray(loss))
    D = jax.local_device_count()
    assert D == 8
    update = jax.pmap(functools.partial(shared.update, shared.init(5)), axis_name="batch")
    found = update(*(x.reshape(-1, D).T for x in (index, t, loss)))  # processes have every D-th example
    chex.assert_trees_all_equal(found, jax.tree.map(lambda x: jnp.stack([x] * D), expected))


def test_errors():
    with pytest.raises(ValueError, match="`std`=0 must be above 0"):
        levels.logit_normal(std=0)
    with pytest.raises(ValueError, match="`batch_size`=0 must be at least 1"):
        levels.stratified(jax.random.key(0), 0)
    with pytest.raises(ValueError, match="need the examples' positions in the stream"):
        levels.stratified(jax.random.key(0), 4).draw((), KEYS, None, 10)
    with pytest.raises(ValueError, match="`history`=0 must be at least 1"):
        levels.importance(history=0)
    for mix in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"`mix`={mix} must lie in \(0, 1\]"):
            levels.importance(mix=mix)
