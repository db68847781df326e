r"""Data with closed-form marginals, scores and denoisers: mixtures of Gaussians.

For data x_0 ~ sum_k w_k N(mu_k, S_k) every marginal of the forward process is such a mixture again:

  (1)  q(x_t) = sum_k w_k N(alpha_t mu_k, C_k),   C_k = alpha_t^2 S_k + sigma_t^2 I
  (2)  E[x_0 | x_t, k] = mu_k + alpha_t S_k C_k^-1 (x_t - alpha_t mu_k),
       E[eps | x_t, k] = sigma_t C_k^-1 (x_t - alpha_t mu_k)
  (3)  E[. | x_t] = sum_k p(k | x_t) E[. | x_t, k],   grad log q(x_t) = -E[eps | x_t] / sigma_t
  (4)  for one Gaussian the probability flow takes x_t to x_s = alpha_s mu + C_s^(1/2) C_t^(-1/2) (x_t - alpha_t mu)

(2) and (3) are the output of a perfect network, so that the error of a sampler is its own. If the components have classes,

  (5)  q(x_t, y) = sum_{k of class y} w_k N(alpha_t mu_k, C_k),   p(y | x_t) = q(x_t, y) / q(x_t)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.arguments import AT_LEAST_0, as_numbers, check_count, check_number
from jaxdiff.schedules import Schedule
from jaxdiff.types import AlphaSigma, Array, Denoiser, Prediction, rows


class Mixture(NamedTuple):
    """Mixture of Gaussians over examples of D numbers, with covariances as principal axes; a pytree.

    Attributes:
      weights: w, float [K], adding up to 1.
      means: mu, float [K, D].
      stds: standard deviations along the axes, float [K, D], 0 or more.
      axes: columns are the principal axes, float [K, D, D].
    """

    weights: Array
    means: Array
    stds: Array
    axes: Array

    def sample(self, keys: Array) -> Array:
        """Draws data.

        Args:
          keys: one random key per example, [B].

        Returns:
          x_0, float32 [B, D].
        """

        def one(key):
            k = jax.random.categorical(jax.random.fold_in(key, 0), jnp.log(self.weights))
            z = jax.random.normal(jax.random.fold_in(key, 1), self.means.shape[1:], jnp.float32)
            mean, std, axes = (jnp.take(table, k, axis=0) for table in self[1:])
            return mean + axes @ (std * z)

        return jax.vmap(one)(keys)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """The optimal denoiser of this data, equations (2) and (3).

        Args:
          schedule: noise schedule.

        Returns:
          Denoiser of x_t [B, ...] whose examples have D numbers; it ignores the condition.
        """
        return Partial(_denoise, self, schedule)

    def log_prob(self, schedule: Schedule, x_t: Array, t) -> Array:
        """log q(x_t) in nats, equation (1).

        Args:
          schedule: noise schedule.
          x_t: float [B, ...] of D numbers each.
          t: level, scalar or [B].

        Returns:
          float32 [B]; at level 0 that of the data, whose variances must then be above 0.
        """
        return _over_examples(lambda level, x: _posterior(self, level, x)[0], schedule, x_t, t)

    def score(self, schedule: Schedule, x_t: Array, t) -> Array:
        """grad log q(x_t), equation (3), shape of x_t, for levels above 0; arguments as for `log_prob`."""
        return -self.denoiser(schedule)(x_t, t, None).eps / rows(schedule(t).sigma, x_t)

    def flow(self, schedule: Schedule, x_t: Array, t, s) -> Array:
        """Exact solution of the probability-flow ODE from x_t at level t to level s, up or down: equation (4).

        Args:
          schedule: noise schedule.
          x_t: float [B, ...] of D numbers each.
          t: scalar level.
          s: scalar level.

        Returns:
          x_s, shape of x_t.

        Raises:
          ValueError: more than one component: the flow then has no closed form.
        """
        if len(self.weights) != 1:
            raise ValueError(f"the flow of a mixture of {len(self.weights)} has no closed form: use one Gaussian")
        mean, std, axes = self.means[0], self.stds[0], self.axes[0]
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        stretch = jnp.hypot(alpha_s * std, sigma_s) / jnp.hypot(alpha_t * std, sigma_t)
        y = (x_t.reshape(x_t.shape[0], -1) - (alpha_t * mean)[None]) @ axes
        return ((alpha_s * mean)[None] + (y * stretch[None]) @ axes.T).reshape(x_t.shape)

    def moments(self, schedule: Schedule, t) -> tuple[np.ndarray, np.ndarray]:
        """Mean [D] and covariance [D, D] of q(x_t), float64, t a scalar level."""
        alpha, sigma = (np.float64(x) for x in schedule(t))
        w, mu, std, axes = (np.asarray(x, np.float64) for x in self)
        mean = w @ mu
        within = np.einsum("k,kde,ke,kfe->df", w, axes, std**2, axes)
        between = np.einsum("k,kd,ke->de", w, mu - mean, mu - mean)
        return alpha * mean, alpha**2 * (within + between) + sigma**2 * np.eye(len(mean))


class Labeled(NamedTuple):
    """Mixture whose components have classes; a pytree.

    Attributes:
      data: the mixture.
      classes: class of each component, int [K]; the largest plus 1 is the null label, which includes all components.
    """

    data: Mixture
    classes: Array

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """The optimal class-conditional denoiser, equations (2) and (3) over the components of the class.

        Args:
          schedule: noise schedule.

        Returns:
          Denoiser of x_t [B, ...] whose examples have D numbers. The class is `cond.label`, int [B], with NaN for labels
          that do not exist; without a condition it is the denoiser of all data.
        """
        return Partial(_denoise_labeled, self, schedule)

    def log_posterior(self, schedule: Schedule) -> Partial:
        """The optimal classifier of noisy examples, equation (5): a `log_prob` of `guidance.classifier`.

        Args:
          schedule: noise schedule.

        Returns:
          (x_t [B, ...], t, cond) -> log p(y | x_t), float32 [B], where y is `cond.label`; 0 for the null label, -inf for
          labels that do not exist.
        """
        return Partial(_log_posterior, self, schedule)

    def weights_of(self, label: Array) -> Array:
        """The weights of the components of a class, 0 for others; [K], label a scalar."""
        included = (self.classes == label) | (label == jnp.max(self.classes) + 1)
        return jnp.where(included, self.data.weights, 0.0)


def labeled(data: Mixture, classes) -> Labeled:
    """Assigns classes to the components of a mixture: an oracle of conditional generation and of classifiers.

    Args:
      data: a mixture of K components.
      classes: class of each component, int [K], all of 0..C - 1; C is the null label.

    Returns:
      `Labeled`.

    Raises:
      ValueError: not one class per component, or a class without components.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import Cond, schedules, testing
        >>> from jaxdiff.testing.oracle import labeled
        >>> schedule = schedules.from_betas([0.36])  # alpha = 0.8, sigma = 0.6
        >>> two = labeled(testing.mixture([1, 1], [[-1.0], [1.0]], [0.0, 0.0]), [0, 1])  # the points -1 and 1
        >>> x_t, cond = jnp.full([3, 1], 0.45), Cond(label=jnp.array([0, 1, 2]))
        >>> x0 = two.denoiser(schedule)(x_t, 1, cond).x0  # -1, 1, and tanh(1) for the null label
        >>> [round(float(x), 4) for x in x0[:, 0]]
        [-1.0, 1.0, 0.7616]
        >>> p = jnp.exp(two.log_posterior(schedule)(x_t, 1, cond))  # (1 -+ tanh(1)) / 2
        >>> [round(float(x), 4) for x in p]
        [0.1192, 0.8808, 1.0]
    """
    classes = np.asarray(classes, np.int32)
    known = np.unique(classes)
    if classes.shape != data.weights.shape or not np.array_equal(known, np.arange(len(known))):
        raise ValueError(
            f"`classes`={classes.tolist()} must be one for each of {len(data.weights)} components, counted from 0"
        )
    return Labeled(data, classes)


def mixture(weights, means, covs) -> Mixture:
    """Mixture of Gaussians.

    Args:
      weights: [K], above 0; scaled to add up to 1.
      means: [K, D].
      covs: variances [K] or [K, D], or covariances [K, D, D]; 0 is a point.

    Returns:
      `Mixture`.

    Raises:
      ValueError: shapes that do not fit, numbers that are not finite, a weight that is not above 0, a covariance that is
        not symmetric and positive semidefinite.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import schedules, testing
        >>> two = testing.mixture([1, 1], [[-1.0], [1.0]], [0.0, 0.0])  # the points -1 and 1
        >>> denoise = two.denoiser(schedules.from_betas([0.36]))  # alpha = 0.8, sigma = 0.6
        >>> x0 = denoise(jnp.array([[-0.45], [0.0], [0.45]]), 1, None).x0  # tanh(alpha x / sigma^2)
        >>> [round(float(x), 4) for x in x0[:, 0]]
        [-0.7616, 0.0, 0.7616]
    """
    weights, means, covs = (as_numbers(*each) for each in (("weights", weights), ("means", means), ("covs", covs)))
    if weights.ndim != 1 or means.ndim != 2 or len(weights) != len(means) or not np.all(weights > 0):
        raise ValueError(f"`weights` {weights.shape} must be [K] and above 0, and `means` {means.shape} [K, D]")
    for name, numbers in (("weights", weights), ("means", means), ("covs", covs)):
        if not np.all(np.isfinite(numbers)):
            raise ValueError(f"`{name}` must be finite")
    K, D = means.shape
    if covs.shape == (K,):
        covs = np.broadcast_to(covs[:, None], (K, D))
    if covs.shape == (K, D):
        covs = covs[:, :, None] * np.eye(D)
    if covs.shape != (K, D, D) or not np.allclose(covs, covs.transpose(0, 2, 1)):
        raise ValueError(f"`covs` {covs.shape} must be [K], [K, D] or symmetric [K, D, D], with K = {K} and D = {D}")
    variances, axes = np.linalg.eigh(covs)
    if variances.min() < -1e-9 * max(1.0, variances.max()):
        raise ValueError("one of `covs` has a negative variance")
    tables = weights / weights.sum(), means, np.sqrt(np.maximum(variances, 0)), axes
    return Mixture(*(np.asarray(x, np.float32) for x in tables))  # NumPy, so that importing this starts no jax backend


def gaussian(mean, cov) -> Mixture:
    """Gaussian, as a mixture with one component.

    Args:
      mean: [D].
      cov: a variance, variances [D], or a covariance [D, D]; 0 is a point.

    Returns:
      `Mixture` with one component.

    Raises:
      ValueError: a mean that is no vector, numbers that are not finite, or a covariance as `mixture` refuses it.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import schedules, testing
        >>> schedule, data = schedules.from_betas([0.36]), testing.gaussian([1.0], 4.0)  # alpha = 0.8, sigma = 0.6
        >>> x0, eps, _ = data.denoiser(schedule)(jnp.array([[1.8]]), 1, None)
        >>> round(float(x0[0, 0]), 4)  # 1 + 0.8 * 4 * (1.8 - 0.8) / (0.64 * 4 + 0.36)
        2.0959
    """
    mean, cov = as_numbers("mean", mean), as_numbers("cov", cov)
    for name, numbers in (("mean", mean), ("cov", cov)):
        if not np.all(np.isfinite(numbers)):
            raise ValueError(f"`{name}` must be finite")
    if mean.ndim != 1 or not mean.size:
        raise ValueError(f"`mean` must be a vector [D], not of shape {list(mean.shape)}")
    return mixture([1.0], mean[None], cov[None])


def ring(count: int = 8, radius: float = 1.0, std: float = 0.1) -> Mixture:
    """Equal Gaussians on a circle: two-dimensional data for plots.

    Args:
      count: number of Gaussians.
      radius: radius of the circle.
      std: standard deviation of each Gaussian.

    Returns:
      `Mixture` over D = 2.

    Raises:
      ValueError: no whole number of Gaussians of at least 1, a radius that is not finite, a std below 0.

    Example::

        >>> from jaxdiff import testing
        >>> testing.ring(4).means.round(3).tolist()
        [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-0.0, -1.0]]
    """
    count = check_count("count", count)
    check_number("radius", radius)
    check_number("std", std, *AT_LEAST_0)
    angles = 2 * np.pi * np.arange(count) / count
    means = radius * np.stack([np.cos(angles), np.sin(angles)], -1)
    return mixture(np.ones(count), means, np.full(count, std**2))


def _denoise(data, schedule, x_t, t, cond):
    del cond
    x0, eps = _over_examples(lambda level, x: _posterior(data, level, x)[1:], schedule, x_t, t)
    return Prediction(x0.reshape(x_t.shape), eps.reshape(x_t.shape))


def _denoise_labeled(labeled, schedule, x_t, t, cond=None):
    if cond is None:
        return _denoise(labeled.data, schedule, x_t, t, None)

    def one(level, x, label):
        return _posterior(labeled.data._replace(weights=labeled.weights_of(label)), level, x)[1:]

    x0, eps = _over_examples(one, schedule, x_t, t, cond.label)
    return Prediction(x0.reshape(x_t.shape), eps.reshape(x_t.shape))


def _log_posterior(labeled, schedule, x_t, t, cond):
    def one(level, x, label):
        joint = _posterior(labeled.data._replace(weights=labeled.weights_of(label)), level, x)[0]
        return joint - _posterior(labeled.data, level, x)[0]

    return _over_examples(one, schedule, x_t, t, cond.label)


def _over_examples(one, schedule, x_t, t, *rest):
    level = schedule(jnp.broadcast_to(jnp.asarray(t), x_t.shape[:1]))
    return jax.vmap(one)(level, x_t.reshape(x_t.shape[0], -1), *rest)


def _posterior(data: Mixture, level: AlphaSigma, x: Array):
    """log q(x), E[x_0 | x] and E[eps | x] for one example x [D], equations (1) to (3)."""
    alpha, sigma = level
    y = jnp.einsum("kde,kd->ke", data.axes, x[None] - alpha * data.means)  # along the axes
    variance = jnp.square(alpha * data.stds) + jnp.square(sigma)
    safe = jnp.where(variance > 0, variance, 1.0)  # points at level 0 have no density
    scaled = jnp.where(variance > 0, y / safe, 0.0)
    log_each = jnp.log(data.weights) - 0.5 * (y * scaled + jnp.log(2 * jnp.pi * safe)).sum(-1)
    posterior = jax.nn.softmax(log_each)
    x0 = data.means + jnp.einsum("kde,ke->kd", data.axes, alpha * jnp.square(data.stds) * scaled)
    eps = jnp.einsum("kde,ke->kd", data.axes, sigma * scaled)
    return jax.nn.logsumexp(log_each), posterior @ x0, posterior @ eps
