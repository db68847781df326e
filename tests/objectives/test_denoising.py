"""The denoising loss, against exact expectations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import objectives, schedules
from jaxdiff.objectives.noising import drop_cond
from jaxdiff.types import Aux, Cond

SCHEDULE = schedules.linear(100)
KEYS = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(4096))


def run(apply, predict="eps", image=None, **options):
    image = jnp.full([len(KEYS), 2, 2, 1], 0.5) if image is None else image
    loss_fn = objectives.denoising(apply, SCHEDULE, predict, **options)
    return loss_fn(None, (), KEYS[: len(image)], {"image": image})


@pytest.mark.parametrize("predict", ["eps", "x0", "v", "score"])
def test_the_true_target_has_no_loss(predict):
    """x0 is known here, so that the network can compute its target from x_t by the definitions in the papers."""

    def oracle(params, x_t, t, cond, keys=None):
        alpha, sigma = (jnp.asarray(table)[t][:, None, None, None] for table in (SCHEDULE.alpha, SCHEDULE.sigma))
        eps = (x_t - alpha * 0.5) / sigma
        return {"eps": eps, "x0": jnp.full_like(x_t, 0.5), "v": alpha * eps - sigma * 0.5, "score": -eps / sigma}[
            predict
        ], Aux()

    loss, _ = run(oracle, predict)
    chex.assert_shape(loss, (len(KEYS),))
    assert float(loss.max()) < 1e-5


def test_the_loss_of_predicting_eps_as_zero_is_one():
    loss, (extra, metrics) = run(lambda params, x_t, t, cond, keys=None: (jnp.zeros_like(x_t), Aux()))
    assert float(loss.mean()) == pytest.approx(1.0, abs=4 * np.sqrt(2 / (4 * len(KEYS))))  # mean of squared normals
    assert extra == ()
    chex.assert_trees_all_equal(metrics["loss"], loss)


def test_uint8_images_are_scaled():
    chex.assert_trees_all_close(
        objectives.to_unit_range(np.array([0, 255, 51], np.uint8)), np.array([-1.0, 1.0, -0.6], np.float32), atol=1e-6
    )
    chex.assert_trees_all_equal(objectives.to_unit_range(jnp.array([0.3])), jnp.array([0.3]))
    with pytest.raises(ValueError, match="`image` of type int32 must be uint8"):
        objectives.to_unit_range(jnp.array([0, 255]))


def test_weighting_multiplies():
    zero = lambda params, x_t, t, cond, keys=None: (jnp.zeros_like(x_t), Aux())
    plain, _ = run(zero)
    weighted, _ = run(zero, weighting=lambda schedule, t, predict: 3.0 * jnp.ones(t.shape))
    chex.assert_trees_all_close(weighted, 3 * plain, rtol=1e-6)


def test_dropped_conditions_become_the_null_one():
    seen = {}

    def spy(params, x_t, t, cond, keys=None):
        seen["label"] = np.asarray(cond.label)
        return jnp.zeros_like(x_t), Aux()

    loss_fn = objectives.denoising(spy, SCHEDULE, null_cond=Cond(label=10), cond_dropout=0.25)
    label = np.arange(len(KEYS)) % 10
    loss_fn(None, (), KEYS, {"image": jnp.zeros([len(KEYS), 2, 2, 1]), "cond": Cond(label=label)})
    dropped = seen["label"] == 10
    assert dropped.mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(seen["label"][~dropped], label[~dropped])


def test_fields_that_the_null_condition_lacks_are_never_dropped():
    dropped = np.array([True, False])
    cond = Cond(label=np.array([3, 7]), vector=np.ones((2, 4)))
    left = drop_cond(dropped, Cond(label=10), cond)
    assert left.label.tolist() == [10, 7] and left.vector is cond.vector
    none = drop_cond(dropped, Cond(vector=np.zeros(4)), cond)
    assert none.vector[:, 0].tolist() == [0, 1] and none.label is cond.label
    with pytest.raises(ValueError, match="has a field that the batch's condition does not have"):
        drop_cond(dropped, Cond(label=10), Cond(vector=np.ones((2, 4))))
    with pytest.raises(ValueError, match="has a field that the batch's condition does not have"):
        drop_cond(dropped, Cond(label=10), None)


def test_offset_noise_is_the_same_in_all_pixels_of_a_channel():
    """eps = z + 0.5 z_c has variance 1.25; the covariance of two pixels is 0.25 within a channel and 0 across channels."""
    seen = {}

    def spy(params, x_t, t, cond, keys=None):
        alpha, sigma = (table[:, None, None, None] for table in SCHEDULE(t))
        seen["eps"] = np.asarray((x_t - alpha * 0.5) / sigma)
        return jnp.asarray(seen["eps"]), Aux()

    loss, _ = run(spy, image=jnp.full([len(KEYS), 2, 2, 2], 0.5), offset_noise=0.5)
    assert float(loss.max()) < 1e-8, "the offset is not part of the target"
    within = np.cov(seen["eps"][:, 0, 0, 0], seen["eps"][:, 1, 1, 0])
    across = np.cov(seen["eps"][:, 0, 0, 0], seen["eps"][:, 0, 0, 1])
    noise = 5 * 1.25 / np.sqrt(len(KEYS))
    np.testing.assert_allclose(within, [[1.25, 0.25], [0.25, 1.25]], atol=np.sqrt(2) * noise)
    assert abs(across[0, 1]) < noise


def test_a_perturbed_input_is_noisier_than_its_target():
    """A network that outputs the noise of its input, eps + 0.3 xi, has the error 0.3 xi."""

    def input_noise(params, x_t, t, cond, keys=None):
        alpha, sigma = (table[:, None, None, None] for table in SCHEDULE(t))
        return (x_t - alpha * 0.5) / sigma, Aux()

    loss, _ = run(input_noise, input_perturbation=0.3)
    assert float(loss.mean()) == pytest.approx(0.09, abs=5 * 0.09 * np.sqrt(2 / (4 * len(KEYS))))


def test_losses_have_the_weights_of_their_levels():
    odd = objectives.LevelDraw(
        init=lambda T: jnp.zeros(()),
        draw=lambda extra, keys, index, T: (jnp.full(len(keys), 7), jnp.full(len(keys), 4.0)),
        update=lambda extra, index, t, loss: extra + loss.sum(),
    )
    zero = lambda params, x_t, t, cond, keys=None: (jnp.zeros_like(x_t), Aux())
    loss_fn = objectives.denoising(zero, SCHEDULE, "x0", levels=odd)
    batch = {"image": jnp.full([8, 2, 2, 1], 0.5)}
    loss, (extra, _) = loss_fn(None, odd.init(100), KEYS[:8], batch)
    np.testing.assert_allclose(loss, 4 * 0.25 * np.ones(8), rtol=1e-6)
    assert float(extra) == pytest.approx(8 * 0.25)  # update receives the loss before its weight


def with_variance(variance):
    """A network with twice the image's channels: its parameter, and this variance."""
    return lambda params, x_t, t, cond, keys=None: (
        jnp.concatenate([params * jnp.ones_like(x_t), variance * jnp.ones_like(x_t)], -1),
        Aux(),
    )


