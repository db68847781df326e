"""Network times and EDM's preconditioning, against the formulas of its paper in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_config

import jaxdiff
from jaxdiff import UNet, denoise, objectives, samplers, schedules, testing
from jaxdiff.adapt import control
from jaxdiff.config import Diffusion
from jaxdiff.model import Model
from jaxdiff.model.params import init_params
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.objectives import LEVEL_DRAWS, WEIGHTINGS, levels
from jaxdiff.preconditioning import network_time, preconditioned
from jaxdiff.train.loop import fit
from jaxdiff.types import Aux

SCHEDULES = {
    "edm": schedules.edm(100),
    "preserving": schedules.linear(100, 1e-3, 0.1),
    "straight": schedules.from_alpha_sigma(np.linspace(0.99, 0.01, 100), np.linspace(0.01, 0.99, 100)),
}
T = np.array([1, 2, 50, 99, 100])
D = 0.5
every = pytest.mark.parametrize("name", SCHEDULES)


def ratio(schedule, t):
    """S = sigma / alpha of a level in float64."""
    return np.asarray(schedule.sigma, np.float64)[t] / np.asarray(schedule.alpha, np.float64)[t]


def wave(params, x, t, cond=None, keys=None):
    """A network F that depends on its input alone."""
    return jnp.sin(3 * x) + params, Aux()


@every
def test_output_is_that_of_the_paper(name):
    """Table 1 of Karras et al. 2022, for x = x_t / alpha_t."""
    schedule = SCHEDULES[name]
    x_t = np.random.default_rng(0).normal(size=(5, 3, 2)) * np.asarray(schedule.std(T))[:, None, None]
    s = ratio(schedule, T)[:, None, None]
    x = x_t / np.asarray(schedule.alpha, np.float64)[T][:, None, None]
    skip, out, into = D**2 / (s**2 + D**2), s * D / np.sqrt(s**2 + D**2), 1 / np.sqrt(s**2 + D**2)
    wanted = skip * x + out * (np.sin(3 * into * x) + 0.25)
    found, _ = preconditioned(wave, schedule, D)(0.25, jnp.asarray(x_t, jnp.float32), jnp.asarray(T))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@every
def test_input_target_and_first_loss_have_size_one(name):
    """For data of variance d^2: what the choice of scales was made for."""
    schedule, rng = SCHEDULES[name], np.random.default_rng(0)
    x0, eps = D * rng.normal(size=(5, 20000)), rng.normal(size=(5, 20000))
    alpha, sigma = (np.asarray(scale, np.float64)[:, None] for scale in schedule(T))
    x_t = jnp.asarray(alpha * x0 + sigma * eps, jnp.float32)
    seen = []
    zeros = lambda params, x, t, cond=None, keys=None: (seen.append(x), (jnp.zeros_like(x), Aux()))[1]
    ones = lambda params, x, t, cond=None, keys=None: (jnp.ones_like(x), Aux())
    skipped, _ = preconditioned(zeros, schedule, D)((), x_t, jnp.asarray(T))
    scale = preconditioned(ones, schedule, D)((), x_t, jnp.asarray(T))[0] - skipped
    np.testing.assert_allclose(np.std(seen[0], axis=1), 1, rtol=0.03)
    # At the ends x0 and its part of x_t are almost equal: rows in between have the digits.
    np.testing.assert_allclose(np.std((x0 - skipped) / scale, axis=1)[1:], 1, rtol=0.03)
    weight = objectives.edm(schedule, jnp.asarray(T), "x0", sigma_data=D)
    np.testing.assert_allclose((weight * np.square(x0 - skipped).mean(1))[1:], 1, rtol=0.05)


def test_at_pure_noise_the_network_alone_says_x0():
    schedule = schedules.rectified_flow(10)
    x_T = jnp.array([[2.0, -1.0]])
    found, _ = preconditioned(wave, schedule, D)(0.0, x_T, 10)
    np.testing.assert_allclose(found, D * np.sin(3 * np.asarray(x_T)), rtol=1e-6)


def test_a_variance_is_not_scaled():
    both = lambda params, x, t, cond=None, keys=None: (jnp.concatenate([x, jnp.full_like(x, 0.7)], -1), Aux())
    found, _ = preconditioned(both, SCHEDULES["edm"], D)((), jnp.ones([2, 4]), 50)
    assert found.shape == (2, 8) and (found[:, 4:] == 0.7).all()


@every
def test_samples_are_those_of_the_network_that_it_scales(name):
    """The exact denoiser, written as a preconditioned network, draws the same."""
    schedule = SCHEDULES[name]
    oracle = testing.mixture([0.3, 0.7], [[1.0, -0.5], [-1.0, 0.5]], [0.04, 0.09]).denoiser(schedule)

    def exact(params, x, t, cond=None, keys=None):
        alpha, sigma = (scale[:, None] for scale in schedule(jnp.broadcast_to(t, len(x))))
        x_t = x * jnp.hypot(alpha * D, sigma)
        skip, out = alpha * D**2 / (alpha**2 * D**2 + sigma**2), sigma * D / jnp.hypot(alpha * D, sigma)
        return (oracle(x_t, t, None).x0 - skip * x_t) / out, Aux()

    denoiser = denoise.denoiser(preconditioned(exact, schedule, D), (), schedule, "x0")
    x_T = schedule.std(100) * samplers.noise(samplers.keys_for(jax.random.key(0), 8), (2,))
    grid = np.array([100, 60, 30, 10, 1, 0])
    drawn = [samplers.sample(jax.random.key(0), samplers.heun(), d, schedule, grid, x_T)[0] for d in (oracle, denoiser)]
    np.testing.assert_allclose(*drawn, rtol=1e-3, atol=1e-3)


@every
def test_times(name):
    schedule = SCHEDULES[name]
    assert network_time("level", schedule) is None
    np.testing.assert_allclose(network_time("sigma", schedule)(T), 1000 * np.asarray(schedule.sigma)[T], rtol=1e-6)
    np.testing.assert_allclose(network_time("fraction", schedule)(T), np.asarray(schedule.sigma)[T], rtol=1e-6)
    found = network_time("log_ratio", schedule)
    np.testing.assert_allclose(found(T), np.log(ratio(schedule, T)) / 4, rtol=1e-4, atol=1e-5)
    assert np.isfinite(found(0))  # clean data


def test_what_is_equal_compiles_once():
    made = [
        preconditioned(denoise.network(jaxdiff.UNet(jaxdiff.UNetConfig()), network_time("log_ratio", s)), s, D)
        for s in (schedules.edm(100), schedules.edm(100), schedules.edm(101))
    ]
    assert made[0] == made[1] != made[2] and hash(made[0]) == hash(made[1])
    assert made[0] != preconditioned(made[0].apply, schedules.edm(100), 0.6)
    runs = jax.jit(lambda denoiser, x: denoiser(x, 50).x0)
    for schedule in (schedules.edm(100), schedules.edm(100)):
        runs(denoise.denoiser(preconditioned(wave, schedule, D), 0.1, schedule, "x0"), jnp.ones([1, 2]))
    assert runs._cache_size() == 1


def test_log_normal_levels():
    """Quantiles of sigma are those of the paper's distribution."""
    schedule = schedules.edm(1000)
    t, weight = levels.log_normal(schedule, -1.2, 1.2).draw((), samplers.keys_for(jax.random.key(0), 20000), None, 1000)
    log = np.log(np.asarray(schedule.sigma)[np.asarray(t)])
    assert t.dtype == jnp.int32 and (weight == 1).all()
    for quantile, z in ((0.1587, -1), (0.5, 0), (0.8413, 1)):
        np.testing.assert_allclose(np.quantile(log, quantile), -1.2 + 1.2 * z, atol=0.05)
    beyond, _ = levels.log_normal(schedule, 20.0, 0.1).draw((), samplers.keys_for(jax.random.key(0), 5), None, 1000)
    assert (beyond == 1000).all()
    choice = LEVEL_DRAWS["log_normal"](mean=-0.5)
    again, _ = choice(schedule=schedule).draw((), samplers.keys_for(jax.random.key(0), 20000), None, 1000)
    assert again.mean() > t.mean()


