"""One training step as a pure function, and several of them in one call."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdiff.train import ema
from jaxdiff.train.state import TrainState
from jaxdiff.xla import materialized

NO_EXAMPLE = 2**32 - 1  # a position in the stream of examples for the key of what a whole step shares


def make_train_step(
    loss_fn: Callable,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.9999,
    accumulate: int = 1,
    join: Callable | None = None,
) -> Callable:
    """Builds the training step: gradient of the mean loss, the optimizer's update, and the average of the parameters.

        params' = params + update(grad mean_b loss_b),   ema' = ema + (1 - d)(params' - ema)        (`ema.update`)

    Args:
      loss_fn: (params, extra, keys [B], batch) -> (loss [B], (extra, metrics)), see `objectives`; `metrics` is a dict of
        arrays, which are averaged.
      optimizer: an optax transformation.
      ema_decay: of the average of the parameters, in [0, 1], see `ema.update`.
      accumulate: equal parts that the batch of a device is worked through in, one after the other: the same gradient and
        noise in less memory. `extra` is handed from part to part.
      join: (frozen, params, key) -> what `loss_fn` takes in place of `params`, where more than what is trained is needed,
        see `model.adaptation`. Only `params` have gradients, an average and a state of the optimizer. The key is the
        step's.

    Returns:
      train_step(state, key, batch, axis_name=None, frozen=None) -> (state, metrics). `key` is the same for the whole run:
      the step's is fold_in(key, state.step), an example's fold_in of that with `batch["index"]`, int [B], its position in
      the stream of examples; so the noise depends on neither the number of devices nor where a run was resumed. Under
      `axis_name` gradients, metrics and `extra` are averaged over the devices. Metrics are scalars, `grad_norm` among
      them: the norm of the averaged gradient before any clipping.

    Raises:
      ValueError: when called, if the examples do not divide into `accumulate` parts.

    Example::

        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxdiff.train import state
        >>> from jaxdiff.train.step import make_train_step
        >>> def loss_fn(params, extra, keys, batch):
        ...     loss = jnp.square(params - batch["image"])
        ...     return loss, (extra, {"loss": loss})
        >>> optimizer = optax.sgd(0.1)
        >>> step = make_train_step(loss_fn, optimizer)
        >>> batch = {"image": jnp.ones(4), "index": jnp.arange(4)}
        >>> new, metrics = step(state.init(jnp.zeros(()), optimizer), jax.random.key(0), batch)
        >>> round(float(new.params), 4), round(float(new.ema), 4)  # 0 - 0.1 * (-2), and 0.9 of it (d = 1 / 10)
        (0.2, 0.18)
        >>> float(metrics["loss"]), float(metrics["grad_norm"])
        (1.0, 2.0)
        >>> step = make_train_step(loss_fn, optimizer, accumulate=2)  # two examples at a time
        >>> float(step(state.init(jnp.zeros(()), optimizer), jax.random.key(0), batch)[1]["grad_norm"])
        2.0
    """

    def mean_loss(params, rest, extra, keys, batch):
        whole = params if join is None else join(rest[0], params, rest[1])
        loss, (extra, metrics) = loss_fn(whole, extra, keys, batch)
        return loss.mean(), (extra, jax.tree.map(lambda rows: rows.mean(), metrics))

    gradient = jax.grad(mean_loss, has_aux=True)
    if accumulate != 1:
        gradient = _in_parts(gradient, accumulate)

    def train_step(state: TrainState, key, batch, axis_name=None, frozen=None):
        step_key = jax.random.fold_in(key, state.step)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, batch["index"])
        rest = frozen, jax.random.fold_in(step_key, NO_EXAMPLE)
        grads, (extra, metrics) = gradient(state.params, rest, state.extra, keys, batch)
        if axis_name is not None:
            grads, extra, metrics = lax.pmean((grads, extra, metrics), axis_name)
        # All gradients before the first update: no parameter is then written while the backward pass still reads it, which
        # XLA on the CPU would guard against by a copy of it.
        grads = materialized(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = ema.update(state.ema, params, state.step, ema_decay)
        metrics = metrics | {"grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, average, opt_state, extra), metrics

    return train_step


def _in_parts(gradient, parts):
    """`gradient` of a batch as the mean of those of equal parts of it, worked out one after the other."""

    def whole(params, rest, extra, keys, batch):
        size = batch["index"].shape[0]
        if parts < 1 or size % parts:
            raise ValueError(f"accumulate={parts} does not divide the {size} examples that a device has")

        def body(carry, part):
            total, extra = carry
            grads, (extra, metrics) = gradient(params, rest, extra, *part)
            return (jax.tree.map(jnp.add, total, grads), extra), metrics

        # Every `parts`-th example is of a part, so that those of each device of a mesh stay where they are.
        part = lambda rows: rows.reshape(size // parts, parts, *rows.shape[1:]).swapaxes(0, 1)
        split = jax.tree.map(part, (keys, batch))
        start = jax.tree.map(jnp.zeros_like, params), extra
        (total, extra), metrics = lax.scan(body, start, split)
        return jax.tree.map(lambda grads: grads / parts, total), (extra, jax.tree.map(lambda m: m.mean(0), metrics))

    return whole


def scanned(train_step: Callable) -> Callable:
    """The same step over batches stacked in front: K updates in one call.

    Args:
      train_step: (state, key, batch, axis_name) -> (state, metrics), from `make_train_step`.

    Returns:
      train_steps(state, key, batches, axis_name=None, frozen=None) -> (state, metrics), with leaves [K, B, ...] in
      `batches` and metrics [K], one of each step.

    Example::

        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxdiff.train import state
        >>> from jaxdiff.train.step import make_train_step, scanned
        >>> def loss_fn(params, extra, keys, batch):
        ...     loss = jnp.square(params - batch["image"])
        ...     return loss, (extra, {"loss": loss})
        >>> optimizer = optax.sgd(0.1)
        >>> steps = scanned(make_train_step(loss_fn, optimizer))
        >>> batches = {"image": jnp.ones([3, 4]), "index": jnp.arange(12).reshape(3, 4)}
        >>> new, metrics = steps(state.init(jnp.zeros(()), optimizer), jax.random.key(0), batches)
        >>> round(float(new.params), 4)  # 1 - 0.8^3
        0.488
        >>> [round(float(loss), 4) for loss in metrics["loss"]]  # 0.8^(2 n) after n steps
        [1.0, 0.64, 0.4096]
    """

    def train_steps(state, key, batches, axis_name=None, **frozen):
        def body(state, batch):
            return train_step(state, key, batch, axis_name, **frozen)

        return lax.scan(body, state, batches)

    return train_steps
