"""How much of noisy images a classifier reads right, level by level."""

import math
from collections.abc import Callable

import jax
import numpy as np

from jaxdiff import samplers
from jaxdiff.config import Config
from jaxdiff.denoise import network
from jaxdiff.eval.measure import Measure
from jaxdiff.eval.spread import over_batches, replicated
from jaxdiff.objectives import to_unit_range
from jaxdiff.process import q_sample

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the noisiest level


def asked_levels(config: Config) -> list[int]:
    """At which levels a classifier is asked: 0 only, if it was trained on clean images."""
    T = config.diffusion.num_levels
    return [0] if config.diffusion.levels == "clean" else [max(1, round(share * T)) for share in SHARES]


def work(config: Config, measure: Measure) -> int:
    """How much `measured` ticks in all."""
    return math.ceil(measure.num / measure.batch_size) * len(asked_levels(config))


def measured(config: Config, params, measure: Measure, real: list[dict], tick: Callable[[int], None]) -> dict:
    """The accuracy of a classifier.

    Args:
      config: of the run that it was trained in.
      params: its parameters.
      measure: from `measure.complete`.
      real: examples that it has not seen, {"image": uint8 [H, W, C], "label": int}.
      tick: called after every batch of a level.

    Returns:
      {"accuracy": {"level_LEVEL": share that is read right, ...}}.
    """
    images, labels = (np.stack([example[what] for example in real]) for what in ("image", "label"))
    schedule, apply = config.diffusion.make_schedule(), network(config.make_net())

    @jax.jit
    def guesses(params, keys, images, t):
        x0 = to_unit_range(images)
        x_t = jax.vmap(q_sample, (None, 0, None, 0))(schedule, x0, t, samplers.normal(keys, x0.shape[1:]))
        return apply(params, x_t, t)[0].argmax(-1)

    params, found = replicated(params), {}
    for level in asked_levels(config):

        def of_batch(keys, images, level=level):
            guess = jax.block_until_ready(guesses(params, keys, images, level))
            tick(1)
            return guess

        guess = over_batches(of_batch, measure.num, measure.batch_size, measure.seed, images)
        found[f"level_{level}"] = float((guess == labels).mean())
    return {"accuracy": found}
