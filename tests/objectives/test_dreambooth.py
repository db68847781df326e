"""Prior preservation: two means, whatever the numbers of examples, and their gradient."""

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
def test_each_half_has_its_own_mean(prior, weight):
    prior, loss = np.array(prior, bool), np.asarray(LOSS)
    batch = {"image": LOSS, "prior": jnp.asarray(prior)}
    loss_fn = objectives.dreambooth(rows, weight)
    found, (extra, metrics) = loss_fn(1.0, 0, None, batch)
    wanted = loss[~prior].mean() + weight * loss[prior].mean()
    assert found.shape == (6,) and extra == 1
    np.testing.assert_allclose([found.mean(), metrics["loss"].mean()], wanted, rtol=1e-6)
    halves = metrics["instance"].mean(), metrics["prior"].mean()
    np.testing.assert_allclose(halves, (loss[~prior].mean(), loss[prior].mean()), rtol=1e-6)
    np.testing.assert_array_equal(metrics["other"], LOSS)
    np.testing.assert_allclose(jax.grad(lambda w: loss_fn(w, 0, None, batch)[0].mean())(1.0), wanted, rtol=1e-6)


def test_a_batch_of_one_kind_is_finite():
    batch = {"image": LOSS, "prior": jnp.zeros(6, bool)}
    np.testing.assert_allclose(objectives.dreambooth(rows)(1.0, 0, None, batch)[0].mean(), LOSS.mean(), rtol=1e-6)


def test_around_denoising():
    """With a weight of 0 it is denoising of the instance's images alone."""
    grey = lambda params, x_t, t, cond, keys=None: (jnp.full_like(x_t, params), Aux())
    plain = objectives.denoising(grey, schedules.linear(), predict="x0")
    image, keys = jnp.linspace(-1, 1, 4).reshape(4, 1, 1, 1), jax.random.split(jax.random.key(0), 4)
    prior = jnp.array([False, True, False, True])
    loss, _ = objectives.dreambooth(plain, 0.0)(0.5, (), keys, {"image": image, "prior": prior})
    wanted, _ = plain(0.5, (), keys, {"image": image})
    np.testing.assert_allclose(loss.mean(), wanted[::2].mean(), rtol=1e-6)


def test_what_it_needs():
    with pytest.raises(ValueError, match="prior_weight=-1 must be at least 0"):
        objectives.dreambooth(rows, -1)
    with pytest.raises(ValueError, match="the batch has no `prior`"):
        objectives.dreambooth(rows)(1.0, 0, None, {"image": LOSS})
