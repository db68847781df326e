"""The likelihood: against exact log-densities, a float64 bound of Gaussian data, and derivatives taken another way."""

import itertools
import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import special, stats

from jaxdiff import UNet, UNetConfig, denoiser, network, samplers, schedules, testing
from jaxdiff.eval.likelihood import bits_per_dim, dequantize, log_prob, variational_bound
from jaxdiff.samplers import ode
from jaxdiff.timesteps import grid
from jaxdiff.types import Aux, Prediction

KEY, DATA_KEY = jax.random.key(0), jax.random.key(1)
BIT = math.log(2)
COSINE, LINEAR = schedules.cosine(), schedules.linear()
SCHEDULES = {"cosine": COSINE, "zero SNR": schedules.zero_terminal_snr(LINEAR), "linear": LINEAR}
MEAN, COV = np.array([0.5, -0.3, 0.1]), np.array([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.4]])
CLOUD = testing.gaussian(MEAN, COV)
THREE = testing.mixture([0.5, 0.3, 0.2], [[0.0, 0.0], [1.0, -0.5], [-0.6, 0.8]], [0.1, 0.02, 0.3])


def draw(data, schedule, n):
    """Examples at level 1."""
    keys = samplers.keys_for(DATA_KEY, n)
    x0 = data.sample(keys)
    alpha, sigma = schedule(1)
    return alpha * x0 + sigma * samplers.noise(keys, x0.shape[1:])


# The exact likelihood


@pytest.mark.parametrize("name", ["cosine", "zero SNR"])
@pytest.mark.parametrize("data", [CLOUD, THREE, testing.ring()], ids=["gaussian", "mixture", "ring"])
def test_the_flow_s_density_is_the_exact_one(data, name):
    """Of each example, to 1e-3 bits per dimension; less than a tenth of that is seen."""
    schedule = SCHEDULES[name]
    x = draw(data, schedule, 32)
    found = log_prob(None, data.denoiser(schedule), schedule, x, trace="exact")
    np.testing.assert_allclose(found, data.log_prob(schedule, x, 1), atol=1e-3 * BIT * x.shape[1])


def exact(schedule, x):
    """Of the cloud, float64: log N(x_T; 0, I) of where the flow ends, and the logarithm of how it stretches volumes."""
    x_T = np.asarray(CLOUD.flow(schedule, x, 1, schedule.num_levels), np.float64)
    covs = [CLOUD.moments(schedule, t)[1] for t in (1, schedule.num_levels)]
    return stats.norm.logpdf(x_T).sum(-1) + 0.5 * np.diff(np.linalg.slogdet(covs)[1])


def test_the_prior_is_standard_normal_whatever_the_last_level_is():
    """The linear schedule leaves 0.6% of the mean, which this prior has not; so the density is not quite the data's."""
    x = draw(CLOUD, LINEAR, 32)
    found, want = log_prob(None, CLOUD.denoiser(LINEAR), LINEAR, x, trace="exact"), exact(LINEAR, x)
    np.testing.assert_allclose(found, want, atol=1e-3)
    assert np.abs(want - CLOUD.log_prob(LINEAR, x, 1)).max() > 3e-3


def test_a_probe_gives_one_of_the_values_it_can_give_and_their_mean_is_the_trace():
    """For a Gaussian the integral of the Jacobian is a matrix M, the same at all x, and an estimate is z . M z for one z.

    Of the eight vectors of signs two at a time give the same, so that there are four values. The same probe is used along
    the whole path: one drawn anew for each evaluation would give averages of them.
    """
    x, denoise = draw(CLOUD, COSINE, 256), CLOUD.denoiser(COSINE)
    (low, axes), (high, _) = (np.linalg.eigh(CLOUD.moments(COSINE, t)[1]) for t in (1, 1000))
    M = axes @ np.diag(0.5 * np.log(high / low)) @ axes.T
    signs = np.array([(1, *rest) for rest in itertools.product([-1, 1], repeat=2)])
    values = np.einsum("zd,de,ze->z", signs, M, signs) - np.trace(M)
    assert np.diff(np.sort(values)).min() > 0.1 and abs(values.mean()) < 1e-9
    off = np.asarray(log_prob(KEY, denoise, COSINE, x) - CLOUD.log_prob(COSINE, x, 1))
    away = np.abs(off[:, None] - values)
    assert away.min(1).max() < 3e-3
    assert np.bincount(away.argmin(1)).min() > 40  # 64 of each are expected
    off = np.asarray(log_prob(KEY, denoise, COSINE, x, trace=32) - CLOUD.log_prob(COSINE, x, 1))
    std = values.std() / np.sqrt(32)
    assert abs(off.mean()) < 4 * std / 16 and off.std() == pytest.approx(std, rel=0.2)


