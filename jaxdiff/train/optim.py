"""Optimizers: AdamW, Muon or SGD, with warm-up, cosine decay and clipping by the global norm."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from jaxdiff.errors import unknown

MATRICES = ("kernel", "down", "up")  # the last two are a LoRA's


def optimizer(
    learning_rate: float,
    steps: int,
    warmup: int = 0,
    decay_to: float = 1.0,
    clip: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
    method: Literal["adamw", "muon", "sgd"] = "adamw",
    moment_dtype: Literal["float32", "bfloat16"] = "float32",
) -> optax.GradientTransformation:
    """AdamW, Muon or SGD, whose rate rises linearly over `warmup` steps and then falls along a cosine.

        rate(n) = learning_rate n / warmup                                                             n < warmup
        rate(n) = learning_rate (d + (1 - d) (1 + cos(pi (n - warmup) / (steps - warmup))) / 2)        d = decay_to

    for the update that has n before it; AdamW is Loshchilov and Hutter 2019, the cosine Loshchilov and Hutter 2017.

    Muon (Jordan 2024) replaces the momentum of each matrix by the nearest orthogonal one, so that all directions learn
    at the same pace; scaled to the size of Adam's updates (Liu et al. 2025), so that rates carry over. Kernels of
    convolutions are matrices from their taps and input channels to their output channels. The first and the last
    convolution, the head of a classifier and everything that is no kernel are left to AdamW with Nesterov momentum, as its
    authors advise. It knows them by their names, so that parameters must be nested dicts, as flax makes them.

    SGD has momentum b1. Its updates follow rounding errors of gradients in proportion, where Adam's do not: so it is what
    shows that two ways of computing the same steps agree.

    Args:
      learning_rate: the highest rate.
      steps: length of training, at which the rate reaches its end and stays there.
      warmup: steps of the linear rise, fewer than `steps`.
      decay_to: share of the rate that is left at the end, in [0, 1]; 1 is a constant rate.
      clip: gradients are scaled down to at most this global norm.
      b1: decay of AdamW's first moment, and of SGD's momentum, in [0, 1).
      b2: decay of AdamW's second moment, in [0, 1).
      weight_decay: decoupled weight decay.
      method: "adamw", "muon" or "sgd".
      moment_dtype: in which the first moment is kept between steps, "float32" or "bfloat16", which takes half the memory.
        The second is float32 always: with b2 = 0.999 it changes by about a thousandth per step, while neighbours in
        bfloat16 lie four thousandths apart or more, so that it would stand still.

    Returns:
      An optax transformation of gradients of any pytree ("muon": nested dicts) to updates of the same shapes.

    Raises:
      ValueError: unknown method or moment_dtype; moment_dtype or b2 with SGD; a warmup that is not shorter than `steps`.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff.train.optim import optimizer
        >>> adamw = optimizer(1.0, steps=4, warmup=2, decay_to=0.0)
        >>> params = gradient = jnp.ones(())
        >>> state, updates = adamw.init(params), []
        >>> for _ in range(5):  # a constant gradient moves Adam by the rate itself
        ...     update, state = adamw.update(gradient, state, params)
        ...     updates.append(round(abs(float(update)), 4))
        >>> updates
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps, learning_rate * decay_to)
    if moment_dtype not in ("float32", "bfloat16"):
        raise unknown("moment_dtype", moment_dtype, ("float32", "bfloat16"))
    if method == "adamw":
        update = optax.adamw(rate, b1, b2, weight_decay=weight_decay)
    elif method == "muon":
        update = muon(
            rate,
            weight_decay=weight_decay,
            adam_b1=b1,
            adam_b2=b2,
            adam_weight_decay=weight_decay,
            muon_weight_dimension_numbers=functools.partial(jax.tree_util.tree_map_with_path, _as_matrix),
            consistent_rms=0.2,
        )
    elif method == "sgd":
        if moment_dtype != "float32":
            raise ValueError(f"`moment_dtype`={moment_dtype} is for adamw and muon: sgd keeps its momentum in float32")
        if b2 != 0.999:
            raise ValueError(f"`b2`={b2} is for adamw and muon: sgd has no second moment")
        decayed = optax.add_decayed_weights(weight_decay)
        update = optax.chain(optax.trace(b1), decayed, optax.scale_by_learning_rate(rate))
    else:
        raise unknown("optimizer", method, ("adamw", "muon", "sgd"))
    if moment_dtype != "float32":
        update = _first_moment_kept_in(jnp.dtype(moment_dtype), update)
    return optax.chain(optax.clip_by_global_norm(clip), update)


def _first_moment_kept_in(dtype, transform):
    """The same transformation, which works in float32 and keeps the first moment in `dtype` between steps.

    optax's own `mu_dtype` would round b1 to it as well: 0.9 to 0.8984, and 0.999 to 1.
    """

    def update(gradients, state, params=None):
        updates, state = transform.update(gradients, _first_moment_as(jnp.float32, state), params)
        return updates, _first_moment_as(dtype, state)

    return optax.GradientTransformation(lambda params: _first_moment_as(dtype, transform.init(params)), update)


def _first_moment_as(dtype, state):
    """The state with what optax's states call `mu` in that dtype."""
    name = jax.tree_util.GetAttrKey("mu")
    return jax.tree_util.tree_map_with_path(lambda path, x: x.astype(dtype) if name in path else x, state)


def _as_matrix(path, leaf):
    """Input axes of a kernel, whose last axis is the output; None for other parameters."""
    names = [entry.name if isinstance(entry, jax.tree_util.GetAttrKey) else entry.key for entry in path]
    if names[-1] not in MATRICES or {"conv_in", "conv_out", "head"} & set(names):
        return None
    return MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))
