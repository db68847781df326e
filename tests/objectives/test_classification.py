"""The classifier's loss: against a cross-entropy in float64, and in the training of a network."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import UNetConfig, network, objectives, samplers, schedules
from jaxdiff.nets.classifier import Classifier
from jaxdiff.objectives import levels
from jaxdiff.train import state
from jaxdiff.train.step import make_train_step
from jaxdiff.types import Aux, Cond

SCHEDULE = schedules.linear(100)
KEYS = samplers.keys_for(jax.random.key(0), 64)
RNG = np.random.default_rng(0)
BATCH = {"image": RNG.integers(0, 256, (64, 2, 2, 1), np.uint8), "cond": Cond(label=RNG.integers(0, 3, 64, np.int32))}
KERNEL = RNG.standard_normal((4, 3)).astype(np.float32)


def spy(seen):
    """A linear classifier that records its arguments."""

    def apply(params, x_t, t, cond, keys=None):
        seen.update(x_t=np.asarray(x_t), t=np.asarray(t), cond=cond, keys=keys)
        return x_t.reshape(len(x_t), -1) @ params, Aux()

    return apply


def cross_entropy(logits, label, smoothing):
    """-sum_k target_k log p_k, one example after the other, in float64."""
    losses = []
    for row, y in zip(np.asarray(logits, np.float64), label, strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        target = (1 - smoothing) * (np.arange(len(row)) == y) + smoothing / len(row)
        losses.append(-(target * np.log(p)).sum())
    return np.array(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_cross_entropy_of_the_label(smoothing):
    seen, label = {}, BATCH["cond"].label
    loss_fn = objectives.classification(spy(seen), SCHEDULE, label_smoothing=smoothing)
    loss, (extra, metrics) = loss_fn(KERNEL, (), KEYS, BATCH)
    logits = seen["x_t"].reshape(64, 4) @ KERNEL
    np.testing.assert_allclose(loss, cross_entropy(logits, label, smoothing), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(metrics["accuracy"], logits.argmax(1) == label)
    assert 0 < metrics["accuracy"].mean() < 1 and metrics["accuracy"].dtype == jnp.float32
    chex.assert_trees_all_equal(metrics["loss"], loss)
    assert extra == ()


def test_the_network_sees_noisy_images_their_levels_and_no_label():
    seen = {}
    objectives.classification(spy(seen), SCHEDULE)(KERNEL, (), KEYS, BATCH)
    assert seen["cond"] is None and seen["keys"].shape == (64,)
    assert seen["t"].min() >= 1 and seen["t"].max() <= 100 and len(np.unique(seen["t"])) > 30
    x0 = BATCH["image"].astype(np.float64) / 127.5 - 1
    alpha, sigma = (np.asarray(x, np.float64)[seen["t"], None, None, None] for x in (SCHEDULE.alpha, SCHEDULE.sigma))
    eps = (seen["x_t"] - alpha * x0) / sigma
    assert abs(eps.mean()) < 5 / np.sqrt(eps.size) and abs(eps.var() - 1) < 5 * np.sqrt(2 / eps.size)


def test_clean_levels_do_not_change_the_images():
    seen = {}
    objectives.classification(spy(seen), SCHEDULE, levels=levels.clean())(KERNEL, (), KEYS, BATCH)
    np.testing.assert_array_equal(seen["t"], np.zeros(64, np.int32))
    np.testing.assert_allclose(seen["x_t"], BATCH["image"].astype(np.float64) / 127.5 - 1, atol=1e-6)
    chex.assert_trees_all_equal(levels.clean().draw((), KEYS, None, 100)[1], jnp.ones(64))


def test_losses_have_the_weights_of_their_levels():
    odd = objectives.LevelDraw(
        init=lambda T: jnp.zeros(()),
        draw=lambda extra, keys, index, T: (jnp.full(len(keys), 7), jnp.full(len(keys), 4.0)),
        update=lambda extra, index, t, loss: extra + loss.sum(),
    )
    even = lambda params, x_t, t, cond, keys=None: (jnp.zeros([len(x_t), 3]), Aux())
    loss_fn = objectives.classification(even, SCHEDULE, levels=odd)
    loss, (extra, metrics) = loss_fn(None, odd.init(100), KEYS, BATCH)
    np.testing.assert_allclose(loss, 4 * np.log(3) * np.ones(64), rtol=1e-6)
    assert float(extra) == pytest.approx(64 * np.log(3))  # update receives the loss before its weight
    assert metrics["accuracy"].max() == 1.0


def test_a_network_learns_to_classify_two_images():
    net = Classifier(UNetConfig(out_channels=2, channels=(8,), blocks=1, attention=(), mid_attention=False, groups=4))
    label = np.arange(16) % 2
    image = np.zeros((16, 4, 4, 1), np.uint8)
    image[label == 1, :, 2:] = 255  # the right half is white, or not
    batch = {"image": image, "index": np.arange(16), "cond": Cond(label=label)}
    optimizer = optax.adam(1e-2)
    loss_fn = objectives.classification(network(net), SCHEDULE)
    step = jax.jit(make_train_step(loss_fn, optimizer))
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros([1, 4, 4, 1]), jnp.zeros([1]))["params"]
    now, history = state.init(params, optimizer), []
    for _ in range(20):
        now, metrics = step(now, jax.random.key(1), batch)
        history.append(jax.device_get(metrics))
    assert np.mean([m["loss"] for m in history[-5:]]) < 0.5 * np.mean([m["loss"] for m in history[:2]])
    assert np.mean([m["accuracy"] for m in history[-5:]]) > 0.9
    assert step._cache_size() == 1


def test_the_loss_of_a_label_that_is_no_class_is_nan():
    loss_fn = objectives.classification(spy({}), SCHEDULE)
    loss, _ = loss_fn(KERNEL, (), KEYS, BATCH | {"cond": Cond(label=np.full(64, 3))})
    assert np.isnan(loss).all()


def test_errors():
    for smoothing in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"`label_smoothing`={smoothing} must be in"):
            objectives.classification(spy({}), SCHEDULE, label_smoothing=smoothing)
    loss_fn = objectives.classification(spy({}), SCHEDULE)
    for cond in ({}, {"cond": None}, {"cond": Cond(vector=np.ones((64, 1)))}):
        with pytest.raises(ValueError, match="a classifier is trained on labels: give the batch a cond with a label"):
            loss_fn(KERNEL, (), KEYS, {"image": BATCH["image"]} | cond)
    picture = lambda params, x_t, t, cond, keys=None: (x_t, Aux())
    with pytest.raises(ValueError, match=r"output has shape \(64, 2, 2, 1\), not \[B, K\] for labels \(64,\)"):
        objectives.classification(picture, SCHEDULE)(None, (), KEYS, BATCH)
    with pytest.raises(ValueError, match=r"not \[B, K\] for labels"):
        loss_fn(KERNEL, (), KEYS, BATCH | {"cond": Cond(label=np.zeros((64, 1), np.int32))})
