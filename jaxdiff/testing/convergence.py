"""Errors of samplers on Gaussian data with known solutions, without Monte-Carlo error, and their order of convergence."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxdiff import samplers, schedules, timesteps
from jaxdiff.arguments import as_numbers, check_count
from jaxdiff.seeds import key_of
from jaxdiff.testing.oracle import Mixture, gaussian
from jaxdiff.types import Array

CLOUD = gaussian([1.0, -0.5], [[0.5, 0.2], [0.2, 0.3]])


def order_of(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Order of convergence p of errors that fall as counts^-p, by least squares on the logarithms.

    Args:
      counts: numbers of steps, [M], M at least 2.
      errors: above 0, [M].

    Returns:
      p.

    Raises:
      ValueError: fewer than two different numbers of steps, another number of errors, or some that are not above 0 and
        finite.

    Example::

        >>> from jaxdiff import testing
        >>> round(testing.order_of([10, 20, 40], [1.0, 0.25, 0.0625]), 4)
        2.0
    """
    counts, errors = as_numbers("counts", counts), as_numbers("errors", errors)
    for name, numbers in (("counts", counts), ("errors", errors)):
        if numbers.ndim != 1 or not np.all((numbers > 0) & np.isfinite(numbers)):
            raise ValueError(f"`{name}` must be a vector of finite numbers above 0")
    if len(np.unique(counts)) < 2:
        raise ValueError(f"`counts`={counts.tolist()} must be of at least two different numbers of steps")
    if len(counts) != len(errors):
        raise ValueError(f"`errors` must be one for each of {len(counts)} `counts`, not {len(errors)}")
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


def flow_errors(
    sampler: samplers.Sampler,
    counts: Sequence[int],
    data: Mixture = CLOUD,
    batch: int = 256,
    spacing: str = "karras",
    schedule: schedules.Schedule | None = None,
) -> np.ndarray:
    """Error of a deterministic sampler with respect to the exact flow of a Gaussian, for several numbers of steps.

    From the noisiest level with a signal to level 1, in Karras' spacing, whose steps are smooth along the whole
    path, so that a solver has its order. Of steps even in levels, the last ones, near clean data, are large in log-SNR for
    any number of steps, and orders are lower.

    Args:
      sampler: deterministic.
      counts: numbers of steps. Paths are compiled in chunks of their greatest common divisor.
      data: one Gaussian.
      batch: number of paths.
      spacing: "karras" or "exponential", with levels between those of the tables (float32); or, for samplers that need
        integer levels, "trailing", with counts that divide 4096.
      schedule: noise schedule; None is the VP-SDE's of T = 4096, see `vp_sde`.

    Returns:
      Root mean squares over paths and components, float64 [M].

    Example::

        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> errors = testing.flow_errors(jaxdiff.ddim(), [32, 64, 128])
        >>> round(testing.order_of([32, 64, 128], errors))
        1
    """
    schedule = schedule or vp_sde()
    x_T = schedule.std(noisiest(schedule)) * samplers.noise(samplers.keys_for(key_of(0), batch), data.means.shape[1:])
    exact = np.asarray(data.flow(schedule, x_T, noisiest(schedule), 1), np.float64)
    ends = _ends(None, sampler, counts, data, schedule, x_T, spacing)
    return np.array([np.sqrt(np.mean(np.square(x - exact))) for x in ends])