def test_an_example_has_its_own_probe_wherever_it_is_in_a_batch():
    x, denoise = draw(CLOUD, COSINE, 256), CLOUD.denoiser(COSINE)
    of = lambda key, x: np.asarray(log_prob(key, denoise, COSINE, x))
    whole, keys = of(KEY, x), samplers.keys_for(KEY, 256)
    np.testing.assert_allclose(of(KEY, x[:2]), whole[:2], atol=1e-3)
    np.testing.assert_allclose(of(jnp.roll(keys, 5), jnp.roll(x, 5, axis=0)), np.roll(whole, 5), atol=1e-3)
    same = of(KEY, jnp.broadcast_to(x[:1], x.shape))
    assert same.max() - same.min() > 0.1


def test_fixed_steps_converge_at_the_solvers_order():
    x, counts = draw(THREE, COSINE, 32), [50, 200]
    want, errors = THREE.log_prob(COSINE, x, 1), []
    for count in counts:
        method = ode.fixed(count, diffrax.Heun())
        found = log_prob(None, THREE.denoiser(COSINE), COSINE, x, trace="exact", method=method)
        errors.append(float(jnp.sqrt(jnp.mean((found - want) ** 2))))
    assert abs(testing.order_of(counts, errors) - 2) < 0.3, errors


def test_tolerances_are_felt_and_too_few_steps_give_nan():
    x, denoise = draw(CLOUD, COSINE, 32), CLOUD.denoiser(COSINE)
    off = lambda *options: np.abs(
        log_prob(None, denoise, COSINE, x, trace="exact", method=ode.adaptive(*options)) - CLOUD.log_prob(COSINE, x, 1)
    ).max()
    assert off(1e-5, 1e-5) < 0.1 * off(1e-2, 1e-2)
    assert np.isnan(off(1e-5, 1e-5, 3))


def test_examples_of_any_shape_and_conditions():
    """Two examples of 1 x 3 x 1 numbers, each of data with its own variance: its density is N(0, a^2 var + s^2)."""

    def denoise(x_t, t, cond):
        alpha, sigma = COSINE(t)
        away = x_t / (alpha**2 * cond + sigma**2)
        return Prediction(alpha * cond * away, sigma * away)

    x, cond = jnp.array([[0.1, 0.2, -0.3], [1.0, 0.0, 0.4]]).reshape(2, 1, 3, 1), jnp.array([0.1, 0.6])
    cond = cond.reshape(2, 1, 1, 1)
    alpha, sigma = COSINE(1)
    want = stats.norm.logpdf(x, 0, np.sqrt(alpha**2 * cond + sigma**2)).sum((1, 2, 3))
    for key, trace in [(None, "exact"), (KEY, 1)]:  # a multiple of the identity is estimated without error
        np.testing.assert_allclose(log_prob(key, denoise, COSINE, x, cond, trace), want, atol=1e-3)


SMALL = UNetConfig(out_channels=1, channels=(8, 8), blocks=1, attention=(), mid_attention=False, groups=4)


def draw_images(n):
    return samplers.noise(samplers.keys_for(KEY, n), (4, 4, 1))


def shaken(seed):
    """Parameters of the small U-Net with nothing left at zero."""
    shapes = jax.eval_shape(lambda: UNet(SMALL).init(KEY, jnp.zeros([1, 4, 4, 1]), jnp.zeros([1])))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape).astype(np.float32), shapes)


def test_through_a_u_net_an_euler_step_is_what_differences_of_its_outputs_say():
    """The convolutions' own backward passes, in the solver's loop and under vmap; other weights compile nothing."""
    x, schedule, net, traces, counts = np.asarray(draw_images(2)), schedules.linear(20, 1e-3, 0.3), UNet(SMALL), [], []

    def counted(params, x_t, t, cond, keys=None):
        traces.append(1)
        return network(net)(params, x_t, t, cond, keys)

    begin, end = (float(ode.angle_of(schedule, t)) for t in (1, 20))
    h = 0.02 * np.eye(16, dtype=np.float32).reshape(16, 1, 4, 4, 1)
    around = np.concatenate([x[None], x + h, x - h]).reshape(66, 4, 4, 1)
    field = jax.jit(ode.velocity)
    for seed in (0, 1):
        denoise = denoiser(counted, shaken(seed), schedule)
        found = log_prob(None, denoise, schedule, x, trace="exact", method=ode.fixed(1, diffrax.Euler()))
        counts.append(len(traces))
        v = field(denoiser(network(net), shaken(seed), schedule), schedule, None, begin, around).reshape(33, 2, 16)
        grown = (end - begin) * np.einsum("dbd->b", v[1:17] - v[17:]) / 0.04
        want = stats.norm.logpdf(x.reshape(2, 16) + (end - begin) * v[0]).sum(1) + grown
        np.testing.assert_allclose(found, want, atol=2e-3)
        assert np.abs(grown).min() > 0.1
    assert counts[0] == counts[1] > 0