def test_the_hybrid_loss_adds_the_bound_and_no_gradient_to_the_mean():
    image, keys = jnp.full([64, 2, 2, 1], 0.5), KEYS[:64]
    whole = lambda weight: objectives.denoising(with_variance(0.2), SCHEDULE, "x0", bound_weight=weight)
    bound = objectives.variational_bound(with_variance(0.2), SCHEDULE, "x0", "learned")
    plain = objectives.denoising(lambda p, x, t, c, keys=None: (p * jnp.ones_like(x), Aux()), SCHEDULE, "x0")
    loss = lambda loss_fn: jax.jit(lambda mean: loss_fn(mean, (), keys, {"image": image})[0].mean())
    hybrid = loss(whole(0.01))(0.4)
    np.testing.assert_allclose(hybrid, loss(plain)(0.4) + 0.01 * loss(bound)(0.4), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss(whole(0.01)))(0.4), jax.grad(loss(plain))(0.4), rtol=1e-5)
    assert abs(float(jax.grad(loss(bound))(0.4))) > 1.0


def test_the_bound_is_least_at_the_true_variance_of_a_step():
    """For data N(0, S): var(x_s | x_t) is the posterior variance plus c^2 var(x_0 | x_t), c = alpha_s beta / sigma_t^2."""
    S, t = 0.09, 3
    alpha, sigma, betas = (np.asarray(x, np.float64) for x in (SCHEDULE.alpha, SCHEDULE.sigma, SCHEDULE.betas))
    small = betas[t] * sigma[t - 1] ** 2 / sigma[t] ** 2
    spread = S * sigma[t] ** 2 / (alpha[t] ** 2 * S + sigma[t] ** 2)
    true = small + (alpha[t - 1] * betas[t] / sigma[t] ** 2) ** 2 * spread
    raw = 2 * np.log(true / small) / np.log(betas[t] / small) - 1
    at_t = objectives.LevelDraw(
        lambda T: (),
        lambda extra, keys, index, T: (jnp.full(len(keys), t), jnp.ones(len(keys))),
        lambda extra, *_: extra,
    )

    def network(params, x_t, level, cond, keys=None):
        x0 = alpha[t] * S / (alpha[t] ** 2 * S + sigma[t] ** 2) * x_t
        return jnp.concatenate([x0, params * jnp.ones_like(x_t)], -1), Aux()

    image = np.sqrt(S) * jax.random.normal(jax.random.key(3), [len(KEYS), 8, 8, 1])
    loss_fn = objectives.variational_bound(network, SCHEDULE, "x0", "learned", levels=at_t)
    slope = jax.jit(jax.grad(lambda raw: loss_fn(raw, (), KEYS, {"image": image})[0].mean()))
    low, middle, high = (float(slope(raw + d)) for d in (-0.3, 0.0, 0.3))
    # The slope is 1/4 log(beta / small) T / log 2 times the relative error of the variance, estimated from these draws.
    chance = 0.25 * np.log(betas[t] / small) * SCHEDULE.num_levels / np.log(2) * np.sqrt(2 / image.size)
    assert abs(middle) < 4 * chance and low < -20 * chance and high > 20 * chance


