"""The forward process, its posterior and one step back: against diffusers and against float64 closed forms."""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import process, schedules
from jaxdiff.types import Aux, Prediction

GOLDEN = pathlib.Path(__file__).parent / "golden"
MAKERS = {"linear": schedules.linear, "scaled_linear": schedules.scaled_linear, "cosine": schedules.cosine}
STEPS = {sampler: dict(np.load(GOLDEN / f"{sampler}_steps.npz")) for sampler in ("ddim", "ddpm")}
FORWARD = np.load(GOLDEN / "forward.npz")
RUNS = np.load(GOLDEN / "trajectories.npz")

LINEAR = schedules.linear(1000)
ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])  # of LINEAR, in float64
PURE_NOISE = schedules.from_betas([0.1, 0.3, 0.6, 1.0])
PAIRS = [(1, 0), (2, 1), (500, 499), (1000, 999), (20, 0), (751, 501), (1000, 1), (1000, 0)]
NEIGHBOURS = [(t, s) for t, s in PAIRS if t - s == 1]


def close(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Against diffusers


@pytest.mark.parametrize("variant", [0.0, 0.5, 1.0, "posterior", "beta", "learned"])
@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    "name, T", [("linear", 1000), ("linear", 400), ("scaled_linear", 1000), ("cosine", 1000), ("cosine", 400)]
)
def test_a_step_is_diffusers(name, T, kind, variant):
    """DDIM with this eta, or DDPM with this variance, at many pairs of levels and with the same noise."""
    table = STEPS["ddpm" if isinstance(variant, str) else "ddim"]
    here = (table["schedule"] == name) & (table["T"] == T) & (table["kind"] == kind) & (table["variant"] == variant)
    row = {column: values[here] for column, values in table.items() if column != "versions"}
    assert len(row["t"]) >= 12
    eta, variance = (None, variant) if isinstance(variant, str) else (variant, "posterior")
    columns = (row[column].astype(np.float32) for column in ("x_t", "output", "raw", "noise"))
    close(steps(kind, variance, MAKERS[name](T), eta, row["t"], row["s"], *columns), row["x_s"])


@functools.partial(jax.jit, static_argnums=(0, 1))
def steps(kind, variance, schedule, eta, *columns):
    def one(t, s, x_t, output, raw, noise):
        prediction = process.predict_from(kind, schedule, output, x_t, t)._replace(aux=Aux(variance=raw))
        return process.p_step(schedule, prediction, x_t, t, s, noise, 1.0 if eta is None else eta, variance)

    return jax.vmap(one)(*columns)


def toy(x, t, T):
    """The nonlinear prediction of x0 with which the trajectories were made."""
    return jnp.tanh(0.8 * x + 0.5 * jnp.sin(6.0 * t / T))


@pytest.mark.parametrize("case", sorted({name.rsplit("/", 1)[0] for name in RUNS if name != "versions"}))
def test_a_run_of_steps_is_diffusers(case):
    """Whole trajectories with given noise: step after step from our own x."""
    sampler, name, T, _, _, kind, variant, *_ = case.split("/")
    options = {"variance": variant} if sampler == "ddpm" else {"eta": float(variant)}
    levels, xs, noises = (RUNS[f"{case}/{part}"] for part in ("levels", "x", "noise"))

    @jax.jit
    def step(schedule, x, t, s, noise):
        x0 = toy(x, t, int(T))
        alpha, sigma = schedule(t)
        eps = (x - alpha * x0) / sigma
        output = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[kind]
        prediction = process.predict_from(kind, schedule, output, x, t)
        return process.p_step(schedule, prediction, x, t, s, noise, **options)

    schedule, x = MAKERS[name](int(T)), jnp.asarray(xs[0], jnp.float32)
    for t, s, noise, want in zip(levels[:-1], levels[1:], noises.astype(np.float32), xs[1:], strict=True):
        x = step(schedule, x, t, s, noise)
        close(x, want)


