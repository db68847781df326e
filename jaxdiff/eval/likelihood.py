r"""Likelihood of data under a model: the variational bound, and the exact likelihood by the probability flow.

  (1)  -log p(x_0) <= L_T + sum_t L_{t-1} + L_0                                            Ho et al. 2020, eq. 5
  (2)  log p(x_1) = log N(y_T; 0, I) + integral of div v over phi, from level 1 to T - D log size_1,   dy/dphi = v
       y = x / size,   size = sqrt(alpha^2 + sigma^2), 1 of DDPM                Song et al. 2021 (score SDE), eq. 39
  (3)  div v = E[z . (dv/dx)^T z] for z of independent signs                               Hutchinson 1990

The bound is of data of 256 values, in bits per dimension. (2) is a density, in nats; `dequantize` and `bits_per_dim` make
it a bound for such data, too.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arguments import check_arrays, check_count, check_prediction
from jaxdiff.errors import check_known
from jaxdiff.objectives.variational import bound_term, prior_term
from jaxdiff.process import VARIANCES, q_sample
from jaxdiff.samplers import each_key, fold, normal, ode
from jaxdiff.samplers.base import check_levels, check_x
from jaxdiff.samplers.keys import check_key
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Array, Denoiser, as_partial, is_traced

FARTHEST = 1.5  # of data in [-1, 1] that was resized or decoded, and may lie a little outside
BOUND, PROBES = 2**30, 2**30 + 1  # uses of a key that no step of a sampler has, so that they draw other numbers


class Bound(NamedTuple):
    """The variational bound of each example and its terms, in bits per dimension.

    Attributes:
      prior: L_T, float32 [B].
      steps: a draw of each step's term, in the order of the grid; the last is the decoder's, L_0; float32 [N, B].
      total: their sum, float32 [B].
    """

    prior: Array
    steps: Array
    total: Array


def variational_bound(
    key: Array,
    denoise: Denoiser,
    schedule: Schedule,
    timesteps,
    x0: Array,
    cond=None,
    variance: str = "posterior",
) -> Bound:
    """The variational bound of -log p(x_0) by one draw of x_t for each step, equation (1); see `objectives.variational`.

    It is that of the chain which the grid says: of all levels, `grid(T, T)`, for a figure to compare with papers. One that
    skips levels is the bound of a shorter chain, a model of its own and most often a worse one. Published code clips x0, as
    `guidance.clip_x0` does.

    Args:
      key: random key; or one per example [B]. With a single key, example i uses `keys_for(key, B)[i]`.
      denoise: the model.
      schedule: noise schedule.
      timesteps: falling levels from T to 0, [N + 1], N at least 2.
      x0: data of 256 values from -1 to 1, float32 [B, ...].
      cond: conditions, one row per example.
      variance: of the model's steps, "posterior", "beta" or "learned".

    Returns:
      `Bound`. Only another function, shape or variance is another compilation.

    Raises:
      ValueError: unknown variance; "learned" from a network that gives none; timesteps that are not such levels; an x0 of
        integers, or far outside of [-1, 1]; a prediction of another shape than x0.
      TypeError: a key that is not typed; `schedule` is no `Schedule`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> from jaxdiff.eval.likelihood import variational_bound
        >>> schedule, grey = jaxdiff.schedules.linear(), testing.gaussian([0.0, 0.0], 0.0)
        >>> levels, x0 = jaxdiff.timesteps.grid(1000, 1000), jnp.zeros([3, 2])
        >>> bound = variational_bound(jax.random.key(0), grey.denoiser(schedule), schedule, levels, x0)
        >>> bound.steps.shape, bool(jnp.all(bound.total < 1.5))  # it knows the data, up to the noise of level 1
        ((1000, 3), True)
    """
    steps = jnp.concatenate(list(bound_terms(key, denoise, schedule, timesteps, x0, cond, variance)))
    prior = jax.vmap(prior_term, (None, 0))(schedule, x0)
    return Bound(prior, steps, prior + steps.sum(0))


def bound_terms(
    key: Array,
    denoise: Denoiser,
    schedule: Schedule,
    timesteps,
    x0: Array,
    cond=None,
    variance: str = "posterior",
    size: int | None = None,
) -> Iterator[Array]:
    """`Bound.steps`, `size` of them at a time, so that the host can watch or stop.

    Args:
      key: as in `variational_bound`, and so are the arguments up to `variance`.
      denoise: see there.
      schedule: see there.
      timesteps: see there.
      x0: see there.
      cond: see there.
      variance: see there.
      size: steps in each part; None is all at once. Parts of equal size are one compilation; a shorter last one is another.

    Yields:
      Bits per dimension, float32 [size, B].

    Raises:
      As `variational_bound`.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> from jaxdiff.eval.likelihood import bound_terms
        >>> schedule, grey = jaxdiff.schedules.linear(), testing.gaussian([0.0, 0.0], 0.0)
        >>> levels, x0 = jaxdiff.timesteps.grid(1000, 40), jnp.zeros([3, 2])
        >>> parts = bound_terms(jax.random.key(0), grey.denoiser(schedule), schedule, levels, x0, size=10)
        >>> [part.shape for part in parts]
        [(10, 3), (10, 3), (10, 3), (10, 3)]
    """
    check_known("variance", variance, VARIANCES)
    check_schedule(schedule)
    check_x("x0", x0)
    _check_range(x0)
    levels, T = np.asarray(check_levels(timesteps, schedule)), schedule.num_levels
    if len(levels) < 3 or levels[0] != T or levels[-1] != 0:
        raise ValueError(
            f"`timesteps` must be falling levels from {T} to 0 in at least 2 steps, such as grid({T}, 50), not {levels}"
        )
    keys, denoise, steps = each_key(key, len(x0)), as_partial(denoise, "denoise"), np.arange(1, len(levels))
    above = levels[np.maximum(steps - 2, 0)]  # of the first step there is none, and none is read
    for first in range(0, len(steps), size or len(steps)):
        part = slice(first, first + (size or len(steps)))
        visited = tuple(jnp.asarray(rows[part]) for rows in (steps, above, levels[:-1], levels[1:]))
        yield _bound_terms(keys, denoise, schedule, visited, x0, cond, variance)


def _check_range(x0):
    """Refuses numbers far outside of [-1, 1], which the decoder counts to its end bins; unless they are traced."""
    if is_traced(x0) or (isinstance(x0, jax.Array) and not x0.is_fully_addressable):
        return
    if not np.abs(np.asarray(x0)).max(initial=0) <= FARTHEST:
        raise ValueError("`x0` must lie in [-1, 1]: of numbers in 0..255, uint8, see jaxdiff.objectives.to_unit_range")


@functools.partial(jax.jit, static_argnames="variance")
def _bound_terms(keys, denoise, schedule, visited, x0, cond, variance):
    def body(_, step_above_t_s):
        step, above, t, s = step_above_t_s
        eps = normal(fold(fold(keys, BOUND), step), x0.shape[1:])
        x_t = jax.vmap(q_sample, (None, 0, None, 0))(schedule, x0, t, eps)
        term = lambda prediction, x0, x_t: bound_term(schedule, prediction, x0, x_t, t, s, above, variance)
        return None, jax.vmap(term)(check_prediction(denoise(x_t, t, cond), x_t), x0, x_t)

    return lax.scan(body, None, visited)[1]


def log_prob(
    key: Array | None,
    denoise: Denoiser,
    schedule: Schedule,
    x: Array,
    cond=None,
    trace: int | str = 1,
    method: ode.Method | None = None,
) -> Array:
    """The exact log-density that the probability flow gives, equation (2), for a prior of std `Schedule.std` at level T.

    It is that of level 1, for which networks know nothing below. x is taken for x_1, as it is; score SDE does likewise at
    its smallest time. Only first derivatives are taken, in reverse.

    Args:
      key: random key; or one per example [B]; or None with an exact trace. With a single key, example i uses
        `keys_for(key, B)[i]`.
      denoise: the model, in which no example depends on another.
      schedule: noise schedule.
      x: float32 [B, ...].
      cond: conditions, one row per example.
      trace: number of probes of equation (3), the same ones along the whole path: the estimate is unbiased but for the
        solver's error. Or "exact", which takes as many backward passes as an example has numbers, side by side in memory.
      method: from `ode.adaptive` or `ode.fixed`; None is `ode.adaptive(1e-5, 1e-5)`, as in score SDE. The examples of a
        batch share adaptive steps. The divergence is held within the tolerances per dimension.

    Returns:
      Nats, float32 [B]; NaN where the method's max_steps were not enough.

    Raises:
      ValueError: an x of integers; a trace that is neither "exact" nor at least 1; no key where one is needed; a prediction
        of another shape than x.
      TypeError: a key that is not typed; `schedule` is no `Schedule`.

    Example::

        >>> import jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff import testing
        >>> from jaxdiff.eval.likelihood import log_prob
        >>> schedule, data = jaxdiff.schedules.cosine(), testing.gaussian([0.5, -0.3], [[0.5, 0.2], [0.2, 0.3]])
        >>> x = jnp.array([[0.0, 0.0], [1.0, 0.4]])
        >>> found = log_prob(None, data.denoiser(schedule), schedule, x, trace="exact")
        >>> bool(jnp.allclose(found, data.log_prob(schedule, x, 1), atol=1e-3))
        True
    """
    check_schedule(schedule)
    check_x("x", x)
    check_arrays("cond", cond)
    method = ode.adaptive(1e-5, 1e-5) if method is None else method
    return _log_prob(method, as_partial(denoise, "denoise"), schedule, x, cond, _probes(key, trace, x.shape))


def _probes(key, trace, shape):
    """[K, B, ...]: what the mean over K of z . J^T z is the trace, or on average is."""
    B, size = shape[0], math.prod(shape[1:])
    if trace == "exact":  # the axes, as long as vectors of signs are
        axes = math.sqrt(size) * jnp.eye(size, dtype=jnp.float32).reshape(size, 1, *shape[1:])
        return jnp.broadcast_to(axes, (size, *shape))
    if isinstance(trace, str):
        raise ValueError(f'`trace`={trace!r} must be a number of probes, at least 1, or "exact"')
    trace = check_count("trace", trace)
    if key is None:
        raise ValueError('probes are drawn: give log_prob a random key, or trace="exact"')
    keys = each_key(key, B)
    signs = jax.vmap(lambda key: jax.random.rademacher(key, shape[1:], jnp.float32))
    return jnp.stack([signs(fold(fold(keys, PROBES), probe)) for probe in range(trace)])


@jax.jit
def _log_prob(method, denoise, schedule, x, cond, probes):
    size = math.prod(x.shape[1:])
    begin, end = (ode.angle_of(schedule, level) for level in (1, schedule.num_levels))
    field = Partial(_field, denoise, schedule, cond, probes)
    first = schedule.std(1)
    y_T, grown = ode.integrate(method, field, (x / first, jnp.zeros(len(x), jnp.float32)), begin, end)
    prior = -0.5 * (jnp.square(y_T) + math.log(2 * math.pi)).reshape(len(x), size).sum(-1)
    return prior + size * (grown - jnp.log(first))


def _field(denoise, schedule, cond, probes, phi, y_and_grown):
    """v, and its divergence per dimension, so that tolerances mean the same of small and of large examples."""
    y, _ = y_and_grown
    v, pull = jax.vjp(Partial(ode.velocity, denoise, schedule, cond, phi), y)
    traces = jax.vmap(lambda probe: (probe * pull(probe)[0]).reshape(len(y), -1).mean(-1))(probes)
    return v, traces.mean(0)


def dequantize(keys: Array, images: Array) -> Array:
    """Images of 256 values to real numbers, uniform within the bin of each value (Theis et al. 2016, section 3.1).

        x = (image + u - 1/2) / 127.5 - 1,   u ~ U[0, 1)

    Args:
      keys: one random key per example, [B].
      images: uint8 [B, ...].

    Returns:
      float32 [B, ...], in -1 - 1/255 .. 1 + 1/255, bins being 1/127.5 wide.

    Raises:
      TypeError: keys that are not typed.
      ValueError: images are not uint8, or there is not one key for each.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.eval.likelihood import dequantize
        >>> x = dequantize(jax.random.key(0)[None], jnp.full([1, 1000], 255, jnp.uint8))
        >>> bool(jnp.all(jnp.abs(x - 1) <= 1 / 255)), abs(float(x.mean()) - 1) < 1e-3
        (True, True)
    """
    if images.dtype != jnp.uint8:
        raise ValueError(f"images must be uint8, which dequantize makes floats of, not {images.dtype}")
    check_key("keys", keys)
    if keys.shape != images.shape[:1]:
        raise ValueError(f"`keys` must be one for each of {len(images)} images, not of shape {list(keys.shape)}")
    u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], jnp.float32))(keys)
    return (images.astype(jnp.float32) + u - 0.5) / 127.5 - 1.0


def bits_per_dim(log_prob: Array, shape: tuple[int, ...]) -> Array:
    """The log-density of dequantized images as bits per dimension of their 256 values.

        -log_prob / (D log 2) + log2(127.5)

    The probability of a value is the integral of the density over its bin, 1/127.5 wide. Over draws of `dequantize` these
    bits are on average at least -log2 of it (Theis et al. 2016, eq. 9).

    Args:
      log_prob: nats, float [B].
      shape: of one example, of D numbers.

    Returns:
      float [B].

    Raises:
      ValueError: a shape without numbers.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.eval.likelihood import bits_per_dim
        >>> bits = bits_per_dim(-4 * jnp.log(jnp.array([256 / 127.5])), (2, 2))  # uniform over all bins
        >>> round(float(bits[0]), 4)
        8.0
    """
    if math.prod(shape) < 1:
        raise ValueError(f"`shape`={tuple(shape)} must be that of an example, of one number at least")
    return -log_prob / (math.prod(shape) * math.log(2)) + math.log2(127.5)
