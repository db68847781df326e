"""How far samplers end from what is known of a Gaussian, without chance, and at what order that falls with more steps."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxdiff import samplers, schedules, timesteps
from jaxdiff.testing.oracle import Mixture, gaussian
from jaxdiff.types import Array

CLOUD = gaussian([1.0, -0.5], [[0.5, 0.2], [0.2, 0.3]])


def order_of(counts: Sequence[int], errors: Sequence[float]) -> float:
    """The order of convergence: p where errors fall as counts^-p, by least squares on the logarithms.

    Args:
      counts: numbers of steps, [M], M at least 2.
      errors: above 0, [M].

    Returns:
      p.

    Example::

        >>> from jaxdiff import testing
        >>> round(testing.order_of([10, 20, 40], [1.0, 0.25, 0.0625]), 4)
        2.0
    """
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


def flow_errors(
    sampler: samplers.Sampler, counts: Sequence[int], data: Mixture = CLOUD, batch: int = 256, spacing: str = "karras"
) -> np.ndarray:
    """How far a deterministic sampler ends from the exact flow of a Gaussian, for several numbers of steps.

    From level T = 4096 of the VP-SDE's schedule to level 1, in Karras' spacing, whose steps are smooth along all of the
    path: a solver then shows its order. On steps even in levels the last ones, near clean data, are as large in log-SNR
    however many there are, and orders are lower.

    Args:
      sampler: draws nothing.
      counts: numbers of steps. Paths are compiled in parts of their greatest common divisor.
      data: one Gaussian.
      batch: how many paths.
      spacing: "karras" or "exponential", of levels between those of the tables (float32); or, for samplers that know whole
        levels only, "trailing", with counts that divide 4096.

    Returns:
      Root mean squares over paths and components, float64 [M].

    Example::

        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> errors = testing.flow_errors(jaxdiff.ddim(), [32, 64, 128])
        >>> round(testing.order_of([32, 64, 128], errors))
        1
    """
    x_T = samplers.noise(samplers.keys_for(jax.random.key(0), batch), data.means.shape[1:])
    exact = np.asarray(data.flow(vp_sde(), x_T, 4096, 1), np.float64)
    ends = _ends(None, sampler, counts, data, x_T, spacing)
    return np.array([np.sqrt(np.mean(np.square(x - exact))) for x in ends])


def moment_errors(
    sampler: samplers.Sampler,
    counts: Sequence[int],
    data: Mixture = CLOUD,
    spacing: str = "karras",
    draws: Callable[[Array, tuple[int, ...]], Array] = samplers.normal,
) -> tuple[np.ndarray, np.ndarray]:
    """How far mean and covariance at the end are from those of the marginal, for several numbers of steps, without chance.

    Paths are those of `flow_errors`, and moments those of `affine_moments`.

    Args:
      sampler: draws noise, and is affine on Gaussian data: its steps are as long as the levels say, whatever x is.
      counts: numbers of steps. Paths are compiled in parts of their greatest common divisor.
      data: one Gaussian.
      spacing: see `flow_errors`.
      draws: (keys [B], shape) -> the standard normal numbers [B, *shape] that the sampler draws from a step's keys, or
        [K, B, *shape] where it draws K times.

    Returns:
      Errors of the mean [M, D] and of the covariance [M, D, D], signed, float64.

    Raises:
      AssertionError: x at the end is no affine function of x_T and the draws.

    Example::

        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> _, cov = testing.moment_errors(jaxdiff.samplers.euler_maruyama(), [16, 32, 64])
        >>> round(testing.order_of([16, 32, 64], abs(cov).max((1, 2))))
        1
    """
    shape = data.means.shape[1:]
    keys = samplers.keys_for(jax.random.key(0), paths_for(max(counts), shape, draws))
    x_T = samplers.noise(keys, shape)
    noise = noise_of_steps(keys, max(counts), shape, draws)
    start, (mean, cov) = data.moments(vp_sde(), 4096), data.moments(vp_sde(), 1)
    means, covs = [], []
    for count, x in zip(counts, _ends(keys, sampler, counts, data, x_T, spacing)):
        found = affine_moments(x, x_T, noise[: count * len(noise) // max(counts)], *start)
        means.append(found[0] - mean)
        covs.append(found[1] - cov)
    return np.array(means), np.array(covs)


def affine_moments(x, x_T, noise, mean, cov) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x without chance, where paths are affine in x_T and in all that was drawn.

        x = a + B x_T + sum_k C_k z_k,   E x = a + B E x_T,   cov x = B cov(x_T) B' + sum_k C_k C_k'

    On Gaussian data each step of most samplers is so, with the same numbers on every path. Least squares finds them, and
    says if it is so.

    Args:
      x: where paths are, float [P, D]; P of `paths_for`, or anyhow more than there are numbers in a row of x_T and noise.
      x_T: where they began, [P, D].
      noise: standard normal numbers, [K, P, D], such as `noise_of_steps`; [] if nothing was drawn.
      mean: of x_T in the distribution that is asked about, [D]; paths may begin anywhere, such as in N(0, I).
      cov: the same, [D, D].

    Returns:
      Mean [D] and covariance [D, D], float64.

    Raises:
      AssertionError: x is not affine in them.

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
    off = np.abs(columns @ weights - x).max()
    assert off < 1e-4 * (1 + np.abs(x).max()), (
        f"x is off by {off:.1e} from an affine function of x_T and the noise: name all that a step draws (draws), or, "
        "where steps depend on x otherwise, compare the moments of many paths with those of Mixture.moments"
    )
    a, B, C = np.split(weights, [1, 1 + D])
    return a[0] + mean @ B, B.T @ cov @ B + C.T @ C


def noise_of_steps(keys: Array, steps: int, shape: tuple[int, ...], draws: Callable = samplers.normal) -> np.ndarray:
    """What a sampler draws in the steps of `sample`.

    Args:
      keys: one random key per path, [P], as given to `sample`.
      steps: N.
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
    """Twice as many paths as an affine function of x_T and of all that is drawn has coefficients.

    Args:
      steps: how many.
      shape: of one example, (D,).
      draws: see `moment_errors`.

    Returns:
      P.

    Example::

        >>> from jaxdiff.testing import convergence
        >>> convergence.paths_for(10, (2,))
        46
    """
    one = jax.eval_shape(lambda keys: draws(keys, shape), samplers.keys_for(jax.random.key(0), 1))
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


