r"""Terms of the variational bound in bits per dimension; of one example, with scalar levels: batches use `jax.vmap`.

  (1)  -log p(x_0) <= L_T + sum_t L_{t-1} + L_0                            Ho et al. 2020, eq. 5
  (2)  L_T     = KL(q(x_T | x_0) || N(0, p^2 I)),   p = sqrt(alpha_T^2 + sigma_T^2), 1 where variance is preserved
  (3)  L_{t-1} = KL(q(x_s | x_t, x_0) || p(x_s | x_t)),   s > 0
  (4)  L_0     = -log p(x_0 | x_t) of the last step, by a Gaussian integrated over each number's bin       eq. 13

Bits per dimension are the mean over an example's numbers, divided by log 2. A term (3) or (4) is for one draw of x_t; its
expectation is the bound's. Levels may have any stride: the bound is then that of the shorter chain.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from jaxdiff.arguments import check_count, check_floats
from jaxdiff.denoise import check_kind, to_prediction
from jaxdiff.errors import check_known
from jaxdiff.objectives.levels import LevelDraw, uniform
from jaxdiff.objectives.noising import Noising, checked, noised
from jaxdiff.process import VARIANCES, Variance, p_posterior, q_posterior, q_sample
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Apply, Array, Gaussian, Prediction

FAR = -30.0  # standard deviations below which the asymptote of the tail is used


def kl(q: Gaussian, p: Gaussian) -> Array:
    """Kullback-Leibler divergence of two Gaussians in nats, elementwise.

        KL(q || p) = (rho - 1 - log rho) / 2 + (mean_q - mean_p)^2 / (2 std_p^2),   rho = (std_q / std_p)^2

    Args:
      q: mean float, any shape; std above 0, a scalar or of that shape.
      p: the same shapes.

    Returns:
      float, the shape of the means; 0 or more.

    Example::

        >>> from jaxdiff.types import Gaussian
        >>> from jaxdiff.objectives.variational import kl
        >>> round(float(kl(Gaussian(1.0, 1.0), Gaussian(0.0, 2.0))), 4)  # (1/4 - 1 + log 4) / 2 + 1/8
        0.4431
    """
    log_ratio = 2 * (jnp.log(q.std) - jnp.log(p.std))
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio) + 0.5 * jnp.square((q.mean - p.mean) / p.std)


def prior_term(schedule: Schedule, x0: Array) -> Array:
    """L_T of equation (2): the information about x_0 that is left at level T.

        L_T = mean(alpha_T^2 x_0^2 / p^2 + rho - 1 - log rho) / (2 log 2),   rho = sigma_T^2 / p^2,   p = 1 of DDPM

    Args:
      schedule: noise schedule.
      x0: clean data, float, any shape.

    Returns:
      Bits per dimension, float32 scalar; 0 where the last level is pure noise.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import schedules
        >>> from jaxdiff.objectives.variational import prior_term
        >>> round(float(prior_term(schedules.from_betas([0.5]), jnp.ones(3))), 4)  # (1/2 + 1/2 - 1 + log 2) / (2 log 2)
        0.5
        >>> float(prior_term(schedules.from_betas([0.5, 1.0]), jnp.ones(3)))
        0.0
    """
    T = schedule.num_levels
    end = Gaussian(q_sample(schedule, x0, T, jnp.zeros_like(x0)), schedule(T).sigma)
    return _bits(kl(end, Gaussian(0.0, schedule.std(T))))


def decoder_nll(x0: Array, p: Gaussian, bins: int = 256) -> Array:
    """Negative log probability of each number's bin under a Gaussian, equation (4), in nats.

        P(x) = integral from x - h to x + h of N(u; mean, std^2) du,   h = 1 / (bins - 1)        Ho et al. 2020, eq. 13

    The first bin begins at minus infinity, the last ends at infinity. Published code approximates these integrals by a tanh
    and cuts them at 1e-12; here they are exact, also in the far tails.

    Args:
      x0: data of `bins` values from -1 to 1, float, any shape; a number in between is the middle of its own bin.
      p: mean of that shape; std above 0, a scalar or of that shape.
      bins: number of values that data can take, at least 2.

    Returns:
      float, shape of x0; 0 or more.

    Raises:
      ValueError: data of integers, or fewer than 2 bins.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.types import Gaussian
        >>> from jaxdiff.objectives.variational import decoder_nll
        >>> nll = decoder_nll(jnp.array([-1.0, 0.0, 1.0]), Gaussian(jnp.zeros(3), 0.5), bins=3)  # edges at -0.5, 0.5
        >>> [round(float(p), 4) for p in jnp.exp(-nll)]  # 68% are within one standard deviation
        [0.1587, 0.6827, 0.1587]
    """
    check_floats("x0", x0)
    check_count("bins", bins, least=2)
    half = 1 / (bins - 1)
    at_edge = jnp.abs(x0) > 1 - half
    distance = x0 - p.mean
    outer = _log_ndtr((half - jnp.sign(x0) * distance) / p.std)
    inner = _log_mass(-jnp.abs(distance) / p.std, 2 * half / p.std)
    return -jnp.where(at_edge, outer, inner)


def bound_term(
    schedule: Schedule,
    prediction: Prediction,
    x0: Array,
    x_t: Array,
    t,
    s,
    above,
    variance: Variance = "posterior",
    bins: int = 256,
) -> Array:
    """Term of the variational bound for the step t -> s: equation (3), and (4) for s = 0.

    Into level 0 the posterior has no variance, and the decoder uses that of the previous step, above -> t, instead; so it
    does with "beta". "learned" interpolates its log and that of beta = sigma_t^2. The code of DDPM and of improved DDPM
    does the same (Ho et al. 2020; Nichol and Dhariwal 2021), and also clips x0: see `guidance.clip_x0`.

    Args:
      schedule: noise schedule.
      prediction: the denoiser's prediction at x_t, leaves of the shape of x_t.
      x0: clean data, float, any shape.
      x_t: a draw of q(x_t | x_0), shape of x0.
      t: scalar level of x_t, int or float, at most T.
      s: scalar level of the step's end, 0 <= s < t (not checked); may be traced.
      above: scalar level that is visited before t, above t; only used if s = 0.
      variance: variance of the model's step, "posterior", "beta" or "learned"; see `process.p_posterior`.
      bins: see `decoder_nll`.

    Returns:
      Bits per dimension, float32 scalar.

    Raises:
      ValueError: unknown variance; "learned" with a network that predicts none.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import process, schedules
        >>> from jaxdiff.objectives.variational import bound_term
        >>> schedule, x0 = schedules.from_betas([0.5, 0.5]), jnp.zeros(3)  # signal-to-noise ratios 1 and 1/3
        >>> x_t = process.q_sample(schedule, x0, 2, jnp.ones(3))
        >>> prediction = process.predict_from("x0", schedule, x0 + 1.0, x_t, 2)  # an error of 1
        >>> bits = bound_term(schedule, prediction, x0, x_t, 2, 1, 2)
        >>> round(float(bits * jnp.log(2)), 4)  # (1 - 1/3) / 2 times the squared error, Kingma et al. 2021, eq. 13
        0.3333
    """
    last = jnp.equal(s, 0)
    q, p = q_posterior(schedule, x0, x_t, t, s), p_posterior(schedule, prediction, x_t, t, s, variance=variance)
    # Of the two terms one is discarded: its std is set above 0, so that it is finite, and so is its gradient.
    step = kl(q._replace(std=jnp.where(last, 1.0, q.std)), p._replace(std=jnp.where(last, 1.0, p.std)))
    std = q_posterior(schedule, x0, x_t, jnp.where(last, above, t), jnp.where(last, t, s)).std
    if variance == "learned":
        fraction = (prediction.aux.variance + 1) / 2
        std = schedule(t).sigma ** fraction * std ** (1 - fraction)
    return _bits(jnp.where(last, decoder_nll(x0, Gaussian(p.mean, std), bins), step))


def variational_bound(
    apply: Apply,
    schedule: Schedule,
    predict: str = "eps",
    variance: Variance = "posterior",
    null_cond=None,
    cond_dropout: float = 0.0,
    *,
    levels: LevelDraw | None = None,
):
    """The variational bound on the likelihood, at one random level per example (Ho et al. 2020, eq. 5).

        L_vlb = T L_{t-1},   L_{t-1} the bound's term of the step t -> t - 1, in bits per dimension

    Its mean over levels and noise is the bound without L_T, which does not depend on the network. With "learned" it is
    Nichol and Dhariwal's L_vlb (2021, section 3.3), for which they use `levels.importance`.

    Args:
      apply: network as a function of its parameters, from `denoise.network`.
      schedule: noise schedule.
      predict: kind of the network's output, "eps", "x0", "v", "score" or "flow".
      variance: variance of the model's steps, "posterior", "beta", or "learned" with twice the image's channels.
      null_cond: see `denoising`.
      cond_dropout: see `denoising`.
      levels: see `denoising`.

    Returns:
      loss_fn as of `denoising`, loss in bits per dimension.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: unknown variance, and otherwise as `denoising`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.objectives import variational_bound
        >>> schedule = jaxdiff.schedules.from_betas([0.0001, 0.0001])
        >>> white = lambda params, x_t, t, cond, keys=None: (jnp.ones_like(x_t), jaxdiff.types.Aux())
        >>> batch = {"image": jnp.full([1000, 2, 2, 1], 255, jnp.uint8)}  # white, 1 in [-1, 1]
        >>> keys = jaxdiff.samplers.keys_for(jax.random.key(0), 1000)
        >>> loss, _ = variational_bound(white, schedule, "x0")(None, (), keys, batch)
        >>> round(float(loss.mean()), 1)  # the right mean, with the decoder's standard deviation
        0.5
    """
    check_schedule(schedule)
    check_kind(predict, schedule)
    check_known("variance", variance, VARIANCES)
    levels = uniform() if levels is None else levels
    options = checked(Noising(levels, null_cond, cond_dropout))

    def loss_fn(params, extra, keys, batch):
        x0, _, x_t, t, weight, cond, net_keys, _ = noised(options, schedule, extra, keys, batch)
        output, aux = apply(params, x_t, t, cond, keys=net_keys)
        prediction = to_prediction(predict, schedule, output, aux, x_t, t)
        if (prediction.aux.variance is not None) != (variance == "learned"):
            raise ValueError(
                f"`variance`={variance!r} is not for a network with {output.shape[-1]} channels and images with "
                f"{x_t.shape[-1]}"
            )
        loss = schedule.num_levels * level_terms(schedule, prediction, x0, x_t, t, variance)
        extra = levels.update(extra, batch.get("index"), t, loss)
        return weight * loss, (extra, {"loss": weight * loss})

    return loss_fn


def level_terms(schedule: Schedule, prediction: Prediction, x0: Array, x_t: Array, t: Array, variance: str) -> Array:
    """`bound_term` of the steps t -> t - 1 of a batch.

    Args:
      schedule: noise schedule of at least two levels.
      prediction: the denoiser's prediction at x_t, leaves of the shape of x_t.
      x0: clean data, float [B, ...].
      x_t: a draw of q(x_t | x_0), same shape.
      t: levels in 1..T, int [B].
      variance: variance of the model's step, see `bound_term`.

    Returns:
      Bits per dimension, float32 [B].
    """
    above = jnp.minimum(t + 1, schedule.num_levels)
    one = lambda prediction, x0, x_t, t, above: bound_term(schedule, prediction, x0, x_t, t, t - 1, above, variance)
    return jax.vmap(one)(prediction, x0, x_t, t, above)


def _bits(nats):
    return jnp.mean(nats) / jnp.log(2.0)


def _log_mass(center, width):
    """log(Phi(b) - Phi(a)) for a, b = center -+ width / 2, with center at most 0."""
    a, b = center - width / 2, center + width / 2
    # log(Phi(a) / Phi(b)); in the far tail the logarithms have too few digits for a difference, but are nearly -x^2 / 2.
    ratio = jnp.where(b < FAR, width * center, _log_ndtr(a) - _log_ndtr(b))
    return _log_ndtr(b) + jnp.log(-jnp.expm1(ratio))


def _log_ndtr(x):
    """log Phi(x); in the far tail by its asymptote, to 1/x^2, since the gradient of jax's function loses digits there."""
    far = x < FAR
    y = jnp.where(far, x, FAR)
    asymptote = -0.5 * jnp.square(y) - jnp.log(-y) - 0.5 * jnp.log(2 * jnp.pi)
    return jnp.where(far, asymptote, log_ndtr(jnp.where(far, FAR, x)))
