"""Measuring a trained network: bits per dimension of data that it has not seen, what it draws, what it reads."""

from collections.abc import Callable

from jaxdiff.config import Config
from jaxdiff.eval import bits, quality, reading, reconstruction, zero_shot
from jaxdiff.eval.features import Features
from jaxdiff.eval.guided import Guide
from jaxdiff.eval.measure import Measure, chosen
from jaxdiff.text.tokenizer import Tokenizer


def measured(
    config: Config,
    params,
    measure: Measure,
    tick: Callable[[int], None],
    judge: Features | None = None,
    guide: Guide | None = None,
    tokenizer: Tokenizer | None = None,
) -> dict:
    """The metrics of a network.

    Args:
      config: of the run that it was trained in, and how it is sampled.
      params: parameters to measure (for a trained run, its EMA).
      measure: from `measure.complete`.
      tick: called after every part of the work with how much it was, `work` in all.
      judge: of drawn images.
      guide: a classifier that guides them, if there is one.
      tokenizer: of a CLIP.

    Returns:
      {metric: {what: number, ...}}, of types that JSON has.

    Raises:
      ValueError, OSError: as `jaxdiff.data.load`; fewer examples than asked for, or labels that the network lacks; a
        number that is not finite.
    """
    real = chosen(config, measure)
    if config.kind == "classifier":
        return reading.measured(config, params, measure, real, tick)
    if config.kind == "autoencoder":
        return reconstruction.measured(config, params, measure, real, tick)
    if config.kind == "CLIP":
        return zero_shot.measured(config, params, tokenizer, measure, real, tick)
    found = bits.measured(config, params, measure, real, tick)
    return found | quality.measured(config, params, measure, real, tick, judge, guide)


def work(config: Config, measure: Measure) -> int:
    """How much `measured` ticks in all."""
    if config.kind == "classifier":
        return reading.work(config, measure)
    if config.kind != "generator":
        return reconstruction.work(measure)
    return bits.work(measure) + quality.work(config, measure)
