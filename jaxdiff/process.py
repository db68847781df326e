r"""The forward process, its posterior, and one reverse step; of one example, with scalar levels: batches use `jax.vmap`.

  (1)  q(x_t | x_0)      = N(alpha_t x_0, sigma_t^2 I)                                     Ho et al. 2020, eq. 4
  (2)  q(x_t | x_s)      = N(r x_s, beta I),   r = alpha_t / alpha_s,  beta = sigma_t^2 - r^2 sigma_s^2
  (3)  q(x_s | x_t, x_0) = N((alpha_s beta x_0 + r sigma_s^2 x_t) / sigma_t^2, (sigma_s^2 / sigma_t^2) beta I)   eqs. 6, 7
  (4)  x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z,   std = eta sqrt(beta) sigma_s / sigma_t
                                                                                Song et al. 2021 (DDIM), eqs. 12, 16

Levels are 0 <= s < t <= T with any stride; for s = t - 1, (3) is DDPM's posterior and (4) with eta = 1 its sampler.
beta is computed as (sigma_t - r sigma_s)(sigma_t + r sigma_s), which keeps the digits that 1 - r^2 would lose.
"""

from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np

from jaxdiff.arguments import check_floats
from jaxdiff.errors import check_known, unknown
from jaxdiff.schedules import Schedule, check_schedule, lookup
from jaxdiff.types import Array, Aux, Gaussian, Prediction

KINDS = ("eps", "x0", "v", "score", "flow")
Variance = Literal["posterior", "beta", "learned"]
VARIANCES = get_args(Variance)


def q_sample(schedule: Schedule, x0: Array, t, eps: Array) -> Array:
    """Draws x_t given clean data, equation (1).

    Args:
      schedule: noise schedule.
      x0: clean data, float, any shape.
      t: scalar level, int in 0..T or float in [0, T].
      eps: standard normal noise, shape of x0.

    Returns:
      x_t, shape of x0; NaN at levels that the schedule does not have.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: x0 of integers, noise of another shape, or several levels.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import process, schedules
        >>> schedule = schedules.from_betas([0.36, 0.36])  # alpha_1 = 0.8, sigma_1 = 0.6
        >>> round(float(process.q_sample(schedule, 1.0, 1, 2.0)), 4)
        2.0

    and on a batch, one level per example::

        >>> x0, t = jnp.ones([3, 28, 28, 1]), jnp.arange(3)
        >>> x_t = jax.vmap(process.q_sample, (None, 0, 0, 0))(schedule, x0, t, jnp.zeros_like(x0))
        >>> [round(float(alpha), 4) for alpha in x_t[:, 0, 0, 0]]
        [1.0, 0.8, 0.64]
    """
    _check(schedule, t=t, data={"x0": x0, "eps": eps})
    alpha, sigma = schedule(t)
    return alpha * x0 + sigma * eps


def q_step(schedule: Schedule, x: Array, t, eps: Array) -> Array:
    """Draws x_t given x_{t-1}, one step of the Markov chain.

        x_t = r x_{t-1} + sqrt(beta_t) eps,   r = alpha_t / alpha_{t-1}        Ho et al. 2020, eq. 2: r = sqrt(1 - beta_t)

    Args:
      schedule: noise schedule.
      x: x_{t-1}, float, any shape.
      t: scalar int level of x_t, in 1..T; level 0 has beta = 0 and returns x.
      eps: standard normal noise, shape of x.

    Returns:
      x_t, shape of x; NaN at levels that the schedule does not have.

    Raises:
      TypeError: `schedule` is no `Schedule`, or t is not of an integer type: beta is defined at integer levels only.
      ValueError: x of integers, noise of another shape, or several levels.

    Example::

        >>> from jaxdiff import process, schedules
        >>> schedule = schedules.from_betas([0.36, 0.36])
        >>> x_1 = process.q_step(schedule, 1.0, 1, 2.0)  # 0.8 * 1 + 0.6 * 2
        >>> x_2 = process.q_step(schedule, x_1, 2, -1.0)  # 0.8 * 2 - 0.6
        >>> round(float(x_1), 4), round(float(x_2), 4)
        (2.0, 1.0)
    """
    _check(schedule, t=t, data={"x": x, "eps": eps})
    beta = lookup(schedule.betas, t)
    before = jnp.maximum(jnp.asarray(t) - 1, 0)
    return schedule(t).alpha / schedule(before).alpha * x + jnp.sqrt(beta) * eps


