"""Dual diffusion implicit bridges between Gaussians, whose flows are known."""

import jax
import numpy as np

from jaxdiff import editing, samplers, schedules, testing, timesteps

SCHEDULE = schedules.linear(1000)
A = testing.gaussian([0.5, -0.3], [[0.5, 0.2], [0.2, 0.3]])
B = testing.gaussian([-1.0, 0.4], [[0.3, -0.1], [-0.1, 0.8]])
X = A.flow(SCHEDULE, samplers.noise(samplers.keys_for(jax.random.key(0), 64), (2,)), 1000, 1)


def bridged(data_a, data_b, x, schedule=SCHEDULE, **how):
    levels = timesteps.grid_by_sigma(schedule, 200, end=1)
    return editing.bridge(data_a.denoiser(schedule), data_b.denoiser(schedule), schedule, levels, x, **how)


def test_it_is_the_composition_of_both_flows():
    wanted = B.flow(SCHEDULE, A.flow(SCHEDULE, X, 1, 1000), 1000, 1)
    found = bridged(A, B, X, inversion_sampler=samplers.heun(), sampler=samplers.heun())
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    rough = np.abs(bridged(A, B, X) - wanted).max()  # by DDIM, of first order
    assert 1e-3 < rough < 0.1, rough


def test_between_commuting_covariances_it_is_optimal_transport():
    """x -> mu_b + S_b^(1/2) S_a^(-1/2) (x - mu_a) at level 1, with a schedule that leaves no signal at level T."""
    schedule = schedules.linear(1000, beta_end=0.04)  # alpha_T is 5e-5
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0]
    data = ([0.0, 1.0], [0.2, 0.5]), ([1.0, 0.0], [0.9, 0.1])
    a, b = (testing.gaussian(mean, turn @ np.diag(variances) @ turn.T) for mean, variances in data)
    found = bridged(a, b, X, schedule, inversion_sampler=samplers.heun(), sampler=samplers.heun())
    (mu_a, cov_a), (mu_b, cov_b) = a.moments(schedule, 1), b.moments(schedule, 1)
    root = lambda cov: turn @ np.diag(np.sqrt(np.diag(turn.T @ cov @ turn))) @ turn.T
    wanted = mu_b + (np.asarray(X) - mu_a) @ (np.linalg.inv(root(cov_a)) @ root(cov_b)).T
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_there_and_back():
    once = bridged(A, B, X, inversion_sampler=samplers.heun(), sampler=samplers.heun())
    again = bridged(B, A, once, inversion_sampler=samplers.heun(), sampler=samplers.heun())
    np.testing.assert_allclose(again, X, atol=2e-3)
