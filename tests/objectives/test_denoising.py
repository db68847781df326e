"""The denoising loss, against expectations that are known exactly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import objectives, schedules
from jaxdiff.types import Aux, Cond

SCHEDULE = schedules.linear(100)
KEYS = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(4096))


def run(apply, predict="eps", image=None, **options):
    image = jnp.full([len(KEYS), 2, 2, 1], 0.5) if image is None else image
    loss_fn = objectives.denoising(apply, SCHEDULE, predict, **options)
    return loss_fn(None, (), KEYS[: len(image)], {"image": image})


@pytest.mark.parametrize("predict", ["eps", "x0", "v", "score"])
def test_the_true_target_has_no_loss(predict):
    """x0 is known here, so the network can work out its target from x_t by the definitions in the papers."""

    def oracle(params, x_t, t, cond, keys=None):
        alpha, sigma = (jnp.asarray(table)[t][:, None, None, None] for table in (SCHEDULE.alpha, SCHEDULE.sigma))
        eps = (x_t - alpha * 0.5) / sigma
        return {"eps": eps, "x0": jnp.full_like(x_t, 0.5), "v": alpha * eps - sigma * 0.5, "score": -eps / sigma}[
            predict
        ], Aux()

    loss, _ = run(oracle, predict)
    chex.assert_shape(loss, (len(KEYS),))
    assert float(loss.max()) < 1e-5


def test_a_network_that_says_nothing_pays_one_for_eps():
    loss, (extra, metrics) = run(lambda params, x_t, t, cond, keys=None: (jnp.zeros_like(x_t), Aux()))
    assert float(loss.mean()) == pytest.approx(1.0, abs=4 * np.sqrt(2 / (4 * len(KEYS))))  # mean of squared normals
    assert extra == ()
    chex.assert_trees_all_equal(metrics["loss"], loss)


def test_levels_are_uniform_over_1_to_T():
    seen = {}

    def spy(params, x_t, t, cond, keys=None):
        seen["t"] = np.asarray(t)
        return jnp.zeros_like(x_t), Aux()

    run(spy)
    assert seen["t"].min() == 1 and seen["t"].max() == 100
    counts = np.bincount(seen["t"], minlength=101)[1:]
    chi_square = ((counts - len(KEYS) / 100) ** 2 / (len(KEYS) / 100)).sum()
    assert chi_square < 160  # 99 degrees of freedom: probability 1e-4


def test_uint8_images_are_scaled():
    chex.assert_trees_all_close(
        objectives.to_unit_range(np.array([0, 255, 51], np.uint8)), np.array([-1.0, 1.0, -0.6], np.float32), atol=1e-6
    )
    chex.assert_trees_all_equal(objectives.to_unit_range(jnp.array([0.3])), jnp.array([0.3]))


def test_weighting_multiplies():
    silent = lambda params, x_t, t, cond, keys=None: (jnp.zeros_like(x_t), Aux())
    plain, _ = run(silent)
    weighted, _ = run(silent, weighting=lambda level, predict: 3.0 * jnp.ones_like(level.alpha))
    chex.assert_trees_all_close(weighted, 3 * plain, rtol=1e-6)


def test_min_snr_weighs_the_same_error_alike_for_every_kind():
    """A small error d in x0 is one of d alpha / sigma in eps, d / sigma in v, d alpha / sigma^2 in the score."""
    level = SCHEDULE(jnp.arange(1, 101))
    alpha, sigma = (np.asarray(x, np.float64) for x in level)
    wanted = np.minimum((alpha / sigma) ** 2, 5.0)
    for predict, error in {"x0": 1.0, "eps": alpha / sigma, "v": 1 / sigma, "score": alpha / sigma**2}.items():
        found = np.asarray(objectives.min_snr(level, predict)) * np.square(error)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_dropped_conditions_become_the_null_one():
    seen = {}

    def spy(params, x_t, t, cond, keys=None):
        seen["label"] = np.asarray(cond.label)
        return jnp.zeros_like(x_t), Aux()

    loss_fn = objectives.denoising(spy, SCHEDULE, null=Cond(label=10), drop=0.25)
    label = np.arange(len(KEYS)) % 10
    loss_fn(None, (), KEYS, {"image": jnp.zeros([len(KEYS), 2, 2, 1]), "cond": Cond(label=label)})
    dropped = seen["label"] == 10
    assert dropped.mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(seen["label"][~dropped], label[~dropped])


def test_an_output_of_another_shape_is_refused():
    both = lambda params, x_t, t, cond, keys=None: (jnp.concatenate([x_t, x_t], axis=-1), Aux())  # with a variance
    with pytest.raises(ValueError, match="is not of the images' shape"):
        run(both)


def test_refusals():
    with pytest.raises(ValueError, match="unknown kind of prediction 'epsilon'"):
        objectives.denoising(None, SCHEDULE, "epsilon")
    with pytest.raises(ValueError, match="drop needs a null"):
        objectives.denoising(None, SCHEDULE, drop=0.1)