def q_posterior(schedule: Schedule, x0: Array, x_t: Array, t, s) -> Gaussian:
    """Posterior q(x_s | x_t, x_0) of the forward process, equation (3).

    Args:
      schedule: noise schedule.
      x0: clean data, float, any shape.
      x_t: the noisier data, shape of x0.
      t: scalar level of x_t, int or float, at most T.
      s: scalar level of x_s, 0 <= s < t (not checked).

    Returns:
      `Gaussian` with mean of the shape of x0 and scalar std; at s = 0 they are x0 and 0.

    Example::

        >>> from jaxdiff import process, schedules
        >>> schedule = schedules.from_betas([0.5, 0.5])
        >>> mean, std = process.q_posterior(schedule, 1.0, 1.0, 2, 1)
        >>> round(float(1 / std**2), 4)  # precisions add up: 1 / sigma_1^2 + r^2 / beta = 2 + 1
        3.0
        >>> round(float(mean), 4)  # (alpha_1 x0 / sigma_1^2 + r x_t / beta) / 3 = 2 sqrt(2) / 3
        0.9428
    """
    _check(schedule, t=t, s=s, data={"x0": x0, "x_t": x_t})
    (alpha_s, sigma_s), (_, sigma_t) = schedule(s), schedule(t)
    r, beta = _transition(schedule, t, s)
    mean = (alpha_s * beta * x0 + r * sigma_s**2 * x_t) / sigma_t**2
    return Gaussian(mean, _sqrt(beta) * sigma_s / sigma_t)


def p_posterior(
    schedule: Schedule, prediction: Prediction, x_t: Array, t, s, eta=1.0, variance: Variance = "posterior"
) -> Gaussian:
    """The model's distribution p(x_s | x_t), equation (4).

    Args:
      schedule: noise schedule.
      prediction: the denoiser's prediction at x_t, leaves of the shape of x_t.
      x_t: the noisier data, float, any shape.
      t: scalar level of x_t, int or float, at most T.
      s: scalar level to go to, 0 <= s < t (not checked).
      eta: in [0, 1] (not checked): 1 is DDPM's ancestral step, 0 is deterministic DDIM; may be traced.
      variance: of the noise that is added. "posterior" is DDPM's fixed-small, the std of (4); "beta" its fixed-large,
        sqrt(beta), no noise into level 0; "learned" interpolates the logs of the two by `prediction.aux.variance`
        (Nichol and Dhariwal 2021, eq. 15). The last two are for ancestral steps and do not change the mean.

    Returns:
      `Gaussian` with mean of the shape of x_t and std, scalar or (learned) of that shape.

    Raises:
      TypeError: `prediction` is no `Prediction`, or `schedule` no `Schedule`.
      ValueError: unknown variance; one other than "posterior" with an eta that is not the number 1; "learned" with a
        network that predicts none; several levels.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import process, schedules
        >>> schedule, x0, eps = schedules.linear(), jnp.array([1.0, -1.0]), jnp.array([0.5, 2.0])
        >>> x_t = process.q_sample(schedule, x0, 500, eps)
        >>> model = process.p_posterior(schedule, jaxdiff.Prediction(x0, eps), x_t, 500, 400)
        >>> truth = process.q_posterior(schedule, x0, x_t, 500, 400)  # the same, where the model is right
        >>> bool(jnp.allclose(model.mean, truth.mean, atol=1e-5)), bool(jnp.isclose(model.std, truth.std))
        (True, True)
    """
    if not isinstance(prediction, Prediction):
        raise TypeError(f"`prediction` must be a Prediction, as a denoiser returns it, not {type(prediction).__name__}")
    _check(schedule, t=t, s=s, data={"x_t": x_t})
    check_known("variance", variance, VARIANCES)
    if variance != "posterior" and not (isinstance(eta, int | float) and eta == 1):
        raise ValueError(f"`variance`={variance!r} is for ancestral steps: leave `eta` at 1")
    (alpha_s, sigma_s), (_, sigma_t) = schedule(s), schedule(t)
    r, beta = _transition(schedule, t, s)
    # sigma_s^2 - std^2 = sigma_s^2 ((1 - eta^2) + eta^2 (r sigma_s / sigma_t)^2): no difference of near-equal numbers.
    direction = sigma_s * _sqrt(1 - eta**2 + (eta * r * sigma_s / sigma_t) ** 2)
    mean = alpha_s * prediction.x0 + direction * prediction.eps
    if variance == "posterior":
        return Gaussian(mean, eta * _sqrt(beta) * sigma_s / sigma_t)
    if variance == "beta":
        return Gaussian(mean, jnp.where(sigma_s > 0, _sqrt(beta), 0.0))
    return Gaussian(mean, _learned_std(prediction.aux, beta, sigma_s, sigma_t))


