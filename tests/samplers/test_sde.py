"""The reverse SDE and its corrector: formulas, invariances, errors; the recursions of means are in test_recursions.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import samplers, schedules, testing, timesteps
from jaxdiff.samplers import Sampler, State
from jaxdiff.samplers.sde import euler_maruyama, predictor_corrector, reverse_diffusion
from jaxdiff.types import Prediction

LINEAR = schedules.linear(100)
ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 100))])
KEY = jax.random.key(0)
MAKERS = {"euler_maruyama": euler_maruyama, "reverse_diffusion": reverse_diffusion, "pc": predictor_corrector}


def elementwise(schedule, x_t, t, cond=None):
    """A nonlinear denoiser in which no example depends on another."""
    alpha, sigma = schedule(t)
    eps = jnp.tanh(x_t) + 0.1 * jnp.sin(0.1 * t)
    return Prediction((x_t - sigma * eps) / alpha, eps)


def eps_of(x, t):
    return np.tanh(x) + 0.1 * np.sin(0.1 * t)


def one_step(sampler, x, t, s, schedule=LINEAR, keys=None):
    keys = samplers.keys_for(KEY, len(x)) if keys is None else keys
    return np.asarray(_one_step(sampler, schedule, keys, jnp.float32(x), t, s), np.float64)


@jax.jit
def _one_step(sampler, schedule, keys, x, t, s):
    return sampler.step(keys, Partial(elementwise, schedule), schedule, State(x), t, s, None)[0].x


X = np.random.default_rng(0).standard_normal([5, 4, 3])


@pytest.mark.parametrize("t, s", [(80, 79), (80, 30), (30, 0)])
@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion"])
def test_a_step_is_the_papers_formula(name, t, s):
    B, beta = np.log(ABAR[s] / ABAR[t]), 1 - ABAR[t] / ABAR[s]
    score = -eps_of(X, t) / np.sqrt(1 - ABAR[t])
    z = np.asarray(samplers.normal(samplers.keys_for(KEY, 5), (4, 3))) * (s > 0)
    want = {
        "euler_maruyama": X + B / 2 * X + B * score + np.sqrt(B) * z,
        "reverse_diffusion": (2 - np.sqrt(1 - beta)) * X + beta * score + np.sqrt(beta) * z,
    }[name]
    np.testing.assert_allclose(one_step(MAKERS[name](), X, t, s), want, atol=1e-5)


@pytest.mark.parametrize("d", [0.0, 0.3, 2.5])
def test_a_chosen_diffusion_scales_noise_and_drift(d):
    """Albergo et al. 2023: dx = (f - (1 + d) / 2 g^2 score) dt + sqrt(d) g dw."""
    t, s = 80, 30
    B, z = np.log(ABAR[s] / ABAR[t]), np.asarray(samplers.normal(samplers.keys_for(KEY, 5), (4, 3)))
    want = X + B / 2 * X - (1 + d) / 2 * B * eps_of(X, t) / np.sqrt(1 - ABAR[t]) + np.sqrt(d * B) * z
    np.testing.assert_allclose(one_step(euler_maruyama(d), X, t, s), want, atol=1e-5)


@pytest.mark.parametrize("make", [schedules.cosine, schedules.rectified_flow, schedules.edm])
@pytest.mark.parametrize("d", [0.0, 0.5, 2.0])
def test_all_diffusions_have_the_same_marginals(d, make):
    """Of every process, from pure noise where there is no signal."""
    schedule, data = make(1000), testing.gaussian([1.0], 0.25)
    x_T = schedule.std(1000) * samplers.noise(samplers.keys_for(KEY, 5000), (1,))
    levels = timesteps.grid_by_sigma(schedule, 400) if make is schedules.edm else timesteps.grid(1000, 200)
    x, _ = samplers.sample(KEY, euler_maruyama(d), data.denoiser(schedule), schedule, levels, x_T)
    assert abs(float(x.mean()) - 1) < 0.03 and abs(float(x.std()) - 0.5) < 0.03


@pytest.mark.parametrize("d", [-0.1, np.inf, np.nan, "1"])
def test_a_diffusion_is_a_number_from_0(d):
    with pytest.raises(ValueError, match="`diffusion`="):
        euler_maruyama(d)


@pytest.mark.parametrize("t, s", [(1000, 1), (1000, 999), (2, 1)])
def test_euler_maruyama_is_accurate_for_steps_of_any_length(t, s):
    """On a schedule that ends in nearly pure noise: B from 4e-5 to 20."""
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    abar = np.concatenate([[1.0], np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))])
    B, z = np.log(abar[s] / abar[t]), np.asarray(samplers.normal(samplers.keys_for(KEY, 5), (4, 3)))
    want = B / 2 * X - B * eps_of(X, t) / np.sqrt(1 - abar[t]) + np.sqrt(B) * z
    found = one_step(euler_maruyama(), X, t, s, schedules.cosine()) - X
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-5)


STAY = Sampler(
    Partial(State),
    Partial(lambda keys, denoise, schedule, state, t, s, cond: (state, denoise(state.x, t, cond))),
)


@pytest.mark.parametrize("s", [1, 40])
@pytest.mark.parametrize("snr, count", [(0.16, 1), (0.3, 3)])
def test_the_corrector_is_algorithm_5(snr, count, s):
    """With a predictor that does not change x; the corrector's keys are folds 1, 2, ... of the step's."""
    keys, x = samplers.keys_for(KEY, 5), X
    for j in range(1, count + 1):
        z = np.asarray(samplers.normal(jax.vmap(jax.random.fold_in, (0, None))(keys, j), (4, 3)), np.float64)
        g = -eps_of(x, s) / np.sqrt(1 - ABAR[s])
        ratio = np.linalg.norm(z.reshape(5, -1), axis=1) / np.linalg.norm(g.reshape(5, -1), axis=1)
        e = (2 * (ABAR[s] / ABAR[s - 1]) * (snr * ratio) ** 2)[:, None, None]
        x = x + e * g + np.sqrt(2 * e) * z
    found = one_step(predictor_corrector(snr, count, STAY), X, 80, s)
    np.testing.assert_allclose(found, x, atol=1e-5 * np.abs(x).max())


def test_level_0_is_not_corrected():
    keys = jax.vmap(jax.random.fold_in, (0, None))(samplers.keys_for(KEY, 5), 0)
    alone = one_step(reverse_diffusion(), X, 30, 0, keys=keys)
    np.testing.assert_allclose(one_step(predictor_corrector(), X, 30, 0), alone, rtol=1e-6)
    assert np.all(np.isfinite(alone))


def test_no_step_is_taken_if_the_score_is_0():
    denoise = Partial(lambda x, t, cond: Prediction(x / LINEAR(t).alpha, jnp.zeros_like(x)))
    keys = samplers.keys_for(KEY, 2)
    state, _ = predictor_corrector(predictor=STAY).step(keys, denoise, LINEAR, State(jnp.ones([2, 3])), 80, 40, None)
    np.testing.assert_array_equal(state.x, jnp.ones([2, 3]))


def test_langevin_steps_converge_to_the_marginal():
    """From twice the std and another mean. Unadjusted steps of snr r multiply the variance by 1 / (1 - r^2), here +1%, and
    the variation of the norms by about 1 + 4 / D, here +0.8%; a standard error of the variance is 0.6%."""
    t = 40
    mean, var = 0.5 * np.sqrt(ABAR[t]), 0.25 * ABAR[t] + 1 - ABAR[t]
    x = 2 * np.sqrt(var) * np.random.default_rng(1).standard_normal([100, 512])

    @jax.jit
    def alone(x):
        denoise = lambda x, t, cond: Prediction(x, LINEAR(t).sigma * (x - mean) / var)  # data N(0.5, 0.25), at level t
        return predictor_corrector(0.1, 400, STAY).step(keys, denoise, LINEAR, State(x), 80, t, None)[0].x

    keys = samplers.keys_for(KEY, 100)
    x = np.asarray(alone(jnp.float32(x)))
    assert abs(x.mean() - mean) < 0.02
    assert -0.02 < x.var() / var - 1 < 0.04


def test_correcting_reduces_the_predictors_bias():
    """In 64 dimensions, where the norms vary little."""
    schedule, data = schedules.linear(), testing.gaussian(np.zeros(64), 0.25)
    x_T, levels = samplers.noise(samplers.keys_for(KEY, 500), (64,)), timesteps.grid(1000, 20, end=1)
    sample = lambda sampler: samplers.sample(KEY, sampler, data.denoiser(schedule), schedule, levels, x_T)[0]
    alone, corrected = (
        abs(float(sample(sampler).var()) / 0.25 - 1)
        for sampler in (reverse_diffusion(), predictor_corrector(0.16, 5, reverse_diffusion()))
    )
    assert corrected < 0.6 * alone


@pytest.mark.parametrize("name", MAKERS)
def test_zero_signal_to_noise_begins_with_an_ancestral_step(name):
    schedule = schedules.from_betas(np.append(np.linspace(1e-4, 0.02, 99), 1.0))
    data = testing.gaussian([1.0, -0.5], 0.25)
    levels, x_T = np.array([100, 60, 1]), samplers.noise(samplers.keys_for(KEY, 64), (2,))
    x, visited = samplers.sample(
        KEY, MAKERS[name](), data.denoiser(schedule), schedule, levels, x_T, collect=lambda state, _: state.x
    )
    assert np.all(np.isfinite(visited)) and np.all(np.isfinite(x))
    if name != "pc":
        want, _ = samplers.sample(KEY, samplers.ddpm(), data.denoiser(schedule), schedule, levels[:2], x_T)
        np.testing.assert_allclose(visited[0], want, atol=1e-6)


@pytest.mark.parametrize("name", ["euler_maruyama", "pc"])  # whose predictor is reverse_diffusion
def test_an_example_does_not_depend_on_its_batch(name):
    x_T = samplers.noise(samplers.keys_for(KEY, 7), (3,))
    run = lambda x_T: samplers.sample(
        KEY, MAKERS[name](), Partial(elementwise, LINEAR), LINEAR, timesteps.grid(100, 4), x_T
    )[0]
    np.testing.assert_allclose(run(x_T)[:3], run(x_T[:3]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["euler_maruyama", "pc"])
def test_float_levels_and_gradients_are_finite(name):
    levels = jnp.array([99.5, 40.25, 7.5, 1.0, 0.0])

    def total(scale):
        denoise = Partial(lambda scale, x, t, cond: elementwise(LINEAR, scale * x, t), scale)
        return samplers.sample(KEY, MAKERS[name](), denoise, LINEAR, levels, jnp.ones([2, 3]))[0].sum()

    value, slope = jax.jit(jax.value_and_grad(total))(1.0)
    assert np.isfinite(value) and np.isfinite(slope)


def test_other_values_do_not_recompile():
    traces = []

    def denoise(x_t, t, cond):
        traces.append(1)
        return elementwise(LINEAR, x_t, t)

    def run(snr, seed, levels, corrector_steps=1):
        sampler = predictor_corrector(snr, corrector_steps, samplers.ddim(snr))
        return samplers.sample(jax.random.key(seed), sampler, denoise, LINEAR, levels, jnp.ones([2, 3]))[0]

    run(0.16, 0, timesteps.grid(100, 4))
    before = len(traces)
    run(0.3, 1, timesteps.grid(100, 4, "leading"))
    assert len(traces) == before
    run(0.16, 0, timesteps.grid(100, 4), corrector_steps=2)
    assert len(traces) > before


@pytest.mark.parametrize("name", MAKERS)
def test_a_key_is_needed(name):
    with pytest.raises(ValueError, match="give sample\\(\\) a random key"):
        samplers.sample(
            None, MAKERS[name](), Partial(elementwise, LINEAR), LINEAR, timesteps.grid(100, 4), jnp.ones([2, 3])
        )


def test_errors():
    with pytest.raises(ValueError, match="`snr`=0 must be above 0"):
        predictor_corrector(0)
    with pytest.raises(ValueError, match="`corrector_steps`=0 must be at least 1"):
        predictor_corrector(corrector_steps=0)
