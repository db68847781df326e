"""Random draws of the levels at which the examples of a batch are trained.

A distribution that is not uniform changes the weight of levels in the loss, unless each loss is divided by the probability
of its level, as `importance` does. A draw is a `LevelDraw`, three pure functions; its memory is the objective's `extra`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdiff.arguments import ABOVE_0, check_count, check_number
from jaxdiff.registry import Registry
from jaxdiff.samplers.keys import check_key
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import AlphaSigma, Array

CONTEXT = ("key", "batch_size", "axis_name", "schedule")


class LevelDraws(Registry):
    """Registry of draws of levels: each choice is called with keyword arguments for CONTEXT -> `LevelDraw`.

    These describe the training run: a random key, the batch size over all devices, the mapped axis of devices or None, and
    the noise schedule.
    A registered function receives those that it has as parameters; its other parameters with defaults are its options.

    Example::

        >>> import jax
        >>> from jaxdiff import objectives
        >>> run = {"key": jax.random.key(0), "batch_size": 8, "axis_name": None}
        >>> choice = objectives.LEVEL_DRAWS["logit_normal"](mean=-1.0)
        >>> choice, type(choice(**run)).__name__
        (logit_normal(mean=-1.0, std=1.0), 'LevelDraw')
    """

    def register(self, name: str, leave_out: tuple[str, ...] = ()) -> Callable:
        """Decorator that registers a function under a name, see `Registry.register`."""
        add = super().register(name, (*leave_out, *CONTEXT))

        def add_in_context(declared):
            add(declared if isinstance(declared, type) else _in_context(declared))
            return declared

        return add_in_context


def _in_context(function):
    """The function with all of CONTEXT as keyword arguments, of which it receives those that it has."""
    taken = [name for name in CONTEXT if name in inspect.signature(function).parameters]

    @functools.wraps(function)
    def in_context(*, key=None, batch_size=None, axis_name=None, schedule=None, **options):
        context = {"key": key, "batch_size": batch_size, "axis_name": axis_name, "schedule": schedule}
        return function(**{name: context[name] for name in taken}, **options)

    return in_context


LEVEL_DRAWS = LevelDraws("draw of levels")


class LevelDraw(NamedTuple):
    """Random draw of training levels as three pure functions; T is the schedule's number of levels.

    Attributes:
      init: T -> extra, the memory before the first step; () if none.
      draw: (extra, keys [B], index int [B] or None, T) -> (t int32 [B] in 0..T, weight float32 [B] of each loss).
      update: (extra, index, t, loss [B] before the weight) -> extra.
    """

    init: Callable
    draw: Callable
    update: Callable


class History(NamedTuple):
    """The last losses of every level.

    Attributes:
      losses: float32 [T + 1, H], the newest first; row 0 is unused.
      counts: number of losses recorded, at most H, float32 [T + 1].
    """

    losses: Array
    counts: Array


@LEVEL_DRAWS.register("uniform")
def uniform() -> LevelDraw:
    """Uniform levels, t ~ U{1..T} (Ho et al. 2020, algorithm 1).

    Returns:
      `LevelDraw` without memory, with weights of 1.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> from jaxdiff.objectives import levels
        >>> t, weight = levels.uniform().draw((), samplers.keys_for(jax.random.key(0), 1000), None, 10)
        >>> int(t.min()), int(t.max()), float(weight.mean())
        (1, 10, 1.0)
    """

    def draw(extra, keys, index, T):
        t = jax.vmap(lambda key: jax.random.randint(key, (), 1, T + 1, jnp.int32))(keys)
        return t, jnp.ones(t.shape, jnp.float32)

    return LevelDraw(_no_memory, draw, _unchanged)


@LEVEL_DRAWS.register("clean")
def clean() -> LevelDraw:
    """No noise, t = 0: for a classifier of clean images.

    Returns:
      `LevelDraw` without memory, with weights of 1.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> from jaxdiff.objectives import levels
        >>> t, weight = levels.clean().draw((), samplers.keys_for(jax.random.key(0), 3), None, 10)
        >>> t.tolist(), weight.tolist()
        ([0, 0, 0], [1.0, 1.0, 1.0])
    """

    def draw(extra, keys, index, T):
        return jnp.zeros(len(keys), jnp.int32), jnp.ones(len(keys), jnp.float32)

    return LevelDraw(_no_memory, draw, _unchanged)


@LEVEL_DRAWS.register("logit_normal")
def logit_normal(mean: float = 0.0, std: float = 1.0) -> LevelDraw:
    """Middle levels more often: logit(u) ~ N(mean, std^2), t = 1 + floor(u T) (Esser et al. 2024, SD 3).

    As in the paper, the loss is not divided by the probability: levels that are drawn more often have more weight.

    Args:
      mean: mean of the logit; below 0 draws less noisy levels.
      std: standard deviation of the logit, above 0.

    Returns:
      `LevelDraw` without memory, with weights of 1.

    Raises:
      ValueError: a mean that is not finite, or an std that is not above 0.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> from jaxdiff.objectives import levels
        >>> t, _ = levels.logit_normal().draw((), samplers.keys_for(jax.random.key(0), 10000), None, 1000)
        >>> round(float(((t > 269) & (t <= 731)).mean()), 1)  # sigmoid(-1) and sigmoid(1): one standard deviation, 68%
        0.7
    """
    check_number("mean", mean)
    check_number("std", std, *ABOVE_0)

    def draw(extra, keys, index, T):
        u = jax.nn.sigmoid(mean + std * jax.vmap(lambda key: jax.random.normal(key, (), jnp.float32))(keys))
        return _level(u, T), jnp.ones(u.shape, jnp.float32)

    return LevelDraw(_no_memory, draw, _unchanged)


@LEVEL_DRAWS.register("log_normal")
def log_normal(schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> LevelDraw:
    """Noise of a log-normal size: ln(sigma_t / alpha_t) ~ N(mean, std^2), rounded to a level (Karras et al. 2022, EDM).

    What lies outside of the schedule becomes level 1 or T. As in the paper, the loss is not divided by the probability.

    Args:
      schedule: noise schedule.
      mean: mean of the logarithm, EDM's P_mean.
      std: its standard deviation, EDM's P_std, above 0.

    Returns:
      `LevelDraw` without memory, with weights of 1.

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: a mean that is not finite, or an std that is not above 0.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers, schedules
        >>> from jaxdiff.objectives import levels
        >>> schedule = schedules.edm()
        >>> t, _ = levels.log_normal(schedule).draw((), samplers.keys_for(jax.random.key(0), 10000), None, 1000)
        >>> round(float((schedule(t).sigma < 0.3012).mean()), 1)  # exp(-1.2), the median
        0.5
    """
    check_schedule(schedule)
    check_number("mean", mean)
    check_number("std", std, *ABOVE_0)

    def draw(extra, keys, index, T):
        ratio = jnp.exp(mean + std * jax.vmap(lambda key: jax.random.normal(key, (), jnp.float32))(keys))
        t = schedule.level_of(AlphaSigma(jnp.ones_like(ratio), ratio))
        return jnp.clip(jnp.round(t), 1, T).astype(jnp.int32), jnp.ones(ratio.shape, jnp.float32)

    return LevelDraw(_no_memory, draw, _unchanged)


@LEVEL_DRAWS.register("stratified")
def stratified(key: Array, batch_size: int) -> LevelDraw:
    """Evenly spaced levels in a step: u_i = (u_0 + i / B) mod 1, t = 1 + floor(u T) (Kingma et al. 2021, VDM, app. I).

    Each level is uniform, and a step's levels are evenly spaced, which lowers the variance of the mean loss. u_0 is the
    same for examples n B .. (n + 1) B - 1 of the data stream, which are step n's, on any device.

    Args:
      key: random key for u_0 of all steps.
      batch_size: B, over all devices.

    Returns:
      `LevelDraw` without memory, with weights of 1. Its `draw` needs the positions in the stream, "index" of the batch.

    Raises:
      TypeError: a key that is not typed.
      ValueError: a batch_size below 1. From `draw`: no positions.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.objectives import levels
        >>> t, _ = levels.stratified(jax.random.key(0), 4).draw((), None, jnp.arange(4), 4)
        >>> sorted(t.tolist())
        [1, 2, 3, 4]
    """
    check_key("key", key)
    batch_size = check_count("batch_size", batch_size)

    def draw(extra, keys, index, T):
        if index is None:
            raise ValueError("stratified levels need the examples' positions in the stream, batch['index']")
        step_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index // batch_size)
        u = (
            jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(step_keys)
            + (index % batch_size) / batch_size
        )
        return _level(u % 1.0, T), jnp.ones(u.shape, jnp.float32)

    return LevelDraw(_no_memory, draw, _unchanged)


@LEVEL_DRAWS.register("importance")
def importance(history: int = 10, mix: float = 0.001, axis_name: str | None = None) -> LevelDraw:
    """Importance sampling: levels of large loss more often, with smaller weights (Nichol and Dhariwal 2021, section 3.3).

        p_t = (1 - mix) sqrt(E[L_t^2]) / sum_i sqrt(E[L_i^2]) + mix / T,   weight = 1 / (T p_t)

    E is over the last losses at each level; until all levels have `history` losses, p is uniform. The weighted loss has the
    mean of the loss over uniform levels, with less variance.

    Args:
      history: number of losses per level, at least 1.
      mix: fraction of uniform draws, in (0, 1], so that every level is drawn; the default is the published code's.
      axis_name: mapped axis of devices, over which losses are gathered in order of their positions, so that all devices
        have the same memory; None for one device.

    Returns:
      `LevelDraw` whose memory is a `History`.

    Raises:
      ValueError: a history below 1, or a mix outside of (0, 1].

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import samplers
        >>> from jaxdiff.objectives import levels
        >>> draws = levels.importance(history=1)
        >>> extra = draws.update(draws.init(2), jnp.arange(2), jnp.array([1, 2]), jnp.array([0.3, 0.1]))
        >>> t, weight = draws.draw(extra, samplers.keys_for(jax.random.key(0), 10000), None, 2)
        >>> round(float(weight[t == 1].mean()), 2), abs(float((t == 1).mean()) - 3 / 4) < 0.02  # 3/4 of draws, at 2/3
        (0.67, True)
    """
    history = check_count("history", history)
    check_number("mix", mix, "lie in (0, 1]", lambda x: (x > 0) & (x <= 1))

    def init(T):
        return History(jnp.zeros((T + 1, history), jnp.float32), jnp.zeros(T + 1, jnp.float32))

    def draw(extra, keys, index, T):
        root = jnp.sqrt(jnp.square(extra.losses[1:]).mean(1))
        # Not `>= history`: counts are averaged over devices, which may round them below it.
        full = (extra.counts[1:] > history - 0.5).all() & (root.sum() > 0)
        by_loss = jnp.where(full, root / jnp.where(full, root.sum(), 1.0), 1 / T)
        p = (1 - mix) * by_loss + mix / T
        t = 1 + jax.vmap(jax.random.categorical, (0, None))(keys, jnp.log(p)).astype(jnp.int32)
        return t, 1 / (T * p[t - 1])

    def update(extra, index, t, loss):
        if axis_name is not None:
            index, t, loss = lax.all_gather((index, t, loss), axis_name, tiled=True)
        if index is not None:
            t, loss = t[jnp.argsort(index)], loss[jnp.argsort(index)]
        return lax.scan(_record, extra, (t, lax.stop_gradient(loss)))[0]

    return LevelDraw(init, draw, update)


def _record(extra, t_loss):
    """Adds a loss, in place of the oldest of its level."""
    t, loss = t_loss
    losses, counts = extra
    row = jnp.append(loss[None], losses[t, :-1])
    return History(losses.at[t].set(row), counts.at[t].set(jnp.minimum(counts[t] + 1, losses.shape[1]))), None


def _level(u, T):
    """Level of u in [0, 1); rounding may have made u 1."""
    return jnp.minimum(1 + jnp.floor(u * T).astype(jnp.int32), T)


def _no_memory(T):
    return ()


def _unchanged(extra, index, t, loss):
    return extra