def test_other_values_compile_nothing():
    """Weights, schedule, key and tolerances."""
    traces = []

    def apply(params, x_t, t, cond, keys=None):
        traces.append(1)
        return jnp.tanh(params * x_t), Aux()

    def run(weight, schedule, tolerance, key):
        x, denoise = draw_images(2), denoiser(apply, jnp.float32(weight), schedule)
        density = log_prob(key, denoise, schedule, x, method=ode.adaptive(tolerance, tolerance))
        bound = variational_bound(key, denoise, schedule, grid(20, 5), jnp.clip(x, -1, 1))
        return np.append(density, bound.total), len(traces)

    some, before = run(0.5, schedules.linear(20, 1e-3, 0.3), 1e-2, KEY)
    others, after = run(0.7, schedules.linear(20, 1e-4, 0.4), 1e-3, jax.random.key(2))
    assert after == before > 0
    assert np.all(np.isfinite([some, others])) and np.abs(some - others).min() > 1e-3


# The variational bound


def quantized(n):
    """Data of 256 values, hardly any at the edges."""
    data = testing.gaussian([0.1, -0.2], [[0.05, 0.02], [0.02, 0.04]])
    return data, jnp.round(127.5 * (data.sample(samplers.keys_for(DATA_KEY, n)) + 1)) / 127.5 - 1


def test_every_term_is_what_is_expected_of_gaussian_data():
    """20,000 examples, to five standard errors.

    The exact guess of x_0 is off by the covariance S of x_0 given x_t, whatever x_t is: a step costs
    (snr_s - snr_t) trace(S) / 2 nats (Kingma et al. 2021, eq. 13), the last one -log of a bin under N(guess, std^2).
    """
    schedule, levels = schedules.linear(100, 1e-3, 0.05), np.array([100, 70, 30, 10, 3, 0])
    data, x0 = quantized(20_000)
    bound = variational_bound(KEY, data.denoiser(schedule), schedule, levels, x0)
    assert bound.prior.shape == bound.total.shape == (20_000,) and bound.steps.shape == (5, 20_000)
    np.testing.assert_allclose(bound.total, bound.prior + bound.steps.sum(0), rtol=1e-5)
    abar = np.append(1.0, np.cumprod(1 - np.linspace(1e-3, 0.05, 100)))
    want = (abar[100] * np.square(x0).mean(-1) - abar[100] - np.log1p(-abar[100])) / 2 / BIT
    np.testing.assert_allclose(bound.prior, want, rtol=1e-4)
    cov = np.array([[0.05, 0.02], [0.02, 0.04]]) + np.eye(2) / 127.5**2 / 12  # rounding adds a little
    for t, s, found in zip(levels[:-2], levels[1:-1], np.asarray(bound.steps, np.float64)):
        left = np.linalg.inv(np.linalg.inv(cov) + abar[t] / (1 - abar[t]) * np.eye(2))
        want = (abar[s] / (1 - abar[s]) - abar[t] / (1 - abar[t])) * np.trace(left) / 4 / BIT
        assert abs(found.mean() - want) < 5 * found.std() / np.sqrt(20_000), (t, s)
    # The decoder, by draws of its own: its std is that of the step before, 10 -> 3.
    x_t = np.sqrt(abar[3]) * x0 + np.sqrt(1 - abar[3]) * np.random.default_rng(0).normal(size=x0.shape)
    guess = np.asarray(data.denoiser(schedule)(jnp.asarray(x_t, jnp.float32), 3, None).x0)
    std = np.sqrt((1 - abar[3]) / (1 - abar[10]) * (1 - abar[10] / abar[3]))
    away, half = np.abs(guess - np.asarray(x0)), 1 / 255
    want = -np.log(special.ndtr((half - away) / std) - special.ndtr((-half - away) / std)).mean(-1) / BIT
    found = np.asarray(bound.steps[-1], np.float64)
    assert abs(found.mean() - want.mean()) < 5 * np.hypot(found.std(), want.std()) / np.sqrt(20_000)


