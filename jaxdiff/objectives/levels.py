"""Which levels the examples of a batch are trained at.

Whoever draws some levels more often weighs their losses less, or else changes what the loss weighs. A way of drawing them
is a `Levels`, three pure functions; what `importance` remembers is the objective's `extra`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdiff.types import Array


class Levels(NamedTuple):
    """How levels are drawn; T is the schedule's number of steps.

    Attributes:
      init: T -> extra, what is remembered before the first step; () if nothing.
      draw: (extra, keys [B], index int [B] or None, T) -> (t int32 [B] in 0..T, weight float32 [B] of each loss).
      update: (extra, index, t, loss [B] before the weight) -> extra.
    """

    init: Callable
    draw: Callable
    update: Callable


class History(NamedTuple):
    """The last losses of every level.

    Attributes:
      losses: float32 [T + 1, H], the newest first; row 0 is of no use.
      counts: how many of them there are so far, at most H, float32 [T + 1].
    """

    losses: Array
    counts: Array


def uniform() -> Levels:
    """Every level as often as the others (Ho et al. 2020, algorithm 1): t ~ U{1..T}.

    Returns:
      `Levels` that remember nothing; their weights are 1.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> from jaxdiff.objectives import levels
        >>> t, weight = levels.uniform().draw((), samplers.keys_for(jax.random.key(0), 1000), None, 10)
        >>> int(t.min()), int(t.max()), float(weight.mean())
        (1, 10, 1.0)
    """

    def draw(extra, keys, index, T):
        t = jax.vmap(lambda key: jax.random.randint(key, (), 1, T + 1))(keys)
        return t, jnp.ones(t.shape, jnp.float32)

    return Levels(_nothing, draw, _keep)


def clean() -> Levels:
    """No noise at all, t = 0: for a network that is to judge clean images.

    Returns:
      `Levels` that remember nothing; their weights are 1.

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

    return Levels(_nothing, draw, _keep)


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Levels:
    """Levels in the middle more often: logit(u) ~ N(mean, std^2), t = 1 + floor(u T) (Esser et al. 2024, SD 3).

    The loss is not reweighted, as there: to draw a level more often is to weigh it more.

    Args:
      mean: of the logit; below 0 draws less noisy levels.
      std: of the logit, above 0.

    Returns:
      `Levels` that remember nothing; their weights are 1.

    Raises:
      ValueError: std is not above 0.

    Example::

        >>> import jax
        >>> from jaxdiff import samplers
        >>> from jaxdiff.objectives import levels
        >>> t, _ = levels.logit_normal().draw((), samplers.keys_for(jax.random.key(0), 10000), None, 1000)
        >>> round(float(((t > 269) & (t <= 731)).mean()), 1)  # sigmoid(-1) and sigmoid(1): one standard deviation, 68%
        0.7
    """
    if not std > 0:
        raise ValueError(f"std={std} must be above 0")

    def draw(extra, keys, index, T):
        u = jax.nn.sigmoid(mean + std * jax.vmap(jax.random.normal)(keys))
        return _level(u, T), jnp.ones(u.shape, jnp.float32)

    return Levels(_nothing, draw, _keep)


def stratified(key: Array, batch_size: int) -> Levels:
    """The levels of a step evenly spread: u_i = (u_0 + i / B) mod 1, t = 1 + floor(u T) (Kingma et al. 2021, VDM, app. I).

    Each is uniform, and together they leave no gap, which lowers the variance of the mean loss. Examples know their place
    in the stream: those at n B .. (n + 1) B - 1 are step n's, on whichever device, and share u_0.

    Args:
      key: random key, of the u_0 of all steps.
      batch_size: B, over all devices.

    Returns:
      `Levels` that remember nothing; their weights are 1. `draw` needs the places, "index" of the batch.

    Raises:
      ValueError: a batch_size below 1. From `draw`: there are no places.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.objectives import levels
        >>> t, _ = levels.stratified(jax.random.key(0), 4).draw((), None, jnp.arange(4), 4)
        >>> sorted(t.tolist())
        [1, 2, 3, 4]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")

    def draw(extra, keys, index, T):
        if index is None:
            raise ValueError("stratified levels need the examples' places in the stream, batch['index']")
        step_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index // batch_size)
        u = jax.vmap(jax.random.uniform)(step_keys) + (index % batch_size) / batch_size
        return _level(u % 1.0, T), jnp.ones(u.shape, jnp.float32)

    return Levels(_nothing, draw, _keep)


def importance(history: int = 10, mix: float = 0.001, axis_name: str | None = None) -> Levels:
    """Levels of large loss more often, and each loss weighed by how rare it is (Nichol and Dhariwal 2021, section 3.3).

        p_t = (1 - mix) sqrt(E[L_t^2]) / sum_i sqrt(E[L_i^2]) + mix / T,   weight = 1 / (T p_t)

    E is over the last losses at each level; until all levels have so many, p is uniform. The weighted loss has the mean of
    the loss over uniform levels, with less variance.

    Args:
      history: how many losses per level, at least 1.
      mix: share of uniform draws, in (0, 1], so that no level is forgotten; the published code's.
      axis_name: of the mapped axis of devices, whose losses are then gathered, in order of their places, so that all
        remember the same.

    Returns:
      `Levels` whose memory is a `History`.

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
    if history < 1 or not 0 < mix <= 1:
        raise ValueError(f"history={history} must be at least 1, and mix={mix} in (0, 1]")

    def init(T):
        return History(jnp.zeros((T + 1, history), jnp.float32), jnp.zeros(T + 1, jnp.float32))

    def draw(extra, keys, index, T):
        root = jnp.sqrt(jnp.square(extra.losses[1:]).mean(1))
        # Not quite `history`: the mean over devices of what is equal on all of them may be a rounding below it.
        full = (extra.counts[1:] > history - 0.5).all() & (root.sum() > 0)
        share = jnp.where(full, root / jnp.where(full, root.sum(), 1.0), 1 / T)
        p = (1 - mix) * share + mix / T
        t = 1 + jax.vmap(jax.random.categorical, (0, None))(keys, jnp.log(p))
        return t, 1 / (T * p[t - 1])

    def update(extra, index, t, loss):
        if axis_name is not None:
            index, t, loss = lax.all_gather((index, t, loss), axis_name, tiled=True)
        if index is not None:
            t, loss = t[jnp.argsort(index)], loss[jnp.argsort(index)]
        return lax.scan(_remember, extra, (t, lax.stop_gradient(loss)))[0]

    return Levels(init, draw, update)


def _remember(extra, t_loss):
    """One more loss; the oldest of its level is forgotten."""
    t, loss = t_loss
    losses, counts = extra
    row = jnp.append(loss[None], losses[t, :-1])
    return History(losses.at[t].set(row), counts.at[t].set(jnp.minimum(counts[t] + 1, losses.shape[1]))), None


def _level(u, T):
    """u in [0, 1) as a level; rounding may have made it 1."""
    return jnp.minimum(1 + jnp.floor(u * T).astype(jnp.int32), T)


def _nothing(T):
    return ()


def _keep(extra, index, t, loss):
    return extra
