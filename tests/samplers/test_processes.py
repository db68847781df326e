"""Every sampler on rectified flow and on processes that do not preserve the variance.

Processes with the same sigma / alpha are one process in other units: x / alpha is the same. So samplers draw the same there
that they draw where variance is preserved, where their formulas are tested; what depends on units is tested by formulas.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import editing, objectives, process, samplers, schedules, testing, timesteps
from jaxdiff.eval.likelihood import log_prob
from jaxdiff.samplers.ddim import ddim
from jaxdiff.samplers.flow_heun import flow_heun
from jaxdiff.testing.convergence import CLOUD

PRESERVING = schedules.linear(1000)
W = np.asarray(PRESERVING.sigma, np.float64)[1:] / np.asarray(PRESERVING.alpha, np.float64)[1:]
SAME = {
    "exploding": schedules.from_alpha_sigma(np.ones(1000), W),
    "straight": schedules.from_alpha_sigma(1 / (1 + W), W / (1 + W)),
}
DATA = testing.mixture([0.3, 0.7], [[1.0, -0.5], [-1.0, 0.5]], [0.04, 0.09])
KEY, B = jax.random.key(0), 16
INVARIANT = {
    "ddim": samplers.ddim(),
    "ddim 0.5": samplers.ddim(0.5),
    "ddpm": samplers.ddpm(),
    "heun": samplers.heun(),
    "heun churn": samplers.heun(0.2),
    "flow_heun": flow_heun(),
    "dpmpp_2m": samplers.dpmpp_2m(),
    "dpmpp_2m sde": samplers.dpmpp_2m(sde=True),
    "unipc": samplers.unipc(3),
    "pndm": samplers.pndm(),
    "euler_ancestral": samplers.euler_ancestral(),
    "probability_flow_fixed": samplers.probability_flow_fixed(),
}


def drawn(sampler, schedule, levels, y_T):
    """x / alpha at the last level, from x / alpha at the first."""
    x_T = schedule(levels[0]).alpha * y_T
    x, _ = samplers.sample(KEY, sampler, DATA.denoiser(schedule), schedule, levels, x_T)
    return x / schedule(levels[-1]).alpha


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("sampler", INVARIANT.values(), ids=INVARIANT)
def test_the_same_process_in_other_units(name, sampler):
    levels = timesteps.grid(1000, 12, end=1)
    y_T = 100 * samplers.noise(samplers.keys_for(KEY, B), (2,))
    wanted = drawn(sampler, PRESERVING, levels, y_T)
    np.testing.assert_allclose(drawn(sampler, SAME[name], levels, y_T), wanted, rtol=1e-3, atol=1e-3)


PROCESSES = {
    "preserving": schedules.cosine(1000),
    "rectified flow": schedules.rectified_flow(1000),
    "shifted": schedules.shift(schedules.rectified_flow(1000), 3.0),
    "exploding": schedules.variance_exploding(1000),
    "edm": schedules.edm(1000),
    "neither": schedules.from_alpha_sigma(np.linspace(1, 0.5, 1000), np.linspace(0.01, 3, 1000)),
}
KEPT = {"preserving": "variance", "rectified flow": "sum", "shifted": "sum", "exploding": "signal", "edm": "signal"}


@pytest.mark.parametrize("name", PROCESSES)
def test_schedules(name):
    schedule = PROCESSES[name]
    testing.check_schedule(schedule, preserves=KEPT.get(name))
    t = jnp.array([0.3, 1.0, 12.5, 499.7, 998.2])
    np.testing.assert_allclose(schedule.level_of(schedule(t)), t, rtol=2e-4)
    np.testing.assert_allclose(jax.jit(jax.device_get(schedule).level_of)(schedule(t)), t, rtol=2e-4)  # of NumPy tables
    for t in (1, 2, 500, 999):  # the chain of steps has the marginals
        r, noise = (float(process.q_step(schedule, jnp.float32(x), t, jnp.float32(1 - x))) for x in (1, 0))
        (alpha, sigma), (alpha_t, sigma_t) = schedule(t - 1), schedule(t)
        np.testing.assert_allclose(r * alpha, alpha_t, rtol=1e-5)
        np.testing.assert_allclose(r**2 * sigma**2 + noise**2, sigma_t**2, rtol=1e-5)


def test_levels_of_large_noise():
    """Where angles are near pi / 2, of which float32 has few digits."""
    schedule = schedules.variance_exploding(4096, sigma_max=5e4)
    t = jnp.array([4095.4, 4000.5, 3000.25])
    np.testing.assert_allclose(schedule.level_of(schedule(t)), t, atol=2e-3)


def test_rectified_flow_between_its_levels():
    schedule = schedules.rectified_flow(8)
    u = np.array([0.1, 2.5, 7.9]) / 8
    np.testing.assert_allclose(schedule(jnp.float32(8 * u)), [1 - u, u], rtol=1e-6)
    np.testing.assert_allclose(schedules.rectified_flow(1)(0.5), [0.5, 0.5], rtol=1e-6)
    shifted = schedules.shift(schedules.rectified_flow(8), 3.0)(jnp.arange(9))
    u = np.arange(9) / 8
    np.testing.assert_allclose(shifted.sigma, 3 * u / (1 + 2 * u), rtol=1e-6)  # Esser et al. 2024, eq. 23


def test_edm_is_its_formula():
    i = np.arange(18)
    table = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # Karras et al. 2022, eq. 5
    schedule = schedules.edm(18)
    np.testing.assert_allclose(schedule.sigma, [0, *table[::-1]], rtol=1e-5)
    assert float(schedule.std(18)) == pytest.approx(80, rel=1e-3)


@pytest.mark.parametrize("schedule", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("kind", process.KINDS)
def test_kinds_convert_to_one_another(kind, schedule):
    testing.check_prediction_kind(kind, schedule)
    last = schedule.num_levels
    if kind in ("v", "flow"):
        testing.check_prediction_kind(kind, schedule, levels=range(last + 1))


def test_eulers_step_of_the_flow_is_ddim():
    """x_s = x_t + (s - t) (eps - x0) of u in 0..1."""
    schedule, x = PROCESSES["rectified flow"], 0.5 * samplers.noise(samplers.keys_for(KEY, B), (2,))
    said = DATA.denoiser(schedule)(x, 700, None)
    found, _ = ddim().step(None, DATA.denoiser(schedule), schedule, samplers.State(x), 700, 400, None)
    np.testing.assert_allclose(found.x, x + (0.4 - 0.7) * (said.eps - said.x0), atol=1e-6)


def test_heun_of_the_flow_is_its_formula():
    schedule, x = PROCESSES["rectified flow"], 0.5 * samplers.noise(samplers.keys_for(KEY, B), (2,))

    def velocity(x, t):
        said = DATA.denoiser(schedule)(x, t, None)
        return np.asarray(said.eps - said.x0, np.float64)

    ahead = x + (0.4 - 0.7) * velocity(x, 700)
    wanted = x + (0.4 - 0.7) * (velocity(x, 700) + velocity(jnp.float32(ahead), 400)) / 2
    found, _ = flow_heun().step(None, DATA.denoiser(schedule), schedule, samplers.State(x), 700, 400, None)
    np.testing.assert_allclose(found.x, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion"])
def test_the_reverse_sde_of_exploding_variance(name):
    """x_s = x_t + (sigma_t^2 - sigma_s^2) score + sqrt(sigma_t^2 - sigma_s^2) z (score SDE, appendix F)."""
    schedule, keys = PROCESSES["exploding"], samplers.keys_for(KEY, B)
    x, z = 10 * samplers.noise(keys, (2,)), samplers.normal(keys, (2,))
    step = samplers.SAMPLERS.choice(name)().step
    found, said = step(keys, DATA.denoiser(schedule), schedule, samplers.State(x), 700, 650, None)
    (_, w), (_, v) = ([np.float64(one) for one in schedule(t)] for t in (700, 650))
    wanted = x - (w**2 - v**2) * np.asarray(said.eps) / w + np.sqrt(w**2 - v**2) * z
    np.testing.assert_allclose(found.x, wanted, rtol=1e-4, atol=1e-4)


def test_the_reverse_sde_of_rectified_flow():
    """dx = (x / (1 - u) + 2 u / (1 - u) score) du, with the integrals of both coefficients."""
    schedule, keys = PROCESSES["rectified flow"], samplers.keys_for(KEY, B)
    x, z = samplers.noise(keys, (2,)), samplers.normal(keys, (2,))
    t, s = 700, 690
    found, said = samplers.euler_maruyama().step(keys, DATA.denoiser(schedule), schedule, samplers.State(x), t, s, None)
    u = np.linspace(s / 1000, t / 1000, 10001)
    A, variance = np.trapezoid(1 / (1 - u), u), np.trapezoid(2 * u / (1 - u), u)
    wanted = (1 + A) * x - variance * np.asarray(said.eps) / (t / 1000) + np.sqrt(variance) * z
    np.testing.assert_allclose(found.x, wanted, rtol=1e-3, atol=1e-3)


ORDERS = {
    "ddim": (samplers.ddim(), 1),
    "heun": (samplers.heun(), 2),
    "flow_heun": (flow_heun(), 2),
    "dpmpp_2m": (samplers.dpmpp_2m(), 2),
    "unipc": (samplers.unipc(), 3),
    "probability_flow_fixed": (samplers.probability_flow_fixed(), 2),
}
FINE = {"rectified flow": schedules.rectified_flow(4096), "edm": schedules.edm(4096)}


@pytest.mark.parametrize("schedule", FINE.values(), ids=FINE)
@pytest.mark.parametrize("sampler, order", ORDERS.values(), ids=ORDERS)
def test_orders(sampler, order, schedule):
    integrates = sampler == ORDERS["probability_flow_fixed"][0]
    testing.check_sampler(sampler, order, exact_on_points=not integrates, schedule=schedule)


@pytest.mark.parametrize(
    "name, schedule",
    [("ddpm", FINE["edm"]), *itertools.product(["euler_maruyama", "reverse_diffusion"], FINE.values())],
)
def test_weak_orders(name, schedule):
    sampler = samplers.SAMPLERS.choice(name)()
    testing.check_sampler(sampler, 1, stochastic=True, exact_on_points=name == "ddpm", schedule=schedule)


def test_inversion_and_likelihood_of_rectified_flow():
    x = jnp.array([[0.0, 0.0], [1.0, 0.4]])
    for name in ("rectified flow", "edm"):
        schedule = PROCESSES[name]
        denoise, levels = CLOUD.denoiser(schedule), timesteps.grid(1000, 100, end=1)
        trajectory = editing.invert(denoise, schedule, levels, x, refine=10)
        again = editing.reconstruct(denoise, schedule, levels, trajectory[0])
        np.testing.assert_allclose(again, x, atol=1e-3)
        data = testing.gaussian([0.0, 0.0], [[0.5, 0.2], [0.2, 0.3]])  # a mean would be seen at edm's last level
        found = log_prob(None, data.denoiser(schedule), schedule, x, trace="exact")
        np.testing.assert_allclose(found, data.log_prob(schedule, x, 1), atol=2e-3)


@pytest.mark.parametrize("name", ["exploding", "edm", "rectified flow"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "karras"])
def test_sampling_begins_with_noise_of_its_first_level(name, spacing):
    """As `jaxdiff.generate` does; N(0, 1) would be far too little or too much."""
    schedule, keys = PROCESSES[name], samplers.keys_for(KEY, 2000)
    levels = timesteps.SPACINGS.choice(spacing)(schedule, 100)
    x_T = schedule.std(levels[0]) * samplers.noise(keys, (1,))
    data = testing.gaussian([0.0], 1.0)
    x, _ = samplers.sample(KEY, samplers.ddim(), data.denoiser(schedule), schedule, levels, x_T)
    assert abs(float(x.std()) - 1) < 0.1


@pytest.mark.parametrize("name", ["exploding", "edm", "rectified flow"])
def test_sdedit_of_full_strength_is_sampling(name):
    schedule, data = PROCESSES[name], testing.gaussian([0.0], 1.0)
    levels = timesteps.grid(1000, 50)
    x = editing.sdedit(KEY, samplers.ddim(), data.denoiser(schedule), schedule, levels, 5 * jnp.ones([2000, 1]))
    assert abs(float(x.std()) - 1) < 0.1 and abs(float(x.mean())) < 0.1


def test_weights_of_the_flow_and_of_v():
    """The error of x0 that an error of the output stands for, at every level."""
    for schedule in PROCESSES.values():
        t = jnp.array([1, 10, 500, 990])
        for kind in process.KINDS:
            one = lambda t, output, kind=kind, s=schedule: process.predict_from(kind, s, output, jnp.float32(1), t).x0
            slope = jax.vmap(jax.grad(one, argnums=1))(t, jnp.ones(4))
            found = objectives.weightings.min_snr(schedule, t, kind)
            snr = jnp.square(schedule(t).alpha / schedule(t).sigma)
            np.testing.assert_allclose(found, jnp.square(slope) * jnp.minimum(snr, 5.0), rtol=1e-3)


BAD = {
    "rising alpha": lambda: schedules.from_alpha_sigma([0.5, 0.6], [0.5, 2.0]),
    "falling noise": lambda: schedules.from_alpha_sigma([0.9, 0.8], [0.5, 0.3]),
    "lengths": lambda: schedules.from_alpha_sigma([0.9, 0.8], [0.5]),
    "no flow": lambda: schedules.rectified_flow(0),
    "sigma_max": lambda: schedules.edm(10, sigma_max=0.001),
    "rho": lambda: schedules.edm(10, rho=0.0),
    "no level": lambda: schedules.variance_exploding(0),
    "zero terminal": lambda: schedules.zero_terminal_snr(schedules.edm(10)),
    "own shift": lambda: schedules.shift(schedules.from_alpha_sigma([0.9, 0.8], [0.5, 2.0]), 2.0),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_what_is_no_schedule_is_refused(make):
    with pytest.raises(ValueError, match=r"`\w+`"):
        make()
