"""Optimizers: AdamW or Muon, with warm-up, cosine decay and clipping by the global norm."""

import functools
from typing import Literal

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon


def optimizer(
    learning_rate: float,
    steps: int,
    warmup: int = 0,
    decay_to: float = 1.0,
    clip: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
    method: Literal["adamw", "muon"] = "adamw",
) -> optax.GradientTransformation:
    """AdamW or Muon, whose rate rises linearly over `warmup` steps and then falls along a cosine.

    Muon (Jordan 2024) replaces the momentum of each matrix by the nearest orthogonal one, so that all directions learn
    at the same pace; scaled to the size of Adam's updates (Liu et al. 2025), so that rates carry over. Kernels of
    convolutions are matrices from their taps and input channels to their output channels. The first and the last
    convolution and everything that is no kernel are left to AdamW with Nesterov momentum, as its authors advise.

    Args:
      learning_rate: the highest rate.
      steps: length of training, at which the rate reaches its end.
      warmup: steps of the linear rise, fewer than `steps`.
      decay_to: share of the rate that is left at the end, in [0, 1]; 1 is a constant rate.
      clip: gradients are scaled down to at most this global norm.
      b1: decay of AdamW's first moment.
      b2: decay of AdamW's second moment.
      weight_decay: decoupled weight decay.
      method: "adamw" or "muon".

    Returns:
      An optax transformation.

    Raises:
      ValueError: unknown method.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps, learning_rate * decay_to)
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
    else:
        raise ValueError(f"unknown optimizer {method!r}: adamw or muon")
    return optax.chain(optax.clip_by_global_norm(clip), update)


def _as_matrix(path, leaf):
    """Which axes of a kernel are its input, the last being its output; None for what is no inner kernel."""
    names = [entry.key for entry in path]
    if names[-1] != "kernel" or names[0] in ("conv_in", "conv_out"):
        return None
    return MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))
