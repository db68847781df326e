"""Accuracy of a classifier of noisy images, level by level."""

import math
from collections.abc import Callable

import jax
import numpy as np

from jaxdiff import samplers
from jaxdiff.eval.measure import Measure
from jaxdiff.model import Model
from jaxdiff.objectives import to_unit_range
from jaxdiff.process import q_sample
from jaxdiff.sharding import over_batches

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the noisiest level


def levels_of(model: Model) -> list[int]:
    """The levels at which a classifier is evaluated: level 0 alone, if it was trained on clean images."""
    T = model.config.diffusion.num_levels
    return [0] if model.config.diffusion.levels.kind == "clean" else [max(1, round(share * T)) for share in SHARES]


def work(model: Model, measure: Measure) -> int:
    """Number of ticks of `measured`."""
    return math.ceil(measure.num / measure.batch_size) * len(levels_of(model))


def measured(model: Model, measure: Measure, real: list[dict], tick: Callable[[int], None]) -> dict:
    """The accuracy of a classifier.

    Args:
      model: classifier.
      measure: from `measure.complete`.
      real: examples that it has not seen, {"image": uint8 [H, W, C], "label": int}.
      tick: called after every batch of a level.

    Returns:
      {"accuracy": {"level_LEVEL": accuracy, ...}}.
    """
    images, labels = (np.stack([example[what] for example in real]) for what in ("image", "label"))
    schedule, apply, found = model.schedule, model.apply, {}

    @jax.jit
    def guesses(params, keys, images, t):
        x0 = to_unit_range(images)
        x_t = jax.vmap(q_sample, (None, 0, None, 0))(schedule, x0, t, samplers.normal(keys, x0.shape[1:]))
        return apply(params, x_t, t)[0].argmax(-1)

    for level in levels_of(model):

        def of_batch(keys, images, level=level):
            guess = jax.block_until_ready(guesses(model.params, keys, images, level))
            tick(1)
            return guess

        guess = over_batches(of_batch, measure.num, measure.batch_size, measure.seed, images)
        found[f"level_{level}"] = float((guess == labels).mean())
    return {"accuracy": found}