@pytest.mark.parametrize(
    "name, T", [("linear", 1000), ("linear", 400), ("scaled_linear", 1000), ("cosine", 1000), ("cosine", 400)]
)
def test_noising_and_velocity_are_diffusers(name, T):
    schedule = MAKERS[name](T)
    t, x0, eps, x_t, v = (FORWARD[f"{name}/{T}/{column}"] for column in ("t", "x0", "eps", "x_t", "v"))
    close(jax.vmap(process.q_sample, (None, 0, 0, 0))(schedule, x0, t, eps), x_t)
    target = functools.partial(process.target_for, "v")
    close(jax.vmap(target, (None, 0, 0, 0))(schedule, x0, eps, t), v)


# The forward process


@pytest.mark.parametrize(
    "schedule", [LINEAR, schedules.cosine(400), PURE_NOISE], ids=["linear", "cosine", "pure noise"]
)
def test_steps_of_the_chain_add_up_to_one_shot(schedule):
    """Factor of the mean and variance of x_t: q_step multiplies the first, and the second by the square, and adds noise."""
    per_level = jax.vmap(lambda f, x, t, eps: f(schedule, x, t, eps), in_axes=(None, None, 0, None))
    levels = jnp.arange(1, schedule.num_levels + 1)
    at_levels = lambda f, x, eps: np.asarray(per_level(Partial(f), x, levels, eps), np.float64)
    factors, stds = at_levels(process.q_step, 1.0, 0.0), at_levels(process.q_step, 0.0, 1.0)
    factor, variance, want = 1.0, 0.0, []
    for step_factor, std in zip(factors, stds):
        factor, variance = step_factor * factor, step_factor**2 * variance + std**2
        want.append((factor, variance**0.5))
    got = at_levels(process.q_sample, 1.0, 0.0), at_levels(process.q_sample, 0.0, 1.0)
    np.testing.assert_allclose(np.stack(got, 1), want, rtol=1e-5, atol=1e-7)


def test_clean_data_is_level_0():
    x0, eps = normal(0, 5), normal(1, 5)
    chex.assert_trees_all_equal(process.q_sample(LINEAR, x0, 0, eps), jnp.asarray(x0))


def bayes(x0, x_t, t, s):
    """Product of the prior q(x_s | x_0) and the likelihood q(x_t | x_s) as densities of x_s, both Gaussian."""
    step = ABAR[t] / ABAR[s]
    if s == 0:
        return x0, 0.0
    precision = 1 / (1 - ABAR[s]) + step / (1 - step)
    mean = (ABAR[s] ** 0.5 * x0 / (1 - ABAR[s]) + step**0.5 * x_t / (1 - step)) / precision
    return mean, precision**-0.5


@pytest.mark.parametrize("t, s", PAIRS)
def test_posterior_is_bayes_product(t, s):
    x0, x_t = normal(0, 7), normal(1, 7)
    mean, std = process.q_posterior(LINEAR, x0, x_t, t, s)
    want_mean, want_std = bayes(x0.astype(np.float64), x_t.astype(np.float64), t, s)
    close(mean, want_mean)
    np.testing.assert_allclose(std, want_std, rtol=1e-4, atol=1e-7)


# One step back


@pytest.mark.parametrize("t, s", PAIRS)
def test_eta_1_is_the_posterior_of_the_predicted_x0(t, s):
    x_t, eps, noise = normal(0, 7), normal(1, 7), normal(2, 7)
    x0 = (x_t - (1 - ABAR[t]) ** 0.5 * eps) / ABAR[t] ** 0.5
    mean, std = bayes(x0, x_t, t, s)
    prediction = Prediction(jnp.asarray(x0, jnp.float32), eps)
    ours = process.p_step(LINEAR, prediction, x_t, t, s, noise, eta=1.0)
    close(ours, mean + std * noise)