def moment_errors(
    sampler: samplers.Sampler,
    counts: Sequence[int],
    data: Mixture = CLOUD,
    spacing: str = "karras",
    draws: Callable[[Array, tuple[int, ...]], Array] = samplers.normal,
    schedule: schedules.Schedule | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of mean and covariance with respect to the marginal, for several numbers of steps, without Monte-Carlo error.

    Paths are those of `flow_errors`, and moments those of `affine_moments`.

    Args:
      sampler: stochastic, and affine on Gaussian data: its step sizes depend on the levels and not on x.
      counts: numbers of steps. Paths are compiled in chunks of their greatest common divisor.
      data: one Gaussian.
      spacing: see `flow_errors`.
      draws: (keys [B], shape) -> the standard normal numbers [B, *shape] that the sampler draws from a step's keys, or
        [K, B, *shape] if it draws K times.
      schedule: see `flow_errors`.

    Returns:
      Errors of the mean [M, D] and of the covariance [M, D, D], signed, float64.

    Raises:
      AssertionError: x at the end is not an affine function of x_T and the draws.

    Example::

        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> _, cov = testing.moment_errors(jaxdiff.samplers.euler_maruyama(), [16, 32, 64])
        >>> round(testing.order_of([16, 32, 64], abs(cov).max((1, 2))))
        1
    """
    schedule, shape = schedule or vp_sde(), data.means.shape[1:]
    keys = samplers.keys_for(key_of(0), paths_for(max(counts), shape, draws))
    x_T = schedule.std(noisiest(schedule)) * samplers.noise(keys, shape)
    noise = noise_of_steps(keys, max(counts), shape, draws)
    start, (mean, cov) = data.moments(schedule, noisiest(schedule)), data.moments(schedule, 1)
    means, covs = [], []
    for count, x in zip(counts, _ends(keys, sampler, counts, data, schedule, x_T, spacing)):
        found = affine_moments(x, x_T, noise[: count * len(noise) // max(counts)], *start)
        means.append(found[0] - mean)
        covs.append(found[1] - cov)
    return np.array(means), np.array(covs)


def affine_moments(x, x_T, noise, mean, cov) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x without Monte-Carlo error, for paths that are affine in x_T and in the noise.

        x = a + B x_T + sum_k C_k z_k,   E x = a + B E x_T,   cov x = B cov(x_T) B' + sum_k C_k C_k'

    On Gaussian data the steps of most samplers are affine, with the same coefficients for every path. Least squares finds
    them, and its residual shows whether they are.

    Args:
      x: end of each path, float [P, D]; P from `paths_for`, or at least more than there are numbers in x_T and noise of one
        path.
      x_T: start of each path, [P, D].
      noise: standard normal numbers, [K, P, D], such as `noise_of_steps`; [] if the sampler is deterministic.
      mean: mean of x_T in the distribution of interest, [D]; the paths themselves may start anywhere, such as in N(0, I).
      cov: covariance of x_T in this distribution, [D, D].

    Returns:
      Mean [D] and covariance [D, D], float64.

    Raises:
      AssertionError: x is not affine in x_T and noise.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import testing
        >>> x_T, z = np.random.default_rng(0).standard_normal([2, 64, 1])
        >>> mean, cov = testing.affine_moments(3.0 + 0.5 * x_T + 2.0 * z, x_T, [z], mean=[2.0], cov=[[4.0]])
        >>> round(float(mean[0]), 4), round(float(cov[0, 0]), 4)  # 3 + 0.5 * 2, and 0.5^2 * 4 + 2^2
        (4.0, 5.0)
    """
    x, D = np.asarray(x, np.float64), len(mean)
    columns = np.concatenate([np.ones([len(x), 1]), x_T, *noise], 1, dtype=np.float64)
    weights = np.linalg.solve(columns.T @ columns, columns.T @ x)
    residual = np.abs(columns @ weights - x).max()
    assert residual < 1e-4 * (1 + np.abs(x).max()), (
        f"x is off by {residual:.1e} from an affine function of x_T and the noise: give all noise of a step as `draws`, "
        "or, if steps depend on x otherwise, compare the moments of many paths with those of Mixture.moments"
    )
    a, B, C = np.split(weights, [1, 1 + D])
    return a[0] + mean @ B, B.T @ cov @ B + C.T @ C


def noise_of_steps(keys: Array, steps: int, shape: tuple[int, ...], draws: Callable = samplers.normal) -> np.ndarray:
    """The noise that a sampler draws in the steps of `sample`.

    Args:
      keys: one random key per path, [P], as given to `sample`.
      steps: N, number of steps.
      shape: of one example, (D,).
      draws: see `moment_errors`.

    Returns:
      Standard normal numbers, float64 [N K, P, D].

    Example::

        >>> import jax
        >>> from jaxdiff import samplers, testing
        >>> testing.noise_of_steps(samplers.keys_for(jax.random.key(0), 8), 5, (2,)).shape
        (5, 8, 2)
    """
    z = _noise_of_steps(keys, np.arange(1, steps + 1), shape, draws)
    return np.asarray(z, np.float64).reshape(-1, len(keys), *shape)


def paths_for(steps: int, shape: tuple[int, ...], draws: Callable = samplers.normal) -> int:
    """Number of paths for `affine_moments`: twice the number of coefficients of an affine function of x_T and all noise.

    Args:
      steps: number of steps.
      shape: of one example, (D,).
      draws: see `moment_errors`.

    Returns:
      P, number of paths.

    Example::

        >>> from jaxdiff.testing import convergence
        >>> convergence.paths_for(10, (2,))
        46
    """
    one = jax.eval_shape(lambda keys: draws(keys, shape), samplers.keys_for(key_of(0), 1))
    return 2 * (1 + math.prod(shape) + steps * one.size)


def vp_sde() -> schedules.Schedule:
    """The linear schedule of Song et al. 2021 (score SDE), appendix C.

    Returns:
      `Schedule` of T = 4096.

    Example::

        >>> from jaxdiff.testing import convergence
        >>> convergence.vp_sde().num_levels
        4096
    """
    return schedules.linear(4096, 0.1 / 4096, 20 / 4096)


def noisiest(schedule: schedules.Schedule) -> int:
    """The noisiest level with a signal: T, or T - 1 where level T is pure noise."""
    return schedule.num_levels - int(schedule.alpha[-1] == 0)


def levels_over(schedule: schedules.Schedule, count: int, spacing: str) -> np.ndarray:
    """Levels from the noisiest with a signal to 1.

    Args:
      schedule: noise schedule.
      count: N, number of steps.
      spacing: one of `timesteps.SPACINGS`.

    Returns:
      Levels, [N + 1].

    Example::

        >>> from jaxdiff.testing import convergence
        >>> convergence.levels_over(convergence.vp_sde(), 2, "trailing").tolist()
        [4096, 2048, 1]
    """
    return timesteps.SPACINGS[spacing](start=noisiest(schedule), end=1)(schedule, count)


@functools.partial(jax.jit, static_argnames=("shape", "draws"))
def _noise_of_steps(keys, steps, shape, draws):
    return jax.lax.map(lambda step: draws(samplers.fold(keys, step), shape), steps)


def _ends(keys, sampler, counts, data, schedule, x_T, spacing):
    """x at level 1, for each number of steps."""
    size = math.gcd(*(check_count("counts", count) for count in counts))
    for count in counts:
        levels = levels_over(schedule, count, spacing)
        *_, (x, _) = samplers.chunks(keys, sampler, data.denoiser(schedule), schedule, levels, x_T, size=size)
        yield np.asarray(x, np.float64)
