"""Checks of anybody's schedules, denoisers and samplers; each raises AssertionError with a line that says what is wrong."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import samplers, schedules, timesteps
from jaxdiff.testing.oracle import Mixture, gaussian
from jaxdiff.types import Denoiser

POINT = gaussian([1.5, -0.5], 0.0)
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
      counts: numbers of steps.
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
    schedule = schedules.linear(4096, 0.1 / 4096, 20 / 4096)
    keys = samplers.keys_for(jax.random.key(0), batch)
    x_T = samplers.noise(keys, data.means.shape[1:])
    exact, denoise = data.flow(schedule, x_T, 4096, 1), data.denoiser(schedule)
    found = []
    for count in counts:
        if spacing in timesteps.SIGMA_SPACINGS:
            levels = timesteps.grid_by_sigma(schedule, count, spacing)
        else:
            levels = timesteps.grid(4096, count, spacing, end=1)
        x, _ = samplers.sample(None, sampler, denoise, schedule, levels, x_T)
        found.append(np.sqrt(np.mean(np.square(np.asarray(x - exact, np.float64)))))
    return np.array(found)


def check_schedule(schedule, tolerance: float = 1e-5) -> None:
    """Checks what every variance-preserving schedule over levels 0..T must be.

    Level 0 is clean data; alpha^2 + sigma^2 = 1; the signal-to-noise ratio falls at every level; float levels lie between.

    Args:
      schedule: t -> (alpha, sigma), with `num_steps`, such as a `jaxdiff.schedules.Schedule`.
      tolerance: of the sums.

    Raises:
      AssertionError: something does not hold.

    Example::

        >>> from jaxdiff import schedules, testing
        >>> testing.check_schedule(schedules.cosine())
    """
    T = schedule.num_steps
    alpha, sigma = (np.asarray(x, np.float64) for x in schedule(jnp.arange(T + 1)))
    assert alpha.shape == sigma.shape == (T + 1,), (
        f"schedule(t) of {T + 1} levels has shapes {alpha.shape}, {sigma.shape}"
    )
    assert np.all(np.isfinite(alpha) & np.isfinite(sigma)), "some scale is not finite"
    assert alpha[0] == 1 and sigma[0] == 0, f"level 0 is not clean data: alpha {alpha[0]}, sigma {sigma[0]}"
    off = np.abs(alpha**2 + sigma**2 - 1)
    assert off.max() < tolerance, f"alpha^2 + sigma^2 is off by {off.max():.1e} at level {off.argmax()}"
    angle = np.arctan2(sigma, alpha)
    rises = np.flatnonzero(np.diff(angle) <= 0)
    assert not len(rises), f"the signal-to-noise ratio does not fall from level {rises[:1]} to the next"
    a, b = (np.asarray(x, np.float64) for x in schedule(jnp.arange(1, T) + 0.5))
    between = np.arctan2(b, a)
    inside = (angle[1:-1] <= between + tolerance) & (between <= angle[2:] + tolerance)
    assert np.all(inside), f"between levels {np.flatnonzero(~inside)[:1] + 1} and the next is not between them"


def check_denoiser(
    denoise: Denoiser, schedule, shape: tuple[int, ...], cond=None, data: Mixture | None = None, tolerance: float = 1e-3
) -> None:
    """Checks what every denoiser must hold: x_t = alpha x0 + sigma eps, at all levels, each example on its own.

    It fails for a denoiser that clips x0 and leaves eps as it was.

    Args:
      denoise: (x_t, t, cond) -> Prediction.
      schedule: that it was made for.
      shape: of one example.
      cond: conditions of 4 examples.
      data: if given, the denoiser is to be the optimal one of it.
      tolerance: relative to 1 + |x|.

    Raises:
      AssertionError: something does not hold.

    Example::

        >>> from jaxdiff import schedules, testing
        >>> schedule, data = schedules.linear(), testing.ring()
        >>> testing.check_denoiser(data.denoiser(schedule), schedule, (2,), data=data)
    """
    T = schedule.num_steps
    x = 1.5 * samplers.noise(samplers.keys_for(jax.random.key(0), 4), shape)
    close = lambda a, b: bool(jnp.all(jnp.abs(a - b) <= tolerance * (1 + jnp.abs(b))))
    for t in sorted({1, max(1, T // 10), max(1, T // 2), T}):
        said = denoise(x, jnp.int32(t), cond)
        for name in ("x0", "eps"):
            found = getattr(said, name)
            assert found.shape == x.shape, f"{name} has shape {found.shape} and x_t {x.shape}"
            assert bool(jnp.all(jnp.isfinite(found))), f"{name} is not finite at level {t}"
        alpha, sigma = schedule(t)
        assert close(alpha * said.x0 + sigma * said.eps, x), f"x_t is not alpha x0 + sigma eps at level {t}"
        each = denoise(x, jnp.full(4, t), cond)
        assert close(each.x0, said.x0), f"one level for all and one for each differ at level {t}"
        if cond is None:
            alone = denoise(x[:1], jnp.int32(t), cond)
            assert close(alone.x0, said.x0[:1]), f"an example depends on the others of its batch at level {t}"
        if data is not None:
            exact = data.denoiser(schedule)(x, jnp.int32(t), cond)
            assert close(said.x0, exact.x0), f"x0 is not E[x_0 | x_t] at level {t}"


def check_sampler(
    sampler: samplers.Sampler,
    order: int = 1,
    *,
    stochastic: bool = False,
    exact_on_points: bool = True,
    spacing: str = "karras",
    batch: int = 8192,
) -> None:
    """Checks a sampler against data of which its answer is known.

    * On data that is a single point the marginals N(alpha_s mu, sigma_s^2) are met after every step, however large the
      steps (`exact_on_points`): an index off by one or another variance shows at once.
    * On a Gaussian it converges at its order: a deterministic sampler to the exact flow, path by path; a stochastic one to
      the mean and covariance of the marginal.

    Args:
      sampler: a `jaxdiff.samplers.Sampler`.
      order: of convergence that it claims.
      stochastic: it needs a random key.
      exact_on_points: it claims so; those that discretise a drift, such as Euler-Maruyama's, do not.
      spacing: of the levels over which a deterministic one converges, see `flow_errors`.
      batch: how many paths, at least 1024.

    Raises:
      AssertionError: something does not hold.

    Example::

        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> testing.check_sampler(jaxdiff.ddim(), order=1)
    """
    key = jax.random.key(1) if stochastic else None
    if exact_on_points:
        _check_on_point(sampler, key, batch)
    if stochastic:
        _check_moments(sampler, key, order, batch)
        return
    counts = [32, 64, 128]
    errors = flow_errors(sampler, counts, spacing=spacing)
    measured = order_of(counts, errors)
    assert measured > order - 0.25, f"errors {errors} over {counts} steps fall at order {measured:.2f}, not {order}"
    assert errors[-1] < 0.05, f"after {counts[-1]} steps it is still {errors[-1]:.3f} from the exact flow"


def _check_on_point(sampler, key, batch):
    """Mean and standard deviation after each of eight steps over sixteen levels."""
    schedule = schedules.cosine(16)
    levels = timesteps.grid(16, 8)
    alpha, sigma = schedule(levels)
    mean, z = POINT.means, samplers.noise(samplers.keys_for(jax.random.key(0), batch), (2,))
    x_T = alpha[0] * mean + sigma[0] * z
    _, xs = samplers.sample(
        key, sampler, POINT.denoiser(schedule), schedule, levels, x_T, collect=lambda state, _: state.x
    )
    for x, s, a, b in zip(np.asarray(xs, np.float64), levels[1:], np.asarray(alpha[1:]), np.asarray(sigma[1:])):
        allowed = 5 / np.sqrt(batch) * b + 1e-3  # five standard errors
        off = np.abs(x.mean(0) - a * np.asarray(mean)).max()
        assert off < allowed, f"on a single point the mean at level {s} is off by {off:.4f} (allowed {allowed:.4f})"
        off = np.abs(x.std(0) - b).max()
        assert off < allowed, f"on a single point the standard deviation at level {s} is off by {off:.4f} from {b:.4f}"


def _check_moments(sampler, key, order, batch):
    """Mean and covariance at level 1 after 64 and 256 steps."""
    schedule = schedules.cosine(4096)
    mean, cov = CLOUD.moments(schedule, 1)
    noise = 6 / np.sqrt(batch)  # of the moments of so many draws, of which the variance is below 1
    errors = []
    for count in (64, 256):
        levels = timesteps.grid(4096, count, end=1)
        x_T = samplers.noise(samplers.keys_for(jax.random.key(0), batch), (2,))
        x, _ = samplers.sample(key, sampler, CLOUD.denoiser(schedule), schedule, levels, x_T)
        x = np.asarray(x, np.float64)
        errors.append(max(np.abs(x.mean(0) - mean).max(), np.abs(np.cov(x.T) - cov).max()))
    allowed = errors[0] / 4**order * 1.5 + noise
    assert errors[1] < allowed, f"errors of the moments {errors} after 64 and 256 steps do not fall at order {order}"
    assert errors[1] < 0.05 + noise, f"after 256 steps the moments are still off by {errors[1]:.3f}"
