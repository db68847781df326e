"""Checks of schedules, denoisers and samplers; each raises AssertionError with a line that describes the fault."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import process, samplers, schedules, timesteps
from jaxdiff.errors import check_known
from jaxdiff.seeds import key_of
from jaxdiff.testing.convergence import (
    CLOUD,
    affine_moments,
    flow_errors,
    levels_over,
    moment_errors,
    noise_of_steps,
    noisiest,
    order_of,
    paths_for,
    vp_sde,
)
from jaxdiff.testing.oracle import Mixture, gaussian
from jaxdiff.types import Denoiser, as_partial

POINT = gaussian([1.5, -0.5], 0.0)
FLOAT32 = 1e-5  # error from rounding after hundreds of steps
PRESERVED = {
    "variance": ("alpha^2 + sigma^2", lambda alpha, sigma: alpha**2 + sigma**2),
    "sum": ("alpha + sigma", lambda alpha, sigma: alpha + sigma),
    "signal": ("alpha", lambda alpha, sigma: alpha),
}


def check_schedule(schedule, tolerance: float = 1e-5, preserves: str | None = "variance") -> None:
    """Checks the properties of schedules over levels 0..T.

    Level 0 is clean data; alpha does not rise and the signal-to-noise ratio falls at every level; float levels lie between;
    and at all of them the sum that a family of schedules preserves is 1.

    Args:
      schedule: t -> (alpha, sigma), with `num_levels`, such as a `jaxdiff.schedules.Schedule`.
      tolerance: of what is preserved.
      preserves: "variance", alpha^2 + sigma^2; "sum", alpha + sigma, of rectified flow; "signal", alpha, of exploding
        variance; None of others.

    Raises:
      AssertionError: something does not hold.
      TypeError: `schedule` is no schedule.
      ValueError: `preserves` is unknown.

    Example::

        >>> from jaxdiff import schedules, testing
        >>> testing.check_schedule(schedules.cosine())
        >>> testing.check_schedule(schedules.rectified_flow(), preserves="sum")
    """
    T = _num_levels(schedule)
    if preserves is not None:
        check_known("preserved sum", preserves, PRESERVED)
    alpha, sigma = (np.asarray(x, np.float64) for x in schedule(jnp.arange(T + 1)))
    assert alpha.shape == sigma.shape == (T + 1,), (
        f"schedule(t) of {T + 1} levels has shapes {alpha.shape}, {sigma.shape}"
    )
    assert np.all(np.isfinite(alpha) & np.isfinite(sigma)), "some scale is not finite"
    assert alpha[0] == 1 and sigma[0] == 0, f"level 0 is not clean data: alpha {alpha[0]}, sigma {sigma[0]}"
    a, b = (np.asarray(x, np.float64) for x in schedule(jnp.arange(1, T) + 0.5))
    if preserves is not None:
        name, kept = PRESERVED[preserves]
        for where, error in (("at", np.abs(kept(alpha, sigma) - 1)), ("above", np.abs(kept(a, b) - 1))):
            first = error.argmax() + (where == "above") if error.size else 0
            assert np.all(error < tolerance), f"{name} is off by {error.max():.1e} {where} level {first}"
    assert np.all(np.diff(alpha) <= 0), f"alpha rises into level {np.diff(alpha).argmax() + 1}"
    angle = np.arctan2(sigma, alpha)
    rises = np.flatnonzero(np.diff(angle) <= 0)
    assert not len(rises), f"the signal-to-noise ratio does not fall from level {rises[:1]} to the next"
    between = np.arctan2(b, a)
    inside = (angle[1:-1] <= between + tolerance) & (between <= angle[2:] + tolerance)
    assert np.all(inside), f"between levels {np.flatnonzero(~inside)[:1] + 1} and the next is not between them"


def _num_levels(schedule):
    """T; TypeError for what is no schedule."""
    if not callable(schedule) or not hasattr(schedule, "num_levels"):
        raise TypeError(
            f"`schedule` must be a Schedule, or a function with `num_levels`, not {type(schedule).__name__}"
        )
    return schedule.num_levels


def check_denoiser(
    denoise: Denoiser, schedule, shape: tuple[int, ...], cond=None, data: Mixture | None = None, tolerance: float = 1e-3
) -> None:
    """Checks the properties of denoisers: x_t = alpha x0 + sigma eps at all levels, and examples that are independent.

    It fails for a denoiser that clips x0 and does not change eps.

    Args:
      denoise: (x_t, t, cond) -> Prediction.
      schedule: its noise schedule.
      shape: of one example.
      cond: conditions of 4 examples.
      data: if given, the denoiser must be the optimal one for this data.
      tolerance: relative to 1 + |x|.

    Raises:
      AssertionError: something does not hold.
      TypeError: `schedule` is no schedule.

    Example::

        >>> from jaxdiff import schedules, testing
        >>> schedule, data = schedules.linear(), testing.ring()
        >>> testing.check_denoiser(data.denoiser(schedule), schedule, (2,), data=data)
    """
    T = _num_levels(schedule)
    x = 1.5 * samplers.noise(samplers.keys_for(key_of(0), 4), shape)
    close = lambda a, b: bool(jnp.all(jnp.abs(a - b) <= tolerance * (1 + jnp.abs(b))))
    for t in sorted({1, max(1, T // 10), max(1, T // 2), T}):
        together, per_example, alone = _predictions(as_partial(denoise, "denoise"), x, jnp.int32(t), cond)
        for name in ("x0", "eps"):
            value = getattr(together, name)
            assert value.shape == x.shape, f"{name} has shape {value.shape} and x_t {x.shape}"
            assert bool(jnp.all(jnp.isfinite(value))), f"{name} is not finite at level {t}"
        alpha, sigma = schedule(t)
        assert close(alpha * together.x0 + sigma * together.eps, x), f"x_t is not alpha x0 + sigma eps at level {t}"
        assert close(per_example.x0, together.x0), f"a scalar level and one level per example differ at level {t}"
        if cond is None:
            assert close(alone.x0, together.x0[:1]), f"an example depends on the others of its batch at level {t}"
        if data is not None:
            exact, *_ = _predictions(data.denoiser(schedule), x, jnp.int32(t), None)
            assert close(together.x0, exact.x0), f"x0 is not E[x_0 | x_t] at level {t}"


@jax.jit
def _predictions(denoise, x, t, cond):
    """Predictions with a scalar level, with a level per example, and, without a condition, of the first example alone."""
    alone = denoise(x[:1], t, cond) if cond is None else None
    return denoise(x, t, cond), denoise(x, jnp.full(len(x), t), cond), alone


def check_prediction_kind(
    kind: str | tuple[Callable, Callable], schedule, levels=None, tolerance: float = 1e-4
) -> None:
    """Checks that a kind of prediction recovers x0 and eps from the training target.

    Args:
      kind: one of `jaxdiff.process.KINDS`, or a pair of functions: predict(schedule, output, x_t, t) -> Prediction and
        target(schedule, x0, eps, t) -> output, of one example and a scalar level.
      schedule: noise schedule.
      levels: levels at which the kind is defined, int [M]; None is all with both signal and noise.
      tolerance: of x0 and eps, in addition to the rounding of x_t divided by alpha or sigma.

    Raises:
      AssertionError: x0 or eps is not recovered.
      TypeError: `schedule` is no schedule.

    Example::

        >>> from jaxdiff import schedules, testing
        >>> testing.check_prediction_kind("eps", schedules.linear())
        >>> testing.check_prediction_kind("v", schedules.zero_terminal_snr(schedules.linear()), levels=range(1001))
    """
    T = _num_levels(schedule)
    functions = (functools.partial(f, kind) for f in (process.predict_from, process.target_for))
    predict, target = functions if isinstance(kind, str) else kind
    if levels is None:
        scales = schedule(jnp.arange(T + 1))
        levels = np.flatnonzero((np.asarray(scales[0]) > 0) & (np.asarray(scales[1]) > 0))
    levels = np.asarray(levels)
    x0, eps = samplers.normal(samplers.keys_for(key_of(0), 2), (len(levels), 4))

    def recover(t, x0, eps):
        return predict(schedule, target(schedule, x0, eps, t), process.q_sample(schedule, x0, t, eps), t)

    prediction = jax.jit(jax.vmap(recover))(levels, x0, eps)
    for name, value, true, scale in zip(("x0", "eps"), prediction, (x0, eps), schedule(levels)):
        error = np.abs(np.asarray(value - true, np.float64)).max(1)
        allowed = tolerance + 1e-6 / np.maximum(np.asarray(scale), 1e-9)
        worst = np.argmax(error / allowed)
        assert error[worst] <= allowed[worst], f"{name} is off by {error[worst]:.1e} at level {levels[worst]}"


def check_round_trip(
    sampler: samplers.Sampler, tolerance: float, steps: int = 128, spacing: str = "karras", schedule=None
) -> None:
    """Checks that a deterministic sampler is reversible: from level 1 up to T and back down to 1.

    It does not check x in between, and a sampler that does nothing passes: `check_sampler` checks that.

    Args:
      sampler: deterministic.
      tolerance: of the root mean square over paths and components, whose standard deviations are below 1.
      steps: number of steps up, and again down. DDIM is reversible to first order: twice the steps halve the error.
      spacing: see `flow_errors`.
      schedule: see `flow_errors`.

    Raises:
      AssertionError: it does not return to the start.

    Example::

        >>> from jaxdiff import samplers, testing
        >>> testing.check_round_trip(samplers.probability_flow(), tolerance=1e-3, steps=1)
    """
    schedule = schedule or vp_sde()
    x_T = schedule.std(noisiest(schedule)) * samplers.noise(samplers.keys_for(key_of(0), 256), (2,))
    x_1, levels = CLOUD.flow(schedule, x_T, noisiest(schedule), 1), levels_over(schedule, steps, spacing)
    run = functools.partial(samplers.sample, None, sampler, CLOUD.denoiser(schedule), schedule)
    up, _ = run(levels[::-1], x_1, rising=True)
    error = float(np.sqrt(np.mean(np.square(np.asarray(run(levels, up)[0] - x_1, np.float64)))))
    assert error < tolerance, (
        f"after {steps} steps up and {steps} down x is off by {error:.1e}, not below {tolerance:.1e}"
    )


def check_sampler(
    sampler: samplers.Sampler,
    order: int = 1,
    *,
    stochastic: bool = False,
    exact_on_points: bool = True,
    spacing: str = "karras",
    draws: Callable = samplers.normal,
    schedule=None,
) -> None:
    """Checks a sampler against data with known solutions, without Monte-Carlo error.

    * On data that is a single point the marginals N(alpha_s mu, sigma_s^2) hold after every step, for steps of any size
      (`exact_on_points`): an index that is off by one, or a wrong variance, is visible at once.
    * On a Gaussian it converges at its order: a deterministic sampler to the exact flow, path by path; a stochastic one to
      the mean and covariance of the marginal. The latter come from `affine_moments`, so that a sampler whose steps depend
      on x otherwise, such as `predictor_corrector`, is refused with a line that names the alternative.

    Args:
      sampler: a `jaxdiff.samplers.Sampler`.
      order: expected order of convergence; a higher one passes, and so does a sampler that is exact to float32.
      stochastic: whether it needs a random key.
      exact_on_points: whether to check single points; those that discretize a drift, such as Euler-Maruyama's, fail.
      spacing: spacing of the levels over which it converges, see `flow_errors`.
      draws: the noise of a step, if it is not `samplers.normal(keys, shape)`; see `moment_errors`.
      schedule: noise schedule; None is the cosine of 16 levels for points, and for the Gaussian see `flow_errors`.

    Raises:
      AssertionError: something does not hold.

    Example::

        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> testing.check_sampler(jaxdiff.ddim(), order=1)
        >>> testing.check_sampler(jaxdiff.ddpm(), order=1, stochastic=True)
    """
    if exact_on_points:
        _check_on_point(sampler, draws if stochastic else None, schedule or schedules.cosine(16))
    if stochastic:
        found = moment_errors(sampler, [64, 128, 256], CLOUD, spacing, draws, schedule)
        for name, errors in zip(("mean", "covariance"), found):
            errors = errors.reshape(3, -1)
            _check_convergence(name, errors[:, np.abs(errors[0]).argmax()], order)
        return
    counts = [32, 64, 128]
    errors = flow_errors(sampler, counts, spacing=spacing, schedule=schedule)
    measured = order_of(counts, errors) if np.all((errors > 0) & np.isfinite(errors)) else np.nan
    assert errors[-1] < FLOAT32 or measured > order - 0.25, (
        f"errors {errors} over {counts} steps fall at order {measured:.2f}, not {order}"
    )
    assert errors[-1] < 0.05, f"after {counts[-1]} steps it is still {errors[-1]:.3f} from the exact flow"


def _check_on_point(sampler, draws, schedule):
    """Checks mean and standard deviation after each of eight steps, in units of x."""
    levels = timesteps.grid(schedule.num_levels, 8)
    keys = samplers.keys_for(key_of(0), paths_for(8, (2,), draws or samplers.normal))
    x_T = schedule.std(levels[0]) * samplers.noise(keys, (2,))
    noise = noise_of_steps(keys, 8, (2,), draws) if draws else []
    denoise, start = POINT.denoiser(schedule), POINT.moments(schedule, levels[0])
    _, xs = samplers.sample(keys if draws else None, sampler, denoise, schedule, levels, x_T, collect=_x_of)
    for x, s in zip(xs, levels[1:]):
        (mean, cov), (true_mean, true_cov) = affine_moments(x, x_T, noise, *start), POINT.moments(schedule, s)
        size = float(schedule.std(s))
        error = np.abs(mean - true_mean).max() / size
        assert error < 2e-3, f"on a single point the mean at level {s} is off by {error:.4f}"
        std, true_std = np.sqrt(np.diag(cov)), np.sqrt(np.diag(true_cov))
        error = np.abs(std - true_std).max() / size
        assert error < 2e-3, (
            f"on a single point the standard deviation at level {s} is off by {error:.4f} from {true_std[0]:.4f}"
        )


def _x_of(state, prediction):
    return state.x


def _check_convergence(name, errors, order):
    """Checks signed errors b + c N^-p after N = 64, 128 and 256 steps: p must be the order or above, and b small."""
    first, second = -np.diff(errors)
    if max(abs(first), abs(second)) < FLOAT32:
        measured, rest = np.inf, errors[-1]
    else:
        measured = np.log2(first / second) if first * second > 0 else -np.inf
        rest = errors[-1] - second / (first / second - 1) if measured > 0 else np.inf
    message = f"errors of the {name} {errors} after 64, 128 and 256 steps"
    assert measured > order - 0.25, f"{message} fall at order {measured:.2f}, not {order}"
    assert abs(rest) < 0.01, f"{message} go to {rest:.3f}, not to 0"