def p_step(
    schedule: Schedule,
    prediction: Prediction,
    x_t: Array,
    t,
    s,
    noise: Array,
    eta=1.0,
    variance: Variance = "posterior",
) -> Array:
    """One sampling step t -> s: a draw from `p_posterior` with the given noise, equation (4).

    Args:
      schedule: noise schedule.
      prediction: the denoiser's prediction at x_t, leaves of the shape of x_t.
      x_t: the noisier data, float, any shape.
      t: scalar level of x_t, int or float, at most T.
      s: scalar level to go to, 0 <= s < t (not checked).
      noise: standard normal, shape of x_t.
      eta: see `p_posterior`.
      variance: see `p_posterior`.

    Returns:
      x_s = mean + std noise, shape of x_t.

    Raises:
      ValueError: unknown variance; one other than "posterior" with an eta that is not the number 1; "learned" with a
        network that predicts none.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import process, schedules
        >>> schedule, x0, eps = schedules.linear(), jnp.array([1.0, -1.0]), jnp.array([0.5, 2.0])
        >>> x_t = process.q_sample(schedule, x0, 500, eps)
        >>> x_s = process.p_step(schedule, jaxdiff.Prediction(x0, eps), x_t, 500, 400, jnp.zeros(2), eta=0.0)
        >>> bool(jnp.allclose(x_s, process.q_sample(schedule, x0, 400, eps)))  # DDIM keeps x0 and eps
        True
    """
    _check(schedule, t=t, s=s, data={"x_t": x_t, "noise": noise})
    mean, std = p_posterior(schedule, prediction, x_t, t, s, eta, variance)
    return mean + std * noise


def predict_from(kind: str, schedule: Schedule, output: Array, x_t: Array, t) -> Prediction:
    """Converts a network's output to predictions of both x0 and eps.

    * ``eps``: x0 = (x_t - sigma eps) / alpha (Ho et al. 2020, eq. 15)
    * ``x0``: eps = (x_t - alpha x0) / sigma
    * ``v`` = alpha eps - sigma x0: x0 = (alpha x_t - sigma v) / S, eps = (sigma x_t + alpha v) / S, S = alpha^2 + sigma^2,
      which is 1 where variance is preserved (Salimans and Ho 2022, app. D)
    * ``score`` = grad log q(x_t) = -eps / sigma (Song et al. 2021, score SDE)
    * ``flow`` = eps - x0, the velocity of rectified flow: x0 = (x_t - sigma flow) / (alpha + sigma), eps = (x_t + alpha
      flow) / (alpha + sigma) (Lipman et al. 2022, eq. 23; Liu et al. 2022)

    "v" and "flow" determine both at every level. At zero signal-to-noise (alpha = 0) "eps" and "score" do not determine
    x0, and at level 0 "x0" does not determine eps; these are then not finite.

    Args:
      kind: "eps", "x0", "v", "score" or "flow".
      schedule: noise schedule.
      output: the network's output, float, any shape.
      x_t: its input, same shape.
      t: scalar level, int in 0..T or float in [0, T].

    Returns:
      `Prediction` with x0 and eps of that shape, x_t = alpha x0 + sigma eps.

    Raises:
      ValueError: unknown kind.

    Example::

        >>> from jaxdiff import process, schedules
        >>> schedule = schedules.from_betas([0.36])  # alpha_1 = 0.8, sigma_1 = 0.6
        >>> for kind, output in {"eps": 1.0, "x0": 2.0, "v": -0.4, "score": -1 / 0.6, "flow": -1.0}.items():
        ...     prediction = process.predict_from(kind, schedule, output, 2.2, 1)  # 2.2 = 0.8 * 2 + 0.6 * 1
        ...     print(kind, round(float(prediction.x0), 4), round(float(prediction.eps), 4))
        eps 2.0 1.0
        x0 2.0 1.0
        v 2.0 1.0
        score 2.0 1.0
        flow 2.0 1.0
    """
    _check(schedule, t=t, data={"x_t": x_t, "output": output})
    alpha, sigma = schedule(t)
    if kind == "eps":
        return Prediction((x_t - sigma * output) / alpha, output)
    if kind == "x0":
        return Prediction(output, (x_t - alpha * output) / sigma)
    if kind == "v":
        size = alpha**2 + sigma**2
        return Prediction((alpha * x_t - sigma * output) / size, (sigma * x_t + alpha * output) / size)
    if kind == "score":
        return Prediction((x_t + sigma**2 * output) / alpha, -sigma * output)
    if kind == "flow":
        return Prediction((x_t - sigma * output) / (alpha + sigma), (x_t + alpha * output) / (alpha + sigma))
    raise unknown("kind of prediction", kind, KINDS)