@pytest.mark.parametrize("t, s", NEIGHBOURS)
def test_eta_1_to_the_next_level_is_ddpms_algorithm_2(t, s):
    """x_{t-1} = (x_t - beta / sqrt(1 - alphabar) eps) / sqrt(1 - beta) + sigma z, with either of the paper's two sigmas."""
    x_t, eps, z = normal(0, 7), normal(1, 7), normal(2, 7)
    beta = 1 - ABAR[t] / ABAR[s]
    mean = (x_t - beta / np.sqrt(1 - ABAR[t]) * eps) / np.sqrt(1 - beta)
    prediction = process.predict_from("eps", LINEAR, eps, x_t, t)
    small = np.sqrt((1 - ABAR[s]) / (1 - ABAR[t]) * beta)
    close(process.p_step(LINEAR, prediction, x_t, t, s, z), mean + small * z)
    large = np.sqrt(beta) if s else 0.0  # the last line of the algorithm adds no noise
    close(process.p_step(LINEAR, prediction, x_t, t, s, z, variance="beta"), mean + large * z)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("t, s", PAIRS)
def test_a_true_prediction_gives_the_right_marginal(t, s, eta):
    """With true x0 and eps, x_s has mean alpha_s x0 and variance sigma_s^2 for any eta."""
    x0, one = jnp.full([1], 3.0), jnp.ones([1])
    mean, std = process.p_posterior(LINEAR, Prediction(x0, one), x0, t, s, eta)  # this eps adds direction to the mean
    direction = mean - ABAR[s] ** 0.5 * x0
    close(direction**2 + std**2, np.array([1 - ABAR[s]]))
    np.testing.assert_allclose(std, eta * bayes(1.0, 1.0, t, s)[1], rtol=1e-4)


def test_beta_is_accurate():
    """1 - alpha_t^2 / alpha_s^2 of float32 tables has a relative error of nearly 1e-3; ours is below 1e-4."""
    schedule = schedules.cosine(1000)
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    abar = np.cumprod(np.concatenate([[1.0], 1 - np.minimum(1 - f[1:] / f[:-1], 0.999)]))
    t, s = np.array([(t, t - stride) for stride in (1, 2, 20) for t in range(stride + 1, 1001)]).T
    want = 1 - abar[t] / abar[s]
    zero = jnp.zeros([])
    std = lambda t, s: process.p_posterior(schedule, Prediction(zero, zero), zero, t, s, variance="beta").std
    np.testing.assert_allclose(np.asarray(jax.vmap(std)(t, s), np.float64) ** 2, want, rtol=1e-4)
    alpha = np.asarray(schedule.alpha)
    naive = 1 - alpha[t] ** 2 / alpha[s] ** 2
    assert naive.dtype == np.float32 and np.max(np.abs(naive / want - 1)) > 5e-4


@pytest.mark.parametrize("variance", ["posterior", "beta", "learned"])
@pytest.mark.parametrize("t", [1, 50, 1000])
def test_nothing_is_added_into_clean_data(variance, t):
    prediction = Prediction(jnp.full([4], 0.3), jnp.ones([4]), Aux(variance=jnp.linspace(-1, 1, 4)))
    x_0 = process.p_step(LINEAR, prediction, jnp.ones([4]), t, 0, jnp.full([4], 1e3), variance=variance)
    chex.assert_trees_all_equal(x_0, prediction.x0)


@pytest.mark.parametrize("t, s", [pair for pair in PAIRS if pair[1] > 0])
def test_learned_variance_interpolates_logs(t, s):
    raw = np.array([-1.0, -0.5, 0.0, 1.0], np.float32)
    prediction = Prediction(jnp.zeros([4]), jnp.zeros([4]), Aux(variance=raw))
    std = process.p_posterior(LINEAR, prediction, jnp.zeros([4]), t, s, variance="learned").std
    beta = 1 - ABAR[t] / ABAR[s]
    small = (1 - ABAR[s]) / (1 - ABAR[t]) * beta
    np.testing.assert_allclose(std**2, small ** ((1 - raw) / 2) * beta ** ((1 + raw) / 2), rtol=1e-4)


