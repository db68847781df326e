"""The objective of classifiers of noisy or clean images."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from jaxdiff.arguments import check_number
from jaxdiff.objectives.levels import LevelDraw, uniform
from jaxdiff.objectives.noising import Noising, noised
from jaxdiff.schedules import Schedule, check_schedule
from jaxdiff.types import Apply


def classification(
    apply: Apply, schedule: Schedule, *, levels: LevelDraw | None = None, label_smoothing: float = 0.0
) -> Callable:
    """Cross-entropy of the label given the image at a random level (Dhariwal and Nichol 2021, section 4).

        L = -(1 - a) log p(y | x_t) - a / K sum_k log p(k | x_t),   x_t = alpha_t x_0 + sigma_t eps

    The network is called without a condition: the label is its target.

    Args:
      apply: network with logits [B, K] as a function of its parameters, from `denoise.network`.
      schedule: noise schedule.
      levels: random draw of t, see `objectives.levels`; None is uniform over 1..T, and `levels.clean()` trains a
        classifier of clean images.
      label_smoothing: a, in [0, 1).

    Returns:
      loss_fn(params, extra, keys [B], batch) -> (loss, (extra, {"loss": loss, "accuracy": correct})), loss and correct
      float32 [B]; correct is 1 where the label has the largest logit. `extra` is the memory of `levels`, initially
      `levels.init(T)`. `batch["image"]` is uint8 [B, H, W, C], or float already in [-1, 1]; `batch["cond"]` is a `Cond`
      whose label is int [B] in 0..K - 1 (above that the loss is NaN).

    Raises:
      TypeError: `schedule` is no `Schedule`.
      ValueError: a label_smoothing outside of [0, 1). From loss_fn: a batch without labels, or an output that is not
        [B, K].

    Example::

        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff
        >>> from jaxdiff.objectives import classification
        >>> constant = lambda params, x_t, t, cond, keys=None: (jnp.log(params)[None].repeat(len(x_t), 0), None)
        >>> loss_fn = classification(constant, jaxdiff.schedules.linear())
        >>> batch = {"image": jnp.zeros([2, 8, 8, 1]), "cond": jaxdiff.Cond(label=jnp.array([0, 1]))}
        >>> keys = jaxdiff.samplers.keys_for(jax.random.key(0), 2)
        >>> loss, (_, metrics) = loss_fn(jnp.array([0.75, 0.25]), (), keys, batch)
        >>> jnp.exp(-loss).round(4).tolist(), metrics["accuracy"].tolist()
        ([0.75, 0.25], [1.0, 0.0])
    """
    check_schedule(schedule)
    check_number("label_smoothing", label_smoothing, "be in [0, 1)", lambda x: (x >= 0) & (x < 1))
    levels = uniform() if levels is None else levels

    def loss_fn(params, extra, keys, batch):
        label = getattr(batch.get("cond"), "label", None)
        if label is None:
            raise ValueError("a classifier is trained on labels: give the batch a cond with a label")
        n = noised(Noising(levels), schedule, extra, keys, batch)
        logits, _ = apply(params, n.x_t, n.t, None, keys=n.keys)
        if logits.ndim != 2 or logits.shape[:1] != label.shape:
            raise ValueError(
                f"the network's output has shape {logits.shape}, not [B, K] for labels {label.shape}: use a Classifier"
            )
        loss = _cross_entropy(logits, label, label_smoothing)
        extra = levels.update(extra, batch.get("index"), n.t, loss)
        loss = n.weight * loss
        return loss, (extra, {"loss": loss, "accuracy": (logits.argmax(-1) == label).astype(jnp.float32)})

    return loss_fn


def _cross_entropy(logits, label, smoothing):
    # With integer labels: one-hot, a label that is out of range would have a loss of 0 instead of NaN.
    of_label = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    of_all = optax.softmax_cross_entropy(logits, jnp.full_like(logits, 1 / logits.shape[-1]))
    return (1 - smoothing) * of_label + smoothing * of_all
