"""Guidance by gradients: classifiers against classifier-free guidance of exact oracles, objectives in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import guidance, process, samplers, schedules, testing
from jaxdiff.testing.oracle import labeled
from jaxdiff.timesteps import grid
from jaxdiff.types import Aux, Cond, Guided

SCHEDULE = schedules.linear(100, 1e-3, 0.2)
RNG = np.random.default_rng(0)
X = (1.5 * RNG.standard_normal((6, 3))).astype(np.float32)
COVS = [[[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.8]], np.diag([0.1, 0.2, 0.3]), np.eye(3), 0.3 * np.eye(3)]
MEANS = [[0, 0, 0], [2, 1, -1], [-1, 3, 0.5], [1, -1, 1]]
ORACLE = labeled(testing.mixture([0.4, 0.3, 0.2, 0.1], MEANS, COVS), [0, 1, 2, 1])  # class 1 is two Gaussians
EXACT, POSTERIOR = ORACLE.denoiser(SCHEDULE), ORACLE.log_posterior(SCHEDULE)
LABEL, NULL = Cond(label=jnp.array([0, 1, 2, 2, 1, 0])), Cond(label=jnp.full(6, 3))
LEVELS = {"1": 1, "30": 30, "100": 100, "rows": np.array([1, 20, 40, 60, 80, 100])}
EACH = np.array([0.0, 0.5, 1.0, 2.0, 4.0, -1.0], np.float32)
predict = jax.jit(lambda denoise, x, t, cond: denoise(x, t, cond))


def scales(t):
    """alpha and sigma in float64, to multiply [6, 3]."""
    t = np.broadcast_to(t, 6)[:, None]
    return np.asarray(SCHEDULE.alpha, np.float64)[t], np.asarray(SCHEDULE.sigma, np.float64)[t]


def assert_same(one, other, t):
    """To float32: predictions are of size 1 / sigma and 1 / alpha times a scale below 5."""
    np.testing.assert_allclose(one.eps, other.eps, rtol=1e-3, atol=5e-4)
    np.testing.assert_allclose(one.x0, other.x0, rtol=1e-3, atol=5e-4 / np.min(scales(t)[0]))
    alpha, sigma = scales(t)
    np.testing.assert_allclose(alpha * one.x0 + sigma * one.eps, X, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("scale", [3.0, EACH], ids=["3", "rows"])
def test_an_exact_classifier_is_classifier_free_guidance(scale, t):
    """eps_uncond - s sigma grad log p(y | x_t) = eps_uncond + s (eps_cond - eps_uncond)."""
    cond = Guided(LABEL, NULL)
    free = predict(guidance.cfg(EXACT, scale), X, t, cond)
    unconditional = guidance.on_uncond(EXACT)
    assert_same(predict(guidance.classifier(unconditional, POSTERIOR, SCHEDULE, scale), X, t, cond), free, t)


@pytest.mark.parametrize("t", [30, 100])
def test_around_guided_and_conditional_denoisers_scales_add_up(t):
    """The classifier receives the first condition: scales 1.5 and 2 add up to 3.5; a conditional denoiser counts as 1."""
    cond, guided = Guided(LABEL, NULL), guidance.cfg(EXACT, jnp.float32(1.5))
    both = predict(guidance.classifier(guided, POSTERIOR, SCHEDULE, 2.0), X, t, cond)
    assert_same(both, predict(guidance.cfg(EXACT, 3.5), X, t, cond), t)
    both = predict(guidance.classifier(EXACT, POSTERIOR, SCHEDULE, 2.0), X, t, LABEL)
    assert_same(both, predict(guidance.cfg(EXACT, 3.0), X, t, cond), t)


def test_a_negative_condition_descends_its_probability():
    """From class y through all data: eps_y + s (eps - eps_y) = eps + (s - 1) sigma grad log p(y | x_t)."""
    away = predict(guidance.cfg(EXACT, 3.0), X, 30, Guided(NULL, LABEL))
    down = guidance.classifier(guidance.on_uncond(EXACT), POSTERIOR, SCHEDULE, -2.0)
    assert_same(predict(down, X, 30, Guided(LABEL, NULL)), away, 30)


NO_SIGNAL = schedules.from_betas([*np.linspace(1e-3, 0.2, 39), 1.0])


def linear_denoiser(x_t, t, cond):
    return process.predict_from("v", NO_SIGNAL, 0.3 * x_t, x_t, jnp.asarray(t))


@pytest.mark.parametrize(
    "guided",
    [
        guidance.classifier(linear_denoiser, lambda x_t, t, cond: -jnp.square(x_t).sum(1), NO_SIGNAL, 2.0),
        guidance.by_gradient(linear_denoiser, lambda x0, t, cond: -jnp.square(x0).sum(1), NO_SIGNAL, 2.0),
    ],
    ids=["classifier", "objective"],
)
def test_without_signal_it_has_no_effect_and_is_finite(guided):
    plain, prediction = linear_denoiser(X, 40, None), predict(guided, X, 40, None)
    np.testing.assert_allclose(prediction.x0, plain.x0, rtol=1e-6)
    np.testing.assert_allclose(prediction.eps, plain.eps, rtol=1e-6)
    assert np.all(predict(guided, X, 39, None).x0 != linear_denoiser(X, 39, None).x0)
    gradient = jax.jit(jax.grad(lambda x: sum(leaf.sum() for leaf in guided(x, 40, None)[:2])))(X)
    assert np.all(np.isfinite(gradient))


W = RNG.standard_normal((3, 4)).astype(np.float32)


def logits(params, x_t, t, cond=None, keys=None):
    """A linear classifier whose temperature rises with the level; it must be called without a condition."""
    assert cond is None
    return x_t @ params / (1 + jnp.broadcast_to(jnp.asarray(t), x_t.shape[:1]) / 50)[:, None], Aux()


def of_level(t):
    return t / 10


LABELS = np.array([0, 3, 2, 1, 0, 3])


@pytest.mark.parametrize(
    "scale, s, t", [(2.0, 2.0, 30), (Partial(of_level), None, LEVELS["rows"])], ids=["number", "of t"]
)
def test_classifier_guidance_with_a_linear_classifier_is_its_closed_form(scale, s, t):
    """grad log softmax(x W)_y = W_y - sum_k p_k W_k, in float64."""
    heat = (1 + np.broadcast_to(t, 6) / 50)[:, None]
    z = np.asarray(X, np.float64) @ W / heat
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    gradient = (W.T[LABELS] - p @ W.T) / heat
    s = np.broadcast_to(t / 10, 6)[:, None] if s is None else s
    plain, (alpha, sigma) = predict(EXACT, X, t, NULL), scales(t)
    log_prob = guidance.label_log_prob(logits, W)
    np.testing.assert_allclose(
        predict(log_prob, X, t, Cond(LABELS)), np.log(p[np.arange(6), LABELS]), rtol=1e-4, atol=1e-5
    )
    guided = guidance.classifier(guidance.on_uncond(EXACT), log_prob, SCHEDULE, scale)
    prediction = predict(guided, X, t, Guided(Cond(LABELS), NULL))
    np.testing.assert_allclose(prediction.eps, plain.eps - s * sigma * gradient, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(alpha * prediction.x0, alpha * plain.x0 + s * sigma**2 * gradient, rtol=1e-4, atol=1e-4)


CLOUD = testing.gaussian([1.0, -0.5, 0.0], 0.4).denoiser(SCHEDULE)
GOAL = np.array([0.5, 1.0, -1.0], np.float32)


def nearness(x0, t, cond):
    return -0.5 * jnp.square(x0 - (GOAL[None] if cond is None else cond.vector)).sum(1)


STRENGTHS = {
    "number": (3.0, lambda alpha, sigma: 3.0, 5),
    "rows": (EACH, lambda alpha, sigma: EACH[:, None], 40),
    "late": (guidance.late(SCHEDULE, 2.0), lambda alpha, sigma: 2 * alpha, LEVELS["rows"]),
    "early": (guidance.early(SCHEDULE, 2.0), lambda alpha, sigma: 2 * sigma, LEVELS["rows"]),
}


@pytest.mark.parametrize("strength, w, t", STRENGTHS.values(), ids=STRENGTHS)
def test_the_gradient_of_an_objective_is_its_closed_form(strength, w, t):
    """For data N(mu, v): x0 = mu + k (x_t - alpha mu) with k = alpha v / (alpha^2 v + sigma^2), gradient k (goal - x0)."""
    (alpha, sigma), mu = scales(t), np.array([1.0, -0.5, 0.0])
    k = 0.4 * alpha / (0.4 * alpha**2 + sigma**2)
    x0 = mu + k * (X - alpha * mu)
    gradient = k * (GOAL - x0)
    prediction = predict(guidance.by_gradient(CLOUD, nearness, SCHEDULE, strength), X, t, None)
    eps = (X - alpha * x0) / sigma - w(alpha, sigma) * sigma * gradient
    np.testing.assert_allclose(prediction.eps, eps, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(alpha * prediction.x0 + sigma * prediction.eps, X, rtol=1e-4, atol=1e-4)


def test_an_objective_receives_the_first_condition_and_is_ascended():
    """Samples of N(mu, 0.4) guided to one goal each; the denoiser receives both conditions."""
    goals = np.repeat(GOAL[None], 6, 0) * np.linspace(-1, 1, 6, dtype=np.float32)[:, None]
    cond, denoise = Guided(Cond(vector=goals), None), guidance.on_uncond(CLOUD)
    samples = []
    for strength in (0.0, 2.0):
        guided = guidance.by_gradient(denoise, nearness, SCHEDULE, strength)
        samples.append(samplers.sample(None, samplers.ddim(), guided, SCHEDULE, grid(100, 20), X, cond)[0])
    before, after = (nearness(x, 0, cond.cond) for x in samples)
    assert np.all(after > before)


traces = []


def traced_cloud(x_t, t, cond):
    traces.append(1)
    return CLOUD(x_t, t, None)._replace(aux=Aux(variance=x_t))


@pytest.mark.parametrize("weight", [lambda k: k * EACH, lambda k: guidance.late(SCHEDULE, k)], ids=["rows", "of t"])
def test_other_numbers_do_not_recompile_and_change_the_result(weight):
    found, counts = [], []
    for k in (1, 2):
        traces.clear()
        denoise = guidance.classifier(
            Partial(traced_cloud), guidance.label_log_prob(logits, k * W), SCHEDULE, weight(k)
        )
        denoise = guidance.by_gradient(denoise, nearness, SCHEDULE, weight(0.1 * k))
        cond = Cond(label=(LABELS + k) % 4, vector=GOAL[None].repeat(6, 0) + k)
        found.append(samplers.sample(None, samplers.ddim(), denoise, SCHEDULE, grid(100, 3), X, cond)[0])
        counts.append(len(traces))
    assert counts[0] > 0 and counts[1] == 0
    assert np.all(np.isfinite(found)) and np.abs(found[0] - found[1]).max() > 1e-2
    assert denoise(X, 50, cond).aux.variance is not None


def test_vmap_and_grad():
    def x0(w):
        inner = guidance.classifier(CLOUD, guidance.label_log_prob(logits, W), SCHEDULE, w)
        return guidance.by_gradient(inner, nearness, SCHEDULE, w)(X, jnp.int32(50), Cond(LABELS, GOAL[None])).x0

    weights, each = jnp.array([0.5, 2.0]), jax.jit(x0)
    np.testing.assert_allclose(jax.jit(jax.vmap(x0))(weights), [each(w) for w in weights], rtol=1e-4, atol=1e-4)
    slope = (each(1.01) - each(0.99)).sum() / 0.02
    np.testing.assert_allclose(jax.jit(jax.grad(lambda w: x0(w).sum()))(1.0), slope, rtol=1e-2)


summed = lambda x, t, cond: jnp.square(x).sum()
MISTAKES = {
    "classifier": (
        lambda: guidance.classifier(CLOUD, summed, SCHEDULE, 1.0)(X, 5, None),
        r"one number per example, \(6,",
    ),
    "objective": (lambda: guidance.by_gradient(CLOUD, summed, SCHEDULE, 1.0)(X, 5, None), r"and has \(\)"),
    "no condition": (lambda: guidance.label_log_prob(logits, W)(X, 5, None), r"give cond=jaxdiff.Cond\(label=...\)"),
    "no label": (lambda: guidance.label_log_prob(logits, W)(X, 5, Cond(vector=X)), "classifier guidance needs labels"),
}


@pytest.mark.parametrize("make, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_log_probability_of_a_label_that_is_no_class_is_nan():
    above, below = (predict(guidance.label_log_prob(logits, W), X, 5, Cond(LABELS + step)) for step in (1, -1))
    assert np.isnan(above).tolist() == (LABELS == 3).tolist()
    assert np.isnan(below).tolist() == (LABELS == 0).tolist()