def test_outputs_that_do_not_fit_are_refused():
    batch = {"image": jnp.zeros([2, 2, 2, 1])}
    other = lambda params, x_t, t, cond, keys=None: (jnp.concatenate([x_t, x_t, x_t], axis=-1), Aux())
    with pytest.raises(ValueError, match="network's output has shape"):
        run(other)
    zero = lambda params, x_t, t, cond, keys=None: (jnp.zeros_like(x_t), Aux())
    with pytest.raises(ValueError, match="predicts a variance cannot be trained with `bound_weight`=0"):
        objectives.denoising(with_variance(0.0), SCHEDULE)(1.0, (), KEYS[:2], batch)
    with pytest.raises(ValueError, match=r"predicts no variance cannot be trained with `bound_weight`=0\.001"):
        objectives.denoising(zero, SCHEDULE, bound_weight=0.001)(1.0, (), KEYS[:2], batch)
    for network, variance in ((with_variance(0.0), "posterior"), (zero, "learned")):
        with pytest.raises(ValueError, match=f"`variance`='{variance}' is not for a network with"):
            objectives.variational_bound(network, SCHEDULE, variance=variance)(1.0, (), KEYS[:2], batch)


def test_the_bound_assumes_plain_noise():
    for noise in ({"offset_noise": 0.1}, {"input_perturbation": 0.1}):
        with pytest.raises(ValueError, match="the bound assumes plain noise"):
            objectives.denoising(with_variance(0.0), SCHEDULE, bound_weight=0.001, **noise)


@pytest.mark.parametrize("objective", [objectives.denoising, objectives.variational_bound])
def test_errors(objective):
    with pytest.raises(ValueError, match="unknown kind of prediction 'epsilon'"):
        objective(None, SCHEDULE, "epsilon")
    with pytest.raises(ValueError, match=r"`cond_dropout`=0\.1 needs `null_cond`"):
        objective(None, SCHEDULE, cond_dropout=0.1)
    for predict in ("eps", "score"):
        with pytest.raises(ValueError, match="cannot start from zero signal-to-noise: use 'v', 'flow' or 'x0'"):
            objective(None, schedules.zero_terminal_snr(SCHEDULE), predict)
