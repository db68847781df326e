r"""Solvers of the reverse SDE, and Langevin correctors.

  (1)  dx = -a(t) x dt + g(t) dw,   a = -d log alpha / dt,   g^2 = alpha^2 d(sigma^2 / alpha^2) / dt
                                                            Song et al. 2021 (score SDE), eq. 5; Kingma et al. 2021
  (2)  dx = -(a x + g^2 score(x, t)) dt + g dw, t falling                                               eq. 6
  (3)  x_s = x_t + A x_t + B score + sqrt(B) z,   A = log(alpha_s / alpha_t),   B = int_s^t g(u)^2 du
  (4)  x_s = (2 - r) x_t + beta score + sqrt(beta) z,   r = alpha_t / alpha_s,   beta = sigma_t^2 - r^2 sigma_s^2    app. E
  (5)  x <- x + e g + sqrt(2 e) z,   g = score(x, s),   e = 2 r_s^2 (snr |z| / |g|)^2               algorithms 4 and 5

Where variance is preserved g^2 = 2 a is the paper's beta(t), B = 2 A and beta = 1 - r^2; where it explodes a = 0, r = 1
and B = beta = sigma_t^2 - sigma_s^2. (3) and (4) discretise (2) and differ in the square of the step. A is infinite
from a level without signal; x_t does not depend on x_0 there, and the step is then the ancestral one, alpha_s x0 +
sigma_s z. No noise is added into level 0.

With a multiple d of the noise's variance the drift's is (1 + d) / 2, which keeps all marginals (Albergo et al. 2023).
"""

import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arguments import ABOVE_0, AT_LEAST_0, check_count, check_number
from jaxdiff.process import p_step
from jaxdiff.samplers.base import SAMPLERS, Sampler, State
from jaxdiff.samplers.keys import fold, normal
from jaxdiff.types import Static, as_partial, rows


@SAMPLERS.register("euler_maruyama")
def euler_maruyama(diffusion: float = 1.0) -> Sampler:
    """Euler and Maruyama's method on the reverse SDE (Song et al. 2021, score SDE, eqs. 6, 9 and 11).

        x_s = x_t + A x_t + (1 + d) / 2 B score + sqrt(d B) z,   A = log(alpha_s / alpha_t),   score = -eps / sigma_t
        B = 2 A (sigma_t^2 - r^2 sigma_s^2) / (1 - r^2),   r = alpha_t / alpha_s

    A and B are the integrals of the SDE's coefficients over the step, so that only x and the score are held constant in
    it; B is exact where variance is preserved, 2 A, and where it explodes, sigma_t^2 - sigma_s^2, and else to second
    order. Weak order 1; its first steps are inaccurate if the schedule ends in nearly pure noise. All d have the same
    marginals (Albergo et al. 2023, stochastic interpolants): 1 is the reverse of the forward process, 0 Euler's method on
    the probability flow, and more noise forgets more of the errors of earlier steps. A key is
    needed for any d.

    Args:
      diffusion: d, variance of the noise in units of the forward process's g^2, at least 0. Traced.

    Returns:
      `Sampler`; without a random key `sample` raises ValueError.

    Raises:
      ValueError: a diffusion below 0 or not finite, unless it is traced.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> from jaxdiff.samplers import euler_maruyama
        >>> schedule, data, key = jaxdiff.schedules.linear(), testing.gaussian([1.0], 0.25), jax.random.key(0)
        >>> x_T = jaxdiff.samplers.noise(jaxdiff.samplers.keys_for(key, 5000), (1,))
        >>> levels = jaxdiff.timesteps.grid(1000, 500)
        >>> x, _ = jaxdiff.sample(key, euler_maruyama(), data.denoiser(schedule), schedule, levels, x_T)
        >>> abs(float(x.mean()) - 1) < 0.05, abs(float(x.std()) - 0.5) < 0.05
        (True, True)
    """
    check_number("diffusion", diffusion, *AT_LEAST_0)
    return Sampler(Partial(State), Partial(_step, Static(_euler_maruyama), jnp.asarray(diffusion, jnp.float32)))


@SAMPLERS.register("reverse_diffusion")
def reverse_diffusion() -> Sampler:
    """Reverse of the forward chain's discretisation (Song et al. 2021, score SDE, appendix E and algorithm 3).

        x_s = (2 - r) x_t + beta score + sqrt(beta) z,   r = alpha_t / alpha_s,   score = -eps / sigma_t
        beta = sigma_t^2 - r^2 sigma_s^2, which is 1 - r^2 where variance is preserved

    Returns:
      `Sampler` of weak order 1; without a random key `sample` raises ValueError.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.samplers import reverse_diffusion
        >>> schedule = jaxdiff.schedules.from_betas([0.19])  # r = alpha_1 = 0.9
        >>> denoise = lambda x_t, t, cond: jaxdiff.Prediction(x_t / 0.9, jnp.zeros_like(x_t))  # the score is 0
        >>> x, _ = jaxdiff.sample(jax.random.key(0), reverse_diffusion(), denoise, schedule, [1, 0], jnp.ones([1, 1]))
        >>> round(float(x[0, 0]), 4)
        1.1
    """
    return Sampler(Partial(State), Partial(_step, Static(_reverse_diffusion), jnp.float32(1.0)))