@pytest.mark.parametrize("t, s", [(1, 0), (1000, 0), (500, 400)])
def test_learned_variance_has_finite_gradients(t, s):
    def loss(prediction, x_t, noise, schedule):
        return jnp.sum(process.p_step(schedule, prediction, x_t, t, s, noise, variance="learned") ** 2)

    prediction = Prediction(jnp.ones([4]), jnp.ones([4]), Aux(variance=jnp.linspace(-1.2, 1.2, 4)))
    gradients = jax.grad(loss, (0, 1, 2, 3))(prediction, jnp.ones([4]), jnp.ones([4]), LINEAR)
    chex.assert_tree_all_finite(gradients)
    assert np.any(np.asarray(gradients[0].aux.variance) != 0) == (s > 0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("t, s", [(1, 0), (1000, 0), (500, 400)])
def test_gradients_in_eta_and_the_schedule_are_finite(t, s, eta):
    x = jnp.ones([4])
    step = lambda schedule, eta: jnp.sum(process.p_step(schedule, Prediction(x, x), x, t, s, x, eta))
    chex.assert_tree_all_finite(jax.grad(step, (0, 1))(LINEAR, eta))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_out_of_pure_noise(eta):
    """At alpha_t = 0 x_t does not depend on x_0: at eta 1 x_s is q(x_s | x0), with std sigma_s and no direction."""
    prediction = Prediction(jnp.asarray(normal(0, 5)), jnp.asarray(normal(1, 5)))
    z, abar = normal(2, 5), 0.9 * 0.7 * 0.4
    ours = process.p_step(PURE_NOISE, prediction, prediction.eps, 4, 3, z, eta)
    x0, eps = (np.asarray(part, np.float64) for part in prediction[:2])
    close(ours, abar**0.5 * x0 + (1 - abar) ** 0.5 * ((1 - eta**2) ** 0.5 * eps + eta * z))


# Kinds of predictions


@pytest.mark.parametrize("kind", process.KINDS)
@pytest.mark.parametrize("t", [1, 30, 500, 900])
def test_a_target_is_converted_back_to_x0_and_eps(kind, t):
    x0, eps = normal(0, 6), normal(1, 6)
    x_t = np.float32(ABAR[t] ** 0.5) * x0 + np.float32((1 - ABAR[t]) ** 0.5) * eps
    prediction = process.predict_from(kind, LINEAR, process.target_for(kind, LINEAR, x0, eps, t), x_t, t)
    rounding = 1e-6 / min(ABAR[t], 1 - ABAR[t]) ** 0.5  # of x_t, divided by alpha or sigma
    np.testing.assert_allclose(prediction.x0, x0, atol=rounding, rtol=1e-5)
    np.testing.assert_allclose(prediction.eps, eps, atol=rounding, rtol=1e-5)


@pytest.mark.parametrize("kind", process.KINDS)
def test_targets_are_their_definitions(kind):
    x0, eps, t = normal(0, 6), normal(1, 6), 300
    alpha, sigma = ABAR[t] ** 0.5, (1 - ABAR[t]) ** 0.5
    # v is the derivative of cos(phi) x0 + sin(phi) eps by the angle; the score that of log q(x_t | x_0) by x_t.
    phi, h = np.arctan2(sigma, alpha), 1e-4
    x = lambda phi: np.cos(phi) * x0.astype(np.float64) + np.sin(phi) * eps
    log_q = lambda x_t: -((x_t - alpha * x0) ** 2) / (2 * sigma**2)
    want = {
        "eps": eps,
        "x0": x0,
        "v": (x(phi + h) - x(phi - h)) / (2 * h),
        "score": (log_q(x(phi) + h) - log_q(x(phi) - h)) / (2 * h),
        "flow": eps - x0,
    }
    close(process.target_for(kind, LINEAR, x0, eps, t), want[kind])


def test_v_needs_no_signal_and_no_noise():
    """alpha = 0: v = -x0 and x_t = eps; sigma = 0: v = eps and x_t = x0."""
    x0, eps = jnp.asarray(normal(0, 6)), jnp.asarray(normal(1, 6))
    chex.assert_trees_all_equal(process.predict_from("v", PURE_NOISE, -x0, eps, 4)[:2], (x0, eps))
    chex.assert_trees_all_equal(process.predict_from("v", PURE_NOISE, eps, x0, 0)[:2], (x0, eps))
    assert not np.all(np.isfinite(process.predict_from("eps", PURE_NOISE, eps, eps + 1, 4).x0))


# Errors


def test_unknown_names_are_refused():
    x = jnp.ones([3])
    prediction = Prediction(x, x)
    with pytest.raises(ValueError, match="unknown kind of prediction 'epsilon': did you mean 'eps'"):
        process.predict_from("epsilon", LINEAR, x, x, 5)
    with pytest.raises(ValueError, match="unknown kind of prediction 'noise'"):
        process.target_for("noise", LINEAR, x, x, 5)
    with pytest.raises(ValueError, match=r"unknown variance 'fixed_small' \(one of"):
        process.p_step(LINEAR, prediction, x, 5, 4, x, variance="fixed_small")


@pytest.mark.parametrize("variance", ["beta", "learned"])
def test_other_variances_are_for_eta_1(variance):
    x = jnp.ones([3])
    step = lambda eta: process.p_step(LINEAR, Prediction(x, x, Aux(variance=x)), x, 5, 4, x, eta, variance)
    for eta in (0.5, 0.0, jnp.float32(1.0)):
        with pytest.raises(ValueError, match=f"`variance`='{variance}' is for ancestral steps"):
            step(eta)
    with pytest.raises(ValueError, match="is for ancestral steps"):
        jax.jit(step)(1.0)  # traced: it could be anything
    chex.assert_trees_all_equal(step(1), step(1.0))


def test_learned_variance_needs_a_network_that_predicts_one():
    x = jnp.ones([3])
    with pytest.raises(ValueError, match="2C output channels"):
        process.p_step(LINEAR, Prediction(x, x), x, 5, 4, x, variance="learned")


# Transformations


class Transformed(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_a_batch_is_vmapped_examples(self):
        t, s = jnp.array([1000, 7, 500]), jnp.array([999, 0, 250])
        x, eps, z = (jnp.asarray(normal(seed, 3, 4)) for seed in range(3))

        def one(schedule, x, eps, z, t, s):
            prediction = process.predict_from("v", schedule, eps, x, t)
            return process.q_sample(schedule, x, t, eps), process.p_step(schedule, prediction, x, t, s, z, 0.5)

        batch = self.variant(jax.vmap(one, in_axes=(None, 0, 0, 0, 0, 0)))(LINEAR, x, eps, z, t, s)
        rows = [one(LINEAR, x[i], eps[i], z[i], int(t[i]), int(s[i])) for i in range(3)]
        chex.assert_trees_all_close(batch, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), rtol=1e-5, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_gradients_are_the_coefficients(self):
        """All is linear: x0 -> alpha, eps -> sigma, noise -> std; and in x_t through an eps-prediction, 1 / r at eta 0."""
        t, s, x = 700, 600, jnp.ones([3])
        ones = np.ones(3)
        forward = lambda x0, eps: jnp.sum(process.q_sample(LINEAR, x0, t, eps))
        close(self.variant(jax.grad(forward, (0, 1)))(x, x), (ABAR[t] ** 0.5 * ones, (1 - ABAR[t]) ** 0.5 * ones))

        def back(x_t, noise, eta):
            prediction = process.predict_from("eps", LINEAR, x, x_t, t)
            return jnp.sum(process.p_step(LINEAR, prediction, x_t, t, s, noise, eta))

        by_x, by_noise = self.variant(jax.grad(back, (0, 1)))(x, x, 0.5)
        close(by_x, (ABAR[s] / ABAR[t]) ** 0.5 * ones)
        close(by_noise, 0.5 * bayes(0.0, 0.0, t, s)[1] * ones)