def levels_over(schedule: schedules.Schedule, count: int, spacing: str) -> np.ndarray:
    """From level T to level 1 in so many steps.

    Args:
      schedule: noise schedule.
      count: N.
      spacing: see `flow_errors`.

    Returns:
      Levels, [N + 1].

    Example::

        >>> from jaxdiff.testing import convergence
        >>> convergence.levels_over(convergence.vp_sde(), 2, "trailing").tolist()
        [4096, 2048, 1]
    """
    if spacing in timesteps.SIGMA_SPACINGS:
        return timesteps.grid_by_sigma(schedule, count, spacing)
    return timesteps.grid(schedule.num_levels, count, spacing, end=1)


@functools.partial(jax.jit, static_argnames=("shape", "draws"))
def _noise_of_steps(keys, steps, shape, draws):
    return jax.lax.map(lambda step: draws(samplers.fold(keys, step), shape), steps)


def _ends(keys, sampler, counts, data, x_T, spacing):
    """x at level 1 after each number of steps."""
    schedule, size = vp_sde(), math.gcd(*counts)
    for count in counts:
        levels = levels_over(schedule, count, spacing)
        *_, (x, _) = samplers.chunks(keys, sampler, data.denoiser(schedule), schedule, levels, x_T, size=size)
        yield np.asarray(x, np.float64)
