"""The optimizer: AdamW with warm-up, cosine decay and clipping by the global norm."""

import optax


def optimizer(
    learning_rate: float,
    steps: int,
    warmup: int = 0,
    decay_to: float = 1.0,
    clip: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """AdamW whose rate rises linearly over `warmup` steps and then falls along a cosine.

    Args:
      learning_rate: the highest rate.
      steps: length of training, at which the rate reaches its end.
      warmup: steps of the linear rise, fewer than `steps`.
      decay_to: share of the rate that is left at the end, in [0, 1]; 1 is a constant rate.
      clip: gradients are scaled down to at most this global norm.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled weight decay.

    Returns:
      An optax transformation.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps, learning_rate * decay_to)
    return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(rate, b1, b2, weight_decay=weight_decay))
