"""Noise schedules: against diffusers' tables, float64 formulas, and their own promises."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jaxdiff import schedules

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
    assert schedule.num_steps == 50
    assert (float(schedule.betas[0]), float(schedule.alphas_cumprod[0])) == (0.0, 1.0)
    assert tuple(map(float, schedule(0))) == (1.0, 0.0)


def test_tables_are_computed_in_float64():
    """In float32, 1 - alphabar would leave three digits of sigma at the first levels."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    schedule = schedules.linear(1000)
    np.testing.assert_allclose(schedule.sigma[1:], np.sqrt(1 - abar), rtol=2e-7)
    np.testing.assert_allclose(schedule.alpha[1:], np.sqrt(abar), rtol=2e-7)
    assert {leaf.dtype for leaf in jax.tree.leaves(schedule)} == {np.dtype("float32")}


def test_the_arguments_count():
    np.testing.assert_allclose(schedules.linear(3, 0.1, 0.3).betas, [0, 0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(schedules.scaled_linear(3, 0.01, 0.09).betas, [0, 0.01, 0.04, 0.09], rtol=1e-6)
    assert float(schedules.cosine(100, beta_max=0.5).betas.max()) == 0.5
    # With s = 1/2 the squared cosine falls from cos^2(pi/6) = 3/4, and is 1/2 at a quarter of the way.
    np.testing.assert_allclose(schedules.cosine(100, s=0.5).alphas_cumprod[25], (1 / 2) / (3 / 4), rtol=1e-6)


@pytest.mark.parametrize(
    "betas", [[], [0.1, 0.0], [-0.1], [1.1], [0.1, np.nan], [[0.1]], 0.1], ids=lambda betas: str(betas)
)
def test_betas_that_are_no_variances_are_refused(betas):
    with pytest.raises(ValueError, match=r"numbers in \(0, 1\]"):
        schedules.from_betas(betas)


class Reading(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_integer_levels_read_the_tables_in_any_shape(self):
        schedule, t = schedules.linear(20), jnp.array([[0, 1, 7], [20, 19, 7]])
        alpha, sigma = self.variant(lambda schedule, t: schedule(t))(schedule, t)
        np.testing.assert_array_equal(alpha, np.asarray(schedule.alpha)[t])
        np.testing.assert_array_equal(sigma, np.asarray(schedule.sigma)[t])

    @chex.variants(with_jit=True, without_jit=True)
    def test_float_levels_meet_the_tables_at_integers(self):
        for schedule in (schedules.linear(20), PURE_NOISE):
            alpha, sigma = self.variant(lambda t, schedule=schedule: schedule(t))(jnp.arange(schedule.num_steps + 1.0))
            np.testing.assert_allclose(alpha, schedule.alpha, atol=3e-7)
            np.testing.assert_allclose(sigma, schedule.sigma, atol=3e-7)

    @chex.variants(with_jit=True, without_jit=True)
    def test_between_levels_the_angle_is_linear(self):
        """Level 2 + w between levels 2 and 3 is at the weighted mean of their angles; alpha^2 + sigma^2 stays 1."""
        for schedule in (schedules.linear(20), PURE_NOISE):
            last, w = schedule.num_steps, 0.3
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