@SAMPLERS.register("predictor_corrector")
def predictor_corrector(snr: float = 0.16, corrector_steps: int = 1, predictor: str = "reverse_diffusion") -> Sampler:
    """A predictor's step, then Langevin steps at the new level (Song et al. 2021, score SDE, algorithms 3 and 5).

        x <- x + e g + sqrt(2 e) z,   g = score(x, s),   e = 2 r_s^2 (snr |z| / |g|)^2

    r_s^2 is (alpha_s / alpha_{s-1})^2, the paper's 1 - beta_s, or 1 where variance explodes, of adjacent levels for any
    stride of the grid. |z| and |g| are norms of each example (the paper's code averages them over the batch), so that
    an example does not depend on the others; their ratio varies little for images, and much if an example has few
    numbers. Level 0 is not corrected.

    Args:
      snr: the paper's r, above 0. Traced: other values do not recompile.
      corrector_steps: M, at least 1 (without any, use the predictor itself); each evaluates the denoiser once more. Static.
      predictor: name of a sampler, with its default options; "ddpm" is the paper's "ancestral sampling". From Python also
        a `Sampler`.

    Returns:
      `Sampler`; without a random key `sample` raises ValueError.

    Raises:
      ValueError: an snr that is not above 0, unless it is traced; corrector_steps below 1; unknown predictor.

    Example::

        >>> import jax
        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> from jaxdiff.samplers import predictor_corrector
        >>> schedule, key = jaxdiff.schedules.linear(), jax.random.key(0)
        >>> data, levels = testing.gaussian([0.0] * 64, 0.25), jaxdiff.timesteps.grid(1000, 20)
        >>> x_T = jaxdiff.samplers.noise(jaxdiff.samplers.keys_for(key, 500), (64,))
        >>> sample = lambda sampler: jaxdiff.sample(key, sampler, data.denoiser(schedule), schedule, levels, x_T)[0]
        >>> error = lambda x: abs(float(x.var()) - 0.25)
        >>> error(sample(predictor_corrector(predictor="ddpm"))) < error(sample(jaxdiff.ddpm()))
        True
    """
    check_number("snr", snr, *ABOVE_0)
    corrector_steps = check_count("corrector_steps", corrector_steps)
    predictor = predictor if isinstance(predictor, Sampler) else SAMPLERS.choice(predictor)()
    init, predict = map(as_partial, predictor)
    return Sampler(init, Partial(_predict_and_correct, Static(corrector_steps), jnp.asarray(snr, jnp.float32), predict))


def _euler_maruyama(r, beta):
    """Factor of x and variance of the noise in (3): B / beta = 2 A / (1 - r^2) loses no digits where r is nearly 1."""
    u = 1 - r
    A = -jnp.log1p(-u)
    return 1 + A, beta * jnp.where(u > 0, A / jnp.where(u > 0, u, 1.0), 1.0) * 2 / (1 + r)


def _reverse_diffusion(r, beta):
    """Factor of x and variance of the noise in (4)."""
    return 2 - r, beta


def _step(scheme, d, keys, denoise, schedule, state, t, s, cond):
    if keys is None:
        raise ValueError("the reverse SDE adds noise: give sample() a random key")
    prediction = denoise(state.x, t, cond)
    z = normal(keys, state.x.shape[1:])
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    r = jnp.where(alpha_t > 0, alpha_t / alpha_s, 1.0)
    beta = (sigma_t - r * sigma_s) * (sigma_t + r * sigma_s)
    factor, variance = scheme.value(r, beta)
    score = -prediction.eps / sigma_t
    x = factor * state.x + (1 + d) / 2 * variance * score + jnp.where(sigma_s > 0, jnp.sqrt(d * variance), 0.0) * z
    ancestral = p_step(schedule, prediction, state.x, t, s, z, eta=jnp.minimum(jnp.sqrt(d), 1.0))
    return state._replace(x=jnp.where(alpha_t > 0, x, ancestral)), prediction


def _predict_and_correct(count, snr, predict, keys, denoise, schedule, state, t, s, cond):
    if keys is None:
        raise ValueError("the Langevin corrector adds noise: give sample() a random key")

    def correct(x):
        level = jnp.where(s > 0, s, t)  # under vmap both branches run, and networks are not trained at level 0
        langevin = lambda j, x: _langevin(snr, fold(keys, j), denoise, schedule, x, level, cond)
        return lax.fori_loop(1, count.value + 1, langevin, x)

    state, prediction = predict(fold(keys, 0), denoise, schedule, state, t, s, cond)
    return state._replace(x=lax.cond(s > 0, correct, lambda x: x, state.x)), prediction


def _langevin(snr, keys, denoise, schedule, x, s, cond):
    """One step of (5)."""
    r = schedule(s).alpha / schedule(jnp.maximum(s - 1, 0)).alpha
    z = normal(keys, x.shape[1:])
    g = -denoise(x, s, cond).eps / schedule(s).sigma
    z2, g2 = (jnp.square(v).sum(range(1, x.ndim)) for v in (z, g))
    e = rows(2 * jnp.square(r * snr) * jnp.where(g2 > 0, z2 / jnp.where(g2 > 0, g2, 1.0), 0.0), x)
    return x + e * g + jnp.sqrt(2 * e) * z
