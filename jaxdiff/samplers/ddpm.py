"""Ancestral sampling, the sampler of DDPM."""

import jax
from jax.tree_util import Partial

from jaxdiff.process import VARIANCES, p_step
from jaxdiff.samplers.base import Sampler, State, normal
from jaxdiff.types import Static


def ddpm(variance: str = "posterior") -> Sampler:
    """Ancestral sampling (Ho, Jain and Abbeel 2020, algorithm 2), also on grids that skip levels.

    Args:
      variance: "posterior" (the paper's fixed-small), "beta" (fixed-large) or "learned"; see `process.p_posterior`.

    Returns:
      `Sampler`; it needs a random key.

    Raises:
      ValueError: unknown variance.
    """
    if variance not in VARIANCES:
        raise ValueError(f"unknown variance {variance!r}: one of {', '.join(VARIANCES)}")
    return Sampler(Partial(State), Partial(_step, Static(variance)))


def _step(variance, keys, denoise, schedule, state, t, s, cond):
    if keys is None:
        raise ValueError("ancestral sampling draws noise: give sample() a random key")
    prediction = denoise(state.x, t, cond)
    z = normal(keys, state.x.shape[1:])
    ancestral = lambda prediction, x, z: p_step(schedule, prediction, x, t, s, z, variance=variance.value)
    return State(jax.vmap(ancestral)(prediction, state.x, z)), prediction