def target_for(kind: str, schedule: Schedule, x0: Array, eps: Array, t) -> Array:
    """Training target of a network of this kind at x_t: the inverse of `predict_from`, which cites the papers.

        eps,   x0,   v = alpha eps - sigma x0,   score = -eps / sigma,   flow = eps - x0

    Args:
      kind: "eps", "x0", "v", "score" or "flow".
      schedule: noise schedule.
      x0: clean data, float, any shape.
      eps: the noise in x_t, same shape.
      t: scalar level, int in 0..T or float in [0, T]; "score" is not finite at level 0.

    Returns:
      The target, shape of x0.

    Raises:
      ValueError: unknown kind.

    Example::

        >>> from jaxdiff import process, schedules
        >>> schedule = schedules.from_betas([0.36])  # alpha_1 = 0.8, sigma_1 = 0.6
        >>> {kind: round(float(process.target_for(kind, schedule, 2.0, 1.0, 1)), 4) for kind in process.KINDS}
        {'eps': 1.0, 'x0': 2.0, 'v': -0.4, 'score': -1.6667, 'flow': -1.0}
    """
    _check(schedule, t=t, data={"x0": x0, "eps": eps})
    alpha, sigma = schedule(t)
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    if kind == "v":
        return alpha * eps - sigma * x0
    if kind == "score":
        return -eps / sigma
    if kind == "flow":
        return eps - x0
    raise unknown("kind of prediction", kind, KINDS)


def _transition(schedule, t, s):
    """r and beta of q(x_t | x_s), equation (2)."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    r = alpha_t / alpha_s
    return r, (sigma_t - r * sigma_s) * (sigma_t + r * sigma_s)


def _check(schedule, data, **levels):
    """Refuses what would be broadcast to something else; the data may be numbers.

    Raises:
      TypeError: no schedule.
      ValueError: data of integers or of several shapes, or several levels.
    """
    check_schedule(schedule)
    for name, x in data.items():
        check_floats(name, x)
    shapes = {name: np.shape(x) for name, x in data.items() if np.shape(x) != ()}
    for name, shape in shapes.items():
        if shape != (like := next(iter(shapes.values()))):
            first = next(iter(shapes))
            raise ValueError(f"`{name}` must have the shape of `{first}`, {list(like)}, not {list(shape)}")
    for name, t in levels.items():
        if np.shape(t) != ():
            raise ValueError(
                f"`{name}` must be one level, not {list(np.shape(t))}: jax.vmap takes one for each example"
            )


def _learned_std(aux: Aux, beta, sigma_s, sigma_t):
    """exp of half the interpolated log-variances; raw outputs -1 and 1 are the posterior's and beta's."""
    if aux.variance is None:
        raise ValueError("`variance`='learned' needs a network with 2C output channels; this one predicts no variance")
    fraction = (aux.variance + 1) / 2
    # Into level 0 the posterior's variance is 0 and no noise is added; the logs must be finite for the gradient.
    log_ratio = 2 * jnp.log(jnp.where(sigma_s > 0, sigma_s / sigma_t, 1.0))
    return jnp.where(sigma_s > 0, jnp.exp(0.5 * (jnp.log(beta) + (1 - fraction) * log_ratio)), 0.0)


def _sqrt(x):
    """Square root that is 0, with a finite gradient, where rounding has made x slightly negative."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)
