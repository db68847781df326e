r"""Weights of levels in the loss: functions w(schedule, t, predict) -> [B] that multiply the squared error.

An error d of x0 corresponds to d alpha / sigma in eps, d (alpha^2 + sigma^2) / sigma in v, d alpha / sigma^2 in the score
and d (alpha + sigma) / sigma in the flow, so that a weight W of the x0 error is, for the error of

  (1)  x0: W,   eps: W / snr,   v: W sigma^2 / (alpha^2 + sigma^2)^2,   score: W sigma^2 / snr,
       flow: W sigma^2 / (alpha + sigma)^2,   snr = alpha^2 / sigma^2

of which that of v is W / (snr + 1) where variance is preserved. The variational bound of equal steps (Kingma et al.
2021, VDM, eq. 13) gives level t

  (2)  W_t = T/2 (snr_{t-1} - snr_t) for t > 1,   W_1 = T / (2 sigma_1^2)

whose mean over t is the sum of the bound's terms; at level 1, a decoder N(x0, sigma_1^2) instead of DDPM's discretised one.
"""

import jax
import jax.numpy as jnp

from jaxdiff.arguments import AT_LEAST_0, check_number
from jaxdiff.errors import unknown
from jaxdiff.process import KINDS
from jaxdiff.registry import Registry
from jaxdiff.schedules import Schedule, lookup
from jaxdiff.types import Array

WEIGHTINGS = Registry("weighting")  # each choice is called as choice(schedule, t, predict) -> w [B]
POSITIVE = "be above 0", lambda x: x > 0  # for `check_number`


@WEIGHTINGS.register("simple")
def simple(schedule: Schedule, t: Array, predict: str) -> Array:
    """Equal weights of all levels, w = 1: DDPM's L_simple (Ho et al. 2020, eq. 14).

    Args:
      schedule: noise schedule; without effect.
      t: levels, int [B].
      predict: kind of the network's output; without effect.

    Returns:
      Ones, float32 [B].

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.objectives import weightings
        >>> weightings.simple(jaxdiff.schedules.linear(), jnp.array([1, 1000]), "eps").tolist()
        [1.0, 1.0]
    """
    del schedule, predict
    return jnp.ones(jnp.shape(t), jnp.float32)


@WEIGHTINGS.register("min_snr")
def min_snr(schedule: Schedule, t: Array, predict: str, gamma: float = 5.0) -> Array:
    """The x0 error weighted by min(snr, gamma), in terms of the network's target (Hang et al. 2023, section 3.4).

    Levels with little noise then have less weight, and those that determine shape more. A level without signal has weight
    0: use another weighting with zero terminal signal-to-noise.

    Args:
      schedule: noise schedule.
      t: levels in 1..T, int [B]; for "eps" and "score" levels with a signal-to-noise ratio above 0.
      predict: kind of the network's output, "eps", "x0", "v", "score" or "flow".
      gamma: upper limit of the weight of the x0 error.

    Returns:
      w, float32 [B].

    Raises:
      ValueError: unknown kind; a gamma that is not above 0, unless it is traced.

    Example::

        >>> import jaxdiff
        >>> from jaxdiff.objectives import weightings
        >>> schedule = jaxdiff.schedules.from_betas([0.36])  # alpha = 0.8, sigma = 0.6, snr = 16 / 9
        >>> kinds = ("x0", "eps", "v", "score")
        >>> {kind: round(float(weightings.min_snr(schedule, 1, kind, gamma=1.0)), 4) for kind in kinds}
        {'x0': 1.0, 'eps': 0.5625, 'v': 0.36, 'score': 0.2025}
    """
    check_number("gamma", gamma, *POSITIVE)
    return _for_kind(predict, jnp.minimum(_snr(schedule, t), gamma), schedule, t)


@WEIGHTINGS.register("p2")
def p2(schedule: Schedule, t: Array, predict: str, k: float = 1.0, gamma: float = 1.0) -> Array:
    """The eps error weighted by 1 / (k + snr)^gamma, which reduces the weight of fine detail (Choi et al. 2022, "P2").

    As a weight of the x0 error it is snr / (k + snr)^gamma, which is 0 at a level without signal.

    Args:
      schedule: noise schedule.
      t: levels in 1..T, int [B]; for "score" levels with a signal-to-noise ratio above 0.
      predict: kind of the network's output, "eps", "x0", "v", "score" or "flow".
      k: the paper's k, above 0, which bounds the weight.
      gamma: the paper's gamma; 0 is no weighting of eps.

    Returns:
      w, float32 [B].

    Raises:
      ValueError: unknown kind; a k that is not above 0, or a gamma below 0, unless it is traced.

    Example::

        >>> import jaxdiff
        >>> from jaxdiff.objectives import weightings
        >>> schedule = jaxdiff.schedules.from_betas([0.36])  # snr = 16 / 9
        >>> round(float(weightings.p2(schedule, 1, "eps")), 4)  # 9 / 25
        0.36
    """
    check_number("k", k, *POSITIVE)
    check_number("gamma", gamma, *AT_LEAST_0)
    snr = _snr(schedule, t)
    return _for_kind(predict, snr / (k + snr) ** gamma, schedule, t)