def test_what_does_not_fit_is_refused():
    edm, flow = schedules.edm(100), schedules.rectified_flow(100)
    scaled = preconditioned(wave, edm, D)
    with pytest.raises(ValueError, match="`predict`='eps'"):
        denoise.denoiser(scaled, 0.0, edm, "eps")
    with pytest.raises(ValueError, match="`schedule` is not the one"):
        denoise.denoiser(scaled, 0.0, schedules.edm(100, sigma_max=79.0), "x0")
    with pytest.raises(ValueError, match="`schedule` is not the one"):
        objectives.denoising(scaled, flow, "x0")
    with pytest.raises(ValueError, match="`sigma_data`=0"):
        preconditioned(wave, edm, 0.0)
    with pytest.raises(ValueError, match="`std`=0"):
        levels.log_normal(edm, std=0.0)
    with pytest.raises(ValueError, match="infinite at a last level"):
        network_time("log_ratio", flow)
    with pytest.raises(ValueError, match="network time"):
        network_time("sigmas", flow)
    with pytest.raises(TypeError, match="Schedule"):
        network_time("sigma", "edm")


def test_a_controlnet_is_given_the_scaled_input():
    """The branch sees what the network sees."""
    schedule, shape = (
        SCHEDULES["edm"],
        jaxdiff.UNetConfig(channels=(8,), blocks=1, attention=(), mid_attention=False, groups=4),
    )
    net, config, x = jaxdiff.UNet(shape), ControlConfig(shape, embedding=(4, 8)), 50 * jnp.ones([1, 8, 8, 3])
    base = jax.jit(net.init)(jax.random.key(0), x, jnp.ones([1]))["params"]
    base = jax.tree.map(lambda x: x + 0.02, base)  # at first its output would be 0
    made = control.init(jax.random.key(1), config, base)
    params = {"unet": base, "control": jax.tree.map(lambda x: x + 0.02, made)}  # at first it would change nothing
    time = network_time("log_ratio", schedule)
    joined = control.add_control(denoise.network(net, time), denoise.network(ControlNet(config), time))
    cond = jaxdiff.Cond(control=jnp.ones([1, 16, 16, 3]))
    found, _ = jax.jit(preconditioned(joined, schedule, D))(params, x, 90, cond)
    s = float(schedule.sigma[90])
    F, _ = jax.jit(joined)(params, x / np.hypot(s, D), 90, cond)
    wanted = D**2 / (s**2 + D**2) * x + s * D / np.hypot(s, D) * F
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(F - jax.jit(denoise.network(net, time))(base, x / np.hypot(s, D), 90)[0]).max() > 1e-3