@pytest.mark.parametrize("variance", ["posterior", "beta", "learned"])
def test_a_grid_that_skips_levels_is_the_bound_of_the_shorter_chain(variance):
    """The chain of these levels as a schedule of its own; the draws are the same, since they go by the step."""
    long, levels = schedules.linear(100, 1e-3, 0.2), np.array([100, 55, 20, 6, 0])
    abar = np.append(1.0, np.cumprod(1 - np.linspace(1e-3, 0.2, 100)))[levels[::-1]]
    short, (data, x0) = schedules.from_betas(1 - abar[1:] / abar[:-1]), quantized(16)

    def guess(schedule, x_t, t, cond):
        said = data.denoiser(schedule)(x_t, t, cond)
        return said._replace(aux=Aux(variance=jnp.sin(3 * said.x0)))

    of = lambda schedule, levels: variational_bound(
        KEY, Partial(guess, schedule), schedule, levels, x0, variance=variance
    )
    for found, want in zip(of(long, levels), of(short, np.arange(4, -1, -1))):
        np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-4)


def test_an_example_s_bound_does_not_depend_on_its_batch():
    data, x0 = quantized(6)
    denoise, schedule = data.denoiser(LINEAR), LINEAR
    whole = variational_bound(KEY, denoise, schedule, grid(1000, 10), x0)
    for key, rows in [(KEY, slice(0, 3)), (samplers.keys_for(KEY, 6)[3:], slice(3, 6))]:
        part = variational_bound(key, denoise, schedule, grid(1000, 10), x0[rows])
        np.testing.assert_allclose(part.steps, whole.steps[:, rows], rtol=1e-4, atol=1e-5)
    assert np.abs(np.diff(variational_bound(KEY, denoise, schedule, grid(1000, 10), x0[:1].repeat(2, 0)).total)) > 1e-3


# Real numbers and values


def test_dequantized_images_are_uniform_within_their_bins():
    images = np.random.default_rng(0).integers(0, 256, (4, 2000), np.uint8)
    x = np.asarray(dequantize(samplers.keys_for(KEY, 4), images), np.float64)
    within = (x + 1) * 127.5 - images
    assert np.abs(within).max() <= 0.5 + 1e-4
    assert stats.kstest(within.ravel() + 0.5, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(dequantize(samplers.keys_for(KEY, 2), images[:2]), x[:2], atol=1e-7)
    assert np.abs(within[0] - within[1]).max() > 0.5  # each by its own key


def test_bits_of_a_density_bound_those_of_the_values():
    """A smooth density hardly varies within a bin, so that the bound is met."""
    images = np.tile(np.array([0, 20, 128, 200], np.uint8), (2000, 1))
    x = np.asarray(dequantize(samplers.keys_for(KEY, 2000), images), np.float64)
    bits = np.asarray(bits_per_dim(jnp.asarray(stats.norm.logpdf(x, 0.1, 0.7).sum(-1)), (2, 2)))
    edges = (images[0] + np.array([[-0.5], [0.5]])) / 127.5 - 1
    want = -np.log2(np.diff(stats.norm.cdf(edges, 0.1, 0.7), axis=0)).mean()
    assert abs(bits.mean() - want) < 1e-3 and bits.mean() > want - 5 * bits.std() / np.sqrt(2000)


def test_what_makes_no_sense_is_refused():
    x, denoise = jnp.zeros([2, 3]), CLOUD.denoiser(LINEAR)
    for levels in ([1000, 500, 1], [999, 500, 0], [1000, 0]):
        with pytest.raises(ValueError, match="falling levels from 1000 to 0 in at least 2 steps"):
            variational_bound(KEY, denoise, LINEAR, levels, x)
    for levels in ([1000, 0, 500, 0], [[1000, 500, 0]]):
        with pytest.raises(ValueError, match="`timesteps` must"):
            variational_bound(KEY, denoise, LINEAR, levels, x)
    with pytest.raises(ValueError, match="unknown variance 'small'"):
        variational_bound(KEY, denoise, LINEAR, grid(1000, 4), x, variance="small")
    with pytest.raises(ValueError, match="needs a network with 2C output channels"):
        variational_bound(KEY, denoise, LINEAR, grid(1000, 4), x, variance="learned")
    for trace, message in (
        (0, "`trace`=0 must be at least 1"),
        ("precise", 'number of probes, at least 1, or "exact"'),
    ):
        with pytest.raises(ValueError, match=message):
            log_prob(KEY, denoise, LINEAR, x, trace=trace)
    with pytest.raises(ValueError, match=r'give log_prob a random key, or trace="exact"'):
        log_prob(None, denoise, LINEAR, x)
    density = lambda key: log_prob(key, denoise, LINEAR, x)
    bound = lambda key: variational_bound(key, denoise, LINEAR, grid(1000, 4), x)
    for call in (density, bound):
        with pytest.raises(TypeError, match="typed random key"):
            call(jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match="images must be uint8"):
        dequantize(samplers.keys_for(KEY, 2), x)