@WEIGHTINGS.register("bound")
def bound(schedule: Schedule, t: Array, predict: str) -> Array:
    """Weights that make the loss the variational bound, in nats per number, up to terms that do not depend on x0.

        W_t = T/2 (snr_{t-1} - snr_t),   W_1 = T / (2 sigma_1^2)         Kingma et al. 2021 (VDM), eq. 13

    Its mean over uniform levels is sum_t L_{t-1} with the posterior's variance ("fixed-small") in every step and a Gaussian
    of variance sigma_1^2 in the last; `objectives.variational_bound` has DDPM's discretised decoder and learned variances.
    The weights span many orders of magnitude: draw levels by `levels.importance`.

    Args:
      schedule: noise schedule.
      t: levels in 1..T, int [B]; for "eps" and "score" levels with a signal-to-noise ratio above 0.
      predict: kind of the network's output, "eps", "x0", "v", "score" or "flow".

    Returns:
      w, float32 [B].

    Raises:
      ValueError: unknown kind.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.objectives import weightings
        >>> schedule = jaxdiff.schedules.from_betas([0.5, 0.5])  # snr = 1 and 1/3
        >>> [round(float(w), 4) for w in weightings.bound(schedule, jnp.array([1, 2]), "x0")]
        [2.0, 0.6667]
    """
    return _for_kind(predict, _bound(schedule, t), schedule, t)


@WEIGHTINGS.register("sigmoid")
def sigmoid(schedule: Schedule, t: Array, predict: str, bias: float = 2.0) -> Array:
    """The bound weighted by sigmoid(bias - log snr), which rises with the noise (Kingma and Gao 2023).

        W_t = sigmoid(bias - log snr_t) T/2 (snr_{t-1} - snr_t)

    Weights that fall with the signal-to-noise ratio give a bound on noised data, for any schedule.

    Args:
      schedule: noise schedule.
      t: levels in 1..T, int [B]; for "eps" and "score" levels with a signal-to-noise ratio above 0.
      predict: kind of the network's output, "eps", "x0", "v", "score" or "flow".
      bias: log snr of the level at which the factor is one half.

    Returns:
      w, float32 [B].

    Raises:
      ValueError: unknown kind; a bias that is not finite, unless it is traced.

    Example::

        >>> import jaxdiff
        >>> from jaxdiff.objectives import weightings
        >>> schedule = jaxdiff.schedules.from_betas([0.5, 0.5])
        >>> round(float(weightings.sigmoid(schedule, 1, "x0", bias=0.0)), 4)  # half the bound's 2
        1.0
    """
    check_number("bias", bias)
    return _for_kind(predict, jax.nn.sigmoid(bias - schedule(t).log_snr) * _bound(schedule, t), schedule, t)


@WEIGHTINGS.register("edm")
def edm(schedule: Schedule, t: Array, predict: str, sigma_data: float = 0.5) -> Array:
    """EDM's weighting, which undoes the output's scale of a preconditioned network (Karras et al. 2022, table 1).

        W = (s^2 + d^2) / (s d)^2 = 1 / d^2 + snr,   s = sigma / alpha

    The weighted error of an untrained network of output 0 is then 1 at every level, for data of variance d^2.

    Args:
      schedule: noise schedule.
      t: levels in 1..T, int [B]; for "eps" and "score" levels with a signal-to-noise ratio above 0.
      predict: kind of the network's output; "x0" of a preconditioned one.
      sigma_data: standard deviation d of the data, above 0, as in `preconditioning.preconditioned`.

    Returns:
      w, float32 [B].

    Raises:
      ValueError: unknown kind; a sigma_data that is not above 0, unless it is traced.

    Example::

        >>> import jaxdiff
        >>> from jaxdiff.objectives import weightings
        >>> schedule = jaxdiff.schedules.from_alpha_sigma([1.0], [0.5])
        >>> float(weightings.edm(schedule, 1, "x0"))
        8.0
    """
    check_number("sigma_data", sigma_data, *POSITIVE)
    return _for_kind(predict, 1 / sigma_data**2 + _snr(schedule, t), schedule, t)


def _snr(schedule, t):
    alpha, sigma = schedule(t)
    return jnp.square(alpha / sigma)


def _for_kind(predict, weight, schedule, t):
    """Equation (1)."""
    alpha, sigma = schedule(t)
    if predict == "x0":
        return weight
    if predict == "eps":
        return weight * jnp.square(sigma / alpha)
    if predict == "v":
        return weight * jnp.square(sigma / (jnp.square(alpha) + jnp.square(sigma)))
    if predict == "flow":
        return weight * jnp.square(sigma / (alpha + sigma))
    if predict == "score":
        return weight * jnp.square(jnp.square(sigma) / alpha)
    raise unknown("kind of prediction", predict, KINDS)


def _bound(schedule, t):
    """W of equation (2); snr_{t-1} - snr_t = snr_{t-1} beta_t / sigma_t^2, no difference of near-equal numbers."""
    t = jnp.asarray(t)
    beta, sigma = lookup(schedule.betas, t), schedule(t).sigma
    above = jnp.where(t > 1, _snr(schedule, jnp.maximum(t - 1, 1)) * beta, 1.0)
    return schedule.num_levels / 2 * above / jnp.square(sigma)
