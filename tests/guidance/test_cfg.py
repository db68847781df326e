"""Guidance by two predictions: against the formulas in float64, and how often the network is called, and on what."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import guidance, process, samplers, schedules
from jaxdiff.timesteps import grid
from jaxdiff.types import Aux, Cond, Guided, Prediction

SCHEDULE = schedules.linear(100)
RNG = np.random.default_rng(0)
X, YES, NO = (RNG.standard_normal((4, 6)).astype(np.float32) for _ in range(3))
COND = Guided(Cond(vector=YES), Cond(vector=NO))
LEVELS = {"one": 60, "rows": np.array([3, 99, 20, 60])}
shapes = []  # of the x_t that the network is called on


def network(w, x_t, t, cond):
    """A nonlinear guess of x0 that reads everything, with one row of aux for each example."""
    shapes.append(x_t.shape)
    t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x_t.shape[:1])[:, None]
    vector = 0.0 if cond is None else cond.vector
    x0, (alpha, sigma) = jnp.tanh(w * x_t + vector) + t / 100, (s for s in SCHEDULE(t.astype(int)))
    return Prediction(x0, (x_t - alpha * x0) / sigma, Aux(variance=x0 + 1))


DENOISE = Partial(network, jnp.float32(0.7))


def guess(t, vector, w=0.7):
    """The same x0 in float64."""
    return np.tanh(np.float64(w) * X + vector) + np.broadcast_to(t, 4)[:, None] / 100


def assert_says(said, x0, t):
    """This x0, and the eps that goes with it."""
    alpha, sigma = (np.broadcast_to(np.asarray(s, np.float64)[t], 4)[:, None] for s in (SCHEDULE.alpha, SCHEDULE.sigma))
    np.testing.assert_allclose(said.x0, x0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sigma * said.eps, X - alpha * x0, rtol=1e-5, atol=2e-5)


def call(denoise, *arguments):
    """What it says, and on what shapes the network was called for it."""
    shapes.clear()
    return denoise(*arguments), list(shapes)


EACH = np.array([0.0, 1.0, 3.0, -2.0], np.float32)
SCALES = {"number": (3.0, 3.0), "rows": (EACH, EACH[:, None]), "of t": (lambda t: 1 + t / 50, None)}


@pytest.mark.parametrize("t", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("scale, s", SCALES.values(), ids=SCALES)
def test_cfg_is_the_formula_and_one_batch(scale, s, t):
    said, shapes = call(guidance.cfg(DENOISE, scale), X, t, COND)
    s = np.broadcast_to(1 + t / 50, 4)[:, None] if s is None else s
    assert_says(said, guess(t, NO) + s * (guess(t, YES) - guess(t, NO)), t)
    assert shapes == [(8, 6)]
    np.testing.assert_allclose(said.aux.variance, guess(t, YES) + 1, rtol=1e-5)  # of the wanted half


@pytest.mark.parametrize("uncond", [None, Cond(vector=NO[:, :1])], ids=["structure", "shape"])
def test_halves_that_differ_are_two_calls(uncond):
    said, shapes = call(guidance.cfg(DENOISE, 3.0), X, 60, Guided(COND.cond, uncond))
    no = 0.0 if uncond is None else NO[:, :1]
    assert_says(said, guess(60, no) + 3 * (guess(60, YES) - guess(60, no)), 60)
    assert shapes == [(4, 6)] * 2


@pytest.mark.parametrize("scale, vector", [(1, YES), (1.0, YES), (0, NO), (np.float64(0), NO)])
def test_a_scale_that_needs_one_half_evaluates_one(scale, vector):
    said, shapes = call(guidance.cfg(DENOISE, scale), X, 60, COND)
    assert_says(said, guess(60, vector), 60)
    assert shapes == [(4, 6)]


def test_autoguidance_calls_both_denoisers_and_keeps_the_aux_of_the_good_one():
    weak = Partial(network, jnp.float32(0.2))
    said, shapes = call(guidance.extrapolate(DENOISE, weak, 2.5), X, 60, COND.cond)
    good, bad = guess(60, YES), guess(60, YES, 0.2)
    assert_says(said, bad + 2.5 * (good - bad), 60)
    assert shapes == [(4, 6)] * 2
    np.testing.assert_allclose(said.aux.variance, good + 1, rtol=1e-5)
    assert guidance.extrapolate(DENOISE, weak, 1) is DENOISE and guidance.extrapolate(DENOISE, weak, 0.0) is weak


def test_cfg_of_two_calls_is_cfg():
    apart = guidance.extrapolate(guidance.on_cond(DENOISE), guidance.on_uncond(DENOISE), 3.0)
    assert_says(apart(X, 60, COND), guidance.cfg(DENOISE, 3.0)(X, 60, COND).x0, 60)


def centered_std(x):
    return np.sqrt(np.square(x - x.mean(1, keepdims=True)).mean(1, keepdims=True))


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0, np.array([0.0, 0.3, 0.7, 1.0], np.float32)])
@pytest.mark.parametrize("t", LEVELS.values(), ids=LEVELS)
def test_rescaled_is_the_formula(t, phi):
    good = guess(t, YES)
    guided = guess(t, NO) + 5 * (good - guess(t, NO))
    mix = np.broadcast_to(phi, 4)[:, None]
    expected = mix * centered_std(good) / centered_std(guided) * guided + (1 - mix) * guided
    whole, shapes = call(guidance.rescaled_cfg(DENOISE, 5.0, SCHEDULE, phi), X, t, COND)
    assert_says(whole, expected, t)
    assert shapes == [(8, 6)]
    parts = guidance.on_cond(DENOISE), guidance.cfg(DENOISE, 5.0)
    assert_says(guidance.rescaled(*parts, SCHEDULE, phi)(X, t, COND), expected, t)


@pytest.mark.parametrize("flat", [0.0, 0.3])
def test_an_image_without_contrast_is_not_rescaled(flat):
    """Nor divided by 0: also what rounding leaves of its contrast is none, and slopes are finite."""
    says = lambda x0: lambda x_t, t, cond: process.predict_from("x0", SCHEDULE, x0 + 0 * x_t, x_t, t)
    rounding = flat * (1 + 1e-7 * np.arange(6, dtype=np.float32))

    def total(x):
        said = guidance.rescaled(says(YES), says(rounding[None] + 0 * x), SCHEDULE, 1.0)(x, 60, None)
        return said.x0.sum(), said

    slope, said = jax.grad(total, has_aux=True)(jnp.asarray(X))
    assert_says(said, np.broadcast_to(rounding, X.shape), 60)
    assert np.all(np.isfinite(slope))
    constant_goal = lambda x: guidance.rescaled(says(flat), says(x), SCHEDULE, 1.0)(x, 60, None).x0.sum()
    assert np.all(np.isfinite(jax.grad(constant_goal)(jnp.asarray(X))))


calls = {"in": 0, "out": 0}


def counting(name, x_t, t, cond):
    """Says which of the two it is, and counts when it runs and not when it is traced."""

    def count(x):
        calls[name] += 1
        return np.asarray(x)

    x_t = jax.pure_callback(count, jax.ShapeDtypeStruct(x_t.shape, x_t.dtype), x_t)
    return Prediction(x_t * 0 + (name == "in"), x_t)


IN, OUT = (lambda x_t, t, cond, name=name: counting(name, x_t, t, cond) for name in ("in", "out"))


def test_within_ends_included_and_only_one_of_the_two_is_evaluated():
    said = jax.jit(lambda t, lo, hi: guidance.within(IN, OUT, lo, hi)(jnp.asarray(X), t, None).x0[0, 0])
    levels = (80, 71, 70, 50, 20, 19, 1)
    calls.update({"in": 0, "out": 0})
    assert [float(said(t, 20, 70)) for t in levels] == [0, 0, 1, 1, 1, 0, 0]
    assert calls == {"in": 3, "out": 4}
    assert [float(said(t, 20.5, 70)) for t in (20, 21)] == [0, 1] and said._cache_size() == 2  # int and float ends
    each = guidance.within(IN, OUT, 20, 70)(jnp.asarray(X), jnp.array([71, 70, 20, 19]), None)
    assert each.x0[:, 0].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    "denoise",
    [
        guidance.cfg(DENOISE, 3.0),
        guidance.on_cond(DENOISE),
        guidance.on_uncond(DENOISE),
        guidance.rescaled_cfg(DENOISE, 3.0, SCHEDULE, 0.5),
    ],
    ids=["cfg", "on_cond", "on_uncond", "rescaled_cfg"],
)
@pytest.mark.parametrize("cond", [None, COND.cond, tuple(COND)], ids=["None", "Cond", "tuple"])
def test_a_condition_that_is_not_two_is_refused(denoise, cond):
    with pytest.raises(ValueError, match=r"give cond=jaxdiff.Guided\(cond, uncond\)"):
        denoise(X, 60, cond)


def of_level(k, t):
    return 1 + k * t / 100


def stack(k, scale):
    """Everything at once, with numbers that depend on k."""
    strong = guidance.rescaled_cfg(DENOISE, scale, SCHEDULE, 0.1 * k)
    weak = guidance.extrapolate(guidance.cfg(DENOISE, 1.0 + k), guidance.on_cond(DENOISE), np.float64(k))
    return guidance.dynamic_threshold(guidance.within(strong, weak, 10 * k, 50 + k), SCHEDULE, 90 + k)


MAKERS = {
    "number": lambda k: 2.0 + k,
    "rows": lambda k: k + EACH,
    "of t": lambda k: Partial(of_level, jnp.float32(k)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_other_numbers_compile_nothing_and_change_something(make):
    found, traced = [], []
    for k in (2, 3, 4):
        shapes.clear()
        found.append(samplers.sample(None, samplers.ddim(), stack(k, make(k)), SCHEDULE, grid(100, 4), X, COND)[0])
        traced.append(len(shapes))
    assert traced[0] > 0 and traced[1:] == [0, 0]
    assert np.all(np.isfinite(found)) and all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(found))


def test_it_goes_through_vmap_and_grad():
    x0 = lambda scale: stack(2, scale)(jnp.asarray(X), jnp.int32(60), COND).x0
    scales = jnp.array([2.5, 4.0])
    many = jax.jit(jax.vmap(x0))(scales)
    each = jax.jit(x0)
    np.testing.assert_allclose(many, [each(scale) for scale in scales], rtol=1e-5, atol=1e-5)
    total = lambda scale: guidance.rescaled_cfg(DENOISE, scale, SCHEDULE, 0.5)(jnp.asarray(X), 60, COND).x0.sum()
    slope = (total(3.01) - total(2.99)) / 0.02
    np.testing.assert_allclose(jax.grad(total)(3.0), slope, rtol=1e-2)


def test_guidance_that_changes_at_a_level_is_the_one_above_it_and_the_other_from_there_down():
    traces = []

    @jax.jit
    def say(weight, x_t, t):
        traces.append(0)
        return guidance.cfg(Partial(network, 0.7), weight)(x_t, t, COND)

    for above, below, level in ((20.0, 3.0, 60), (2.0, 5.0, 30)):
        t = np.array([level - 1, level, level + 1, 100])
        found = say(guidance.stepped(above, below, level), X, t)
        for i, scale in enumerate((below, below, above, above)):
            expected = guidance.cfg(Partial(network, 0.7), scale)(X, t, COND)
            np.testing.assert_allclose(found.x0[i], expected.x0[i], rtol=1e-5)
    assert len(traces) == 1