def test_a_run_is_trained_saved_and_drawn_from(tmp_path):
    """The model that is read back is the preconditioned one that was trained."""
    diffusion = Diffusion(
        "edm",
        50,
        "x0",
        time="log_ratio",
        sigma_data=1.0,
        weighting=WEIGHTINGS["edm"](sigma_data=1.0),
        levels="log_normal",
    )
    config = dataclasses.replace(tiny_config(), diffusion=diffusion)
    fit(config, run=tmp_path / "run")
    model = jaxdiff.load(tmp_path / "run")
    assert model.config.diffusion == diffusion
    x_t = 70 * jax.random.normal(jax.random.key(0), (2, *model.shape))
    found = jaxdiff.call(jaxdiff.denoiser_of(model), x_t, 49, None)
    alpha, sigma = model.schedule(49)
    S = np.hypot(alpha, sigma)
    F = jax.jit(UNet(model.config.net).apply)({"params": model.params}, x_t / S, jnp.full(2, np.log(sigma) / 4))
    np.testing.assert_allclose(found.x0, x_t / S**2 + sigma / S * F, rtol=1e-3, atol=1e-3)
    assert jaxdiff.generate(model, num=2).shape == (2, 28, 28, 1)
    with pytest.raises(ValueError, match="`round_levels`"):
        jaxdiff.denoiser_of(model, round_levels=True)
    with pytest.raises(ValueError, match="is none that diffusers knows"):
        jaxdiff.export(model, tmp_path / "folder", layout="diffusers")


def test_a_model_of_a_shifted_schedule_can_be_used_while_jax_traces():
    """Its tables are made of numbers there, too."""
    diffusion = Diffusion("edm", 50, "x0", shift=2.0, time="log_ratio", sigma_data=1.0)
    config = dataclasses.replace(tiny_config(), diffusion=diffusion)
    model = Model(config=config, params=init_params(config, jax.random.key(0)))
    x = jnp.ones([1, 28, 28, 1])
    inside = jax.jit(lambda model, x: jaxdiff.denoiser_of(model)(x, 20, None).x0)(model, x)
    np.testing.assert_allclose(inside, jaxdiff.call(jaxdiff.denoiser_of(model), x, 20, None).x0, rtol=1e-5)
