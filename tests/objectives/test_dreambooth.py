"""Prior preservation: two means for any numbers of examples, and their gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import objectives, schedules
from jaxdiff.types import Aux

LOSS = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])


def rows(params, extra, keys, batch):
    assert "prior" not in batch
    loss = params * batch["image"]
    return loss, (extra + 1, {"loss": loss, "other": loss})


@pytest.mark.parametrize("prior", [[0, 0, 0, 1, 1, 1], [0, 1, 0, 0, 0, 0], [1, 0, 1, 0, 1, 1]])
@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3])
def test_instance_and_class_have_separate_means(prior, weight):
    prior, loss = np.array(prior, bool), np.asarray(LOSS)
    batch = {"image": LOSS, "prior": jnp.asarray(prior)}
    loss_fn = objectives.dreambooth(rows, weight)
    found, (extra, metrics) = loss_fn(1.0, 0, None, batch)
    expected = loss[~prior].mean() + weight * loss[prior].mean()
    assert found.shape == (6,) and extra == 1
    np.testing.assert_allclose([found.mean(), metrics["loss"].mean()], expected, rtol=1e-6)
    halves = metrics["instance"].mean(), metrics["prior"].mean()
    np.testing.assert_allclose(halves, (loss[~prior].mean(), loss[prior].mean()), rtol=1e-6)
    np.testing.assert_array_equal(metrics["other"], LOSS)
    np.testing.assert_allclose(jax.grad(lambda w: loss_fn(w, 0, None, batch)[0].mean())(1.0), expected, rtol=1e-6)


def test_a_batch_of_one_kind_is_finite():
    batch = {"image": LOSS, "prior": jnp.zeros(6, bool)}
    np.testing.assert_allclose(objectives.dreambooth(rows)(1.0, 0, None, batch)[0].mean(), LOSS.mean(), rtol=1e-6)


def test_around_denoising():
    """With a weight of 0 it is the denoising objective of the instance's images alone."""
    grey = lambda params, x_t, t, cond, keys=None: (jnp.full_like(x_t, params), Aux())
    plain = objectives.denoising(grey, schedules.linear(), predict="x0")
    image, keys = jnp.linspace(-1, 1, 4).reshape(4, 1, 1, 1), jax.random.split(jax.random.key(0), 4)
    prior = jnp.array([False, True, False, True])
    loss, _ = objectives.dreambooth(plain, 0.0)(0.5, (), keys, {"image": image, "prior": prior})
    expected, _ = plain(0.5, (), keys, {"image": image})
    np.testing.assert_allclose(loss.mean(), expected[::2].mean(), rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="`prior_weight`=-1 must be at least 0"):
        objectives.dreambooth(rows, -1)
    with pytest.raises(ValueError, match="DreamBooth needs batch"):
        objectives.dreambooth(rows)(1.0, 0, None, {"image": LOSS})


def test_with_a_known_fraction_the_loss_does_not_depend_on_how_a_batch_is_divided():
    """Its mean over chunks of a batch is that of the batch; with fractions counted in each chunk it is not."""
    alone = lambda params, extra, keys, batch: (batch["image"], (extra, {"loss": batch["image"]}))
    image, prior = jnp.arange(8.0), jnp.array([True, True, False, True, False, False, True, False])
    mean = lambda loss_fn, chunk: float(
        loss_fn(None, (), None, {"image": image[chunk], "prior": prior[chunk]})[0].mean()
    )
    known, counted = objectives.dreambooth(alone, 0.5, prior_fraction=0.5), objectives.dreambooth(alone, 0.5)
    whole, chunks = slice(None), (slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8))
    expected = np.mean([2.0, 4.0, 5.0, 7.0]) + 0.5 * np.mean([0.0, 1.0, 3.0, 6.0])
    np.testing.assert_allclose([mean(known, whole), mean(counted, whole)], expected)
    np.testing.assert_allclose(np.mean([mean(known, chunk) for chunk in chunks]), expected)
    assert abs(np.mean([mean(counted, chunk) for chunk in chunks]) - expected) > 0.1
    with pytest.raises(ValueError, match="`prior_fraction`=1 must lie in"):
        objectives.dreambooth(alone, prior_fraction=1)
