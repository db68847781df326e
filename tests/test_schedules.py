"""Noise schedules: against diffusers' tables, float64 formulas, and their documented properties."""

import decimal
import math
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jaxdiff import schedules, testing

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "tables.npz")
MAKERS = {"linear": schedules.linear, "scaled_linear": schedules.scaled_linear, "cosine": schedules.cosine}
PURE_NOISE = schedules.from_betas([0.1, 0.3, 0.6, 1.0])  # zero signal-to-noise at its last level


@pytest.mark.parametrize("T", [1000, 400])
@pytest.mark.parametrize("name", MAKERS)
def test_tables_are_diffusers(name, T):
    schedule = MAKERS[name](T)
    for table in ("betas", "alphas_cumprod"):
        ours, theirs = np.asarray(getattr(schedule, table)), GOLDEN[f"{name}/{T}/{table}"]
        assert ours.shape == (T + 1,)
        np.testing.assert_allclose(ours[1:], theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("make", MAKERS.values())
def test_level_0_is_clean_data(make):
    schedule = make(50)
    assert schedule.num_levels == 50
    assert (float(schedule.betas[0]), float(schedule.alphas_cumprod[0])) == (0.0, 1.0)
    assert tuple(map(float, schedule(0))) == (1.0, 0.0)


def test_tables_are_computed_in_float64():
    """In float32, 1 - alphabar would leave three digits of sigma at the first levels."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    schedule = schedules.linear(1000)
    np.testing.assert_allclose(schedule.sigma[1:], np.sqrt(1 - abar), rtol=2e-7)
    np.testing.assert_allclose(schedule.alpha[1:], np.sqrt(abar), rtol=2e-7)
    assert {leaf.dtype for leaf in jax.tree.leaves(schedule)} == {np.dtype("float32")}


def test_the_arguments_have_effect():
    np.testing.assert_allclose(schedules.linear(3, 0.1, 0.3).betas, [0, 0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(schedules.scaled_linear(3, 0.01, 0.09).betas, [0, 0.01, 0.04, 0.09], rtol=1e-6)
    assert float(schedules.cosine(100, beta_max=0.5).betas.max()) == 0.5
    # With s = 1/2 the squared cosine falls from cos^2(pi/6) = 3/4, and is 1/2 at a quarter of T.
    np.testing.assert_allclose(schedules.cosine(100, s=0.5).alphas_cumprod[25], (1 / 2) / (3 / 4), rtol=1e-6)


@pytest.mark.parametrize(
    "betas", [[], [0.1, 0.0], [-0.1], [1.1], [0.1, np.nan], [[0.1]], 0.1], ids=lambda betas: str(betas)
)
def test_betas_that_are_no_variances_are_refused(betas):
    with pytest.raises(ValueError, match=r"numbers in \(0, 1\]"):
        schedules.from_betas(betas)


class AtLevels(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_integer_levels_look_up_the_tables_in_any_shape(self):
        schedule, t = schedules.linear(20), jnp.array([[0, 1, 7], [20, 19, 7]])
        alpha, sigma = self.variant(lambda schedule, t: schedule(t))(schedule, t)
        np.testing.assert_array_equal(alpha, np.asarray(schedule.alpha)[t])
        np.testing.assert_array_equal(sigma, np.asarray(schedule.sigma)[t])

    @chex.variants(with_jit=True, without_jit=True)
    def test_float_levels_meet_the_tables_at_integers(self):
        for schedule in (schedules.linear(20), PURE_NOISE):
            alpha, sigma = self.variant(lambda t, schedule=schedule: schedule(t))(jnp.arange(schedule.num_levels + 1.0))
            np.testing.assert_allclose(alpha, schedule.alpha, atol=3e-7)
            np.testing.assert_allclose(sigma, schedule.sigma, atol=3e-7)

    @chex.variants(with_jit=True, without_jit=True)
    def test_between_levels_the_angle_is_linear(self):
        """Level 2 + w between levels 2 and 3 is at the weighted mean of their angles; alpha^2 + sigma^2 stays 1."""
        for schedule in (schedules.linear(20), PURE_NOISE):
            last, w = schedule.num_levels, 0.3
            t = jnp.array([2 + w, last - 1 + w])
            alpha, sigma = self.variant(lambda t, schedule=schedule: schedule(t))(t)
            np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)
            angle = np.arccos(np.asarray(schedule.alpha, np.float64))
            want = (1 - w) * angle[[2, last - 1]] + w * angle[[3, last]]
            np.testing.assert_allclose(np.arctan2(sigma, alpha), want, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(-1, 21, 1000, -21, -0.5, 20.5, 21.0, np.nan)
    def test_levels_that_do_not_exist_are_nan(self, t):
        alpha, sigma = self.variant(schedules.linear(20).__call__)(t)
        assert np.isnan(alpha) and np.isnan(sigma)

    @chex.variants(with_jit=True, without_jit=True)
    def test_the_gradient_in_t_is_the_slope(self):
        schedule = PURE_NOISE
        slope = self.variant(jax.vmap(jax.jacfwd(lambda t: jnp.stack(schedule(t)))))(jnp.array([1.5, 2.25, 3.75]))
        angle = np.arccos(np.asarray(schedule.alpha, np.float64))
        rate = np.diff(angle)[[1, 2, 3]]
        at = angle[[1, 2, 3]] + np.array([0.5, 0.25, 0.75]) * rate
        np.testing.assert_allclose(slope, np.stack([-np.sin(at) * rate, np.cos(at) * rate], 1), rtol=1e-5)
        assert np.isfinite(self.variant(jax.grad(lambda t: schedule(t).alpha))(4.0))


def test_vmap_over_levels_and_over_schedules():
    schedule, t = schedules.cosine(10), jnp.arange(11)
    chex.assert_trees_all_equal(jax.vmap(schedule)(t), schedule(t))
    both = jax.tree.map(lambda *tables: jnp.stack(tables), schedule, schedules.linear(10))
    alpha, _ = jax.vmap(lambda schedule: schedule(4))(both)
    chex.assert_trees_all_equal(alpha, jnp.stack([schedule.alpha[4], schedules.linear(10).alpha[4]]))


def test_log_snr_of_a_level():
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    schedule = schedules.linear(1000)
    np.testing.assert_allclose(
        schedule(jnp.array([1, 500, 1000])).log_snr, np.log(abar / (1 - abar))[[0, 499, 999]], rtol=1e-5
    )
    assert schedule(0).log_snr == np.inf
    assert PURE_NOISE(4).log_snr == -np.inf


# Sigmoid, zero terminal signal-to-noise, shift and log-SNR: expected alphabar of levels 0..T in float64


def linear_abar(T):
    return np.cumprod(np.append(1.0, 1 - np.linspace(1e-4, 0.02, T)))


def cosine_abar(T):
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(np.append(1.0, 1 - np.minimum(1 - f[1:] / f[:-1], 0.999)))


def sigmoid_abar(T, start=-3, end=3, tau=1.0, clip_min=1e-9):
    """A difference of sigmoids is sinh((b - a) / 2) / (2 cosh(a / 2) cosh(b / 2))."""
    x = (start + (end - start) * np.arange(T + 1) / T) / (2 * tau)
    x0, x1 = start / (2 * tau), end / (2 * tau)
    return np.clip(np.sinh(x1 - x) * np.cosh(x0) / (np.sinh(x1 - x0) * np.cosh(x)), clip_min, 1)


def zero_terminal_abar(abar):
    """Lin et al. 2024, algorithm 1."""
    root = np.sqrt(abar[1:])
    return np.append(1.0, ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)


def shifted_abar(abar, factor):
    """sigmoid(log_snr - 2 log(factor)), written as odds."""
    return abar / (abar + factor**2 * (1 - abar))


LOG_SNR = np.linspace(9.0, -7.0, 1000) + 0.005 * np.sin(np.arange(1000))
NEW = {  # of 1000 levels each, to share compilations
    "sigmoid": (schedules.sigmoid(), sigmoid_abar(1000)),
    "sigmoid of other ends": (schedules.sigmoid(1000, 0.0, 3.0, 0.7), sigmoid_abar(1000, 0, 3, 0.7)),
    "sigmoid to zero SNR": (schedules.sigmoid(1000, clip_min=0), sigmoid_abar(1000, clip_min=0)),
    "zero terminal linear": (schedules.zero_terminal_snr(schedules.linear()), zero_terminal_abar(linear_abar(1000))),
    "zero terminal cosine": (schedules.zero_terminal_snr(schedules.cosine()), zero_terminal_abar(cosine_abar(1000))),
    "zero terminal sigmoid": (schedules.zero_terminal_snr(schedules.sigmoid()), zero_terminal_abar(sigmoid_abar(1000))),
    "shifted linear": (schedules.shift(schedules.linear(), 4.0), shifted_abar(linear_abar(1000), 4)),
    "shifted back": (schedules.shift(schedules.linear(), 0.25), shifted_abar(linear_abar(1000), 0.25)),
    "shifted zero terminal": (
        schedules.shift(schedules.zero_terminal_snr(schedules.linear()), 2),
        shifted_abar(zero_terminal_abar(linear_abar(1000)), 2),
    ),
    "log-SNR": (schedules.from_log_snr(LOG_SNR), np.append(1.0, 1 / (1 + np.exp(-LOG_SNR)))),
    "log-SNR to zero SNR": (
        schedules.from_log_snr(np.append(LOG_SNR[:-1], -np.inf)),
        np.concatenate([[1.0], 1 / (1 + np.exp(-LOG_SNR[:-1])), [0.0]]),
    ),
}
new = pytest.mark.parametrize("schedule, abar", NEW.values(), ids=NEW)


@new
def test_new_schedules_are_schedules(schedule, abar):
    assert schedule.num_levels == len(abar) - 1
    assert {leaf.dtype for leaf in jax.tree.leaves(schedule)} == {np.dtype("float32")}
    betas = np.asarray(schedule.betas)
    assert betas[0] == 0 and np.all((betas[1:] > 0) & (betas[1:] <= 1))
    testing.check_schedule(schedule)


@new
def test_new_tables_are_accurate(schedule, abar):
    """All tables to a relative error of a few roundings of float32, at both ends; also those made of float32 tables.

    By the formula as it is written, from float32 tables, sigma of a zero terminal schedule would be off by up to 5e-4.
    """
    close = lambda table, want: np.testing.assert_allclose(table[1:], want[1:], rtol=1e-6)
    close(schedule.alphas_cumprod, abar)
    close(schedule.alpha, np.sqrt(abar))
    close(schedule.sigma, np.sqrt(1 - abar))
    close(schedule.betas, np.append(0.0, 1 - abar[1:] / abar[:-1]))


@new
def test_new_schedules_are_linear_in_the_angle_between_levels(schedule, abar):
    """Accurate also next to pure noise, where the cosine of a float32 angle has few digits."""
    angle, T = np.arctan2(np.sqrt(1 - abar), np.sqrt(abar)), len(abar) - 1
    low = np.concatenate([np.arange(0, T, max(1, T // 50)), [1, T - 1]])
    w = np.random.default_rng(0).integers(1, 16, low.shape) / 16  # float32 holds low + w
    want = (1 - w) * angle[low] + w * angle[low + 1]
    alpha, sigma = schedule(jnp.asarray(low + w, jnp.float32))
    np.testing.assert_allclose(alpha, np.cos(want), rtol=2e-6)
    np.testing.assert_allclose(sigma, np.sin(want), rtol=2e-6)
    t = jnp.arange(T + 1)
    chex.assert_trees_all_equal(schedule(t.astype(jnp.float32)), schedule(t))


def test_sigmoid_ends_where_it_is_clipped():
    assert float(schedules.sigmoid().alphas_cumprod[-1]) == pytest.approx(1e-9)
    assert float(schedules.sigmoid(clip_min=1e-4).alphas_cumprod[-1]) == pytest.approx(1e-4)
    zero_snr = schedules.sigmoid(clip_min=0.0)
    assert (float(zero_snr.alpha[-1]), float(zero_snr.betas[-1])) == (0.0, 1.0)


@pytest.mark.parametrize("T", [1000, 400])
@pytest.mark.parametrize("name", MAKERS)
def test_zero_terminal_is_diffusers(name, T):
    schedule = schedules.zero_terminal_snr(MAKERS[name](T))
    for table in ("betas", "alphas_cumprod"):
        theirs = GOLDEN[f"zero_terminal/{name}/{T}/{table}"]
        np.testing.assert_allclose(getattr(schedule, table)[1:], theirs, rtol=1e-5, atol=1e-12)


def test_zero_terminal_does_not_change_the_first_level_and_is_idempotent():
    linear = schedules.linear()
    once = schedules.zero_terminal_snr(linear)
    np.testing.assert_allclose([x[1] for x in once[:4]], [x[1] for x in linear[:4]], rtol=2e-7)
    assert tuple(map(float, once(1000))) == (0.0, 1.0) and float(once.betas[-1]) == 1
    chex.assert_trees_all_close(schedules.zero_terminal_snr(once), once, rtol=1e-6, atol=0)


def test_shift_undoes_the_averaging_of_pixels():
    """2 x 2 pixels of one color, noised by the schedule for twice the side and averaged, are the small image's x_t."""
    small = schedules.cosine(100)
    large, t = schedules.shift(small, 2.0), jnp.arange(1, 101)
    (alpha, sigma), (alpha_2, sigma_2) = small(t), large(t)
    np.testing.assert_allclose((sigma_2 / 2) / alpha_2, sigma / alpha, rtol=1e-6)
    np.testing.assert_allclose(large(t).log_snr, small(t).log_snr - 2 * math.log(2), rtol=1e-5, atol=1e-5)


def test_shifts_multiply():
    schedule = schedules.zero_terminal_snr(schedules.linear(100))
    thrice = schedules.shift(schedules.shift(schedules.shift(schedule, 4), 0.5), 3)
    chex.assert_trees_all_close(thrice, schedules.shift(schedule, 6.0), rtol=1e-6, atol=0)
    chex.assert_trees_all_close(schedules.shift(schedule, 1.0), schedule, rtol=2e-7, atol=0)


def test_log_snr_of_any_size_is_accurate():
    """Against decimals of 60 digits; 1 - alphabar would be 0 in float64 at the first level."""
    log_snr = [40, 39.875, 20, 0.5, 0.25, -10, -30, -30.125, -40]
    schedule = schedules.from_log_snr([*log_snr, -np.inf])
    with decimal.localcontext(prec=60):
        abar = [1 / (1 + (-decimal.Decimal(l)).exp()) for l in log_snr]
        ratios = [b / a for a, b in zip([1, *abar], [*abar, 0])]
        want = {
            "betas": [float(1 - ratio) for ratio in ratios],
            "alphas_cumprod": [*map(float, abar), 0.0],
            "alpha": [*(float(a.sqrt()) for a in abar), 0.0],
            "sigma": [*(float((1 - a).sqrt()) for a in abar), 1.0],
        }
    for name, table in want.items():
        np.testing.assert_allclose(getattr(schedule, name)[1:], table, rtol=1e-7, err_msg=name)
    testing.check_schedule(schedule)


def test_one_level_may_go_straight_to_pure_noise():
    chex.assert_trees_all_equal(schedules.from_log_snr([-np.inf]), schedules.from_betas([1.0]))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: schedules.sigmoid(start=3, end=-3), "`start`=3 must be below `end`=-3"),
        (lambda: schedules.sigmoid(tau=0.0), "`tau`=0.0 above 0"),
        (lambda: schedules.sigmoid(tau=0.01), "use a larger `tau`"),
        (lambda: schedules.sigmoid(clip_min=0.1), "smaller `clip_min`"),
        (lambda: schedules.zero_terminal_snr(schedules.from_betas([0.5])), "at least two levels"),
        (lambda: schedules.shift(schedules.linear(10), 0.0), "`factor`=0.0 must be a finite number above 0"),
        (lambda: schedules.shift(schedules.linear(10), -2), "above 0"),
        (lambda: schedules.shift(schedules.linear(10), np.inf), "finite"),
        (lambda: schedules.shift(schedules.linear(10), np.nan), "finite"),
    ],
)
def test_impossible_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "log_snr",
    [
        *([], 1.0, [[1.0]], [1.0, 1.0], [1.0, 2.0], [1.0, np.nan], [np.nan], [np.inf, 1.0], [41.0, 0.0], [0.0, -41.0]),
        *([0.0, -np.inf, -np.inf], [-np.inf, 0.0]),
    ],
    ids=str,
)
def test_log_snr_that_does_not_fall_is_refused(log_snr):
    with pytest.raises(ValueError, match="falling numbers from -40 to 40; the last may be -inf"):
        schedules.from_log_snr(log_snr)
