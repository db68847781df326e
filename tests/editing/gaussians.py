"""Data N(mean, variance) with the mean in the condition, and the exact variance of samples, as every step is affine."""

import itertools

import numpy as np

from jaxdiff.process import predict_from


def denoiser(schedule, variance):
    """E[x0 | x_t] for data N(cond.context, variance)."""

    def denoise(x_t, t, cond):
        alpha, sigma = schedule(t)
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return predict_from("x0", schedule, cond.context + gain * (x_t - alpha * cond.context), x_t, t)

    return denoise


def ancestral_variance(schedule, levels, variance, start):
    """Variance after ancestral steps along the levels, in float64, from x of variance `start`."""
    found = start
    for t, s in itertools.pairwise(levels):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, schedule(level)) for level in (t, s))
        gain = alpha_t * variance / (alpha_t**2 * variance + sigma_t**2)  # x0 as a multiple of x_t
        std = sigma_s / sigma_t * np.sqrt(sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2)
        factor = alpha_s * gain + np.sqrt(sigma_s**2 - std**2) * (1 - alpha_t * gain) / sigma_t
        found = factor**2 * found + std**2
    return found
