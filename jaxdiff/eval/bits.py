"""Bits per dimension of images: metrics by name, over batches that are spread over all devices."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import guidance, samplers, timesteps
from jaxdiff.errors import NotFinite
from jaxdiff.eval import likelihood
from jaxdiff.eval.measure import BITS, Measure
from jaxdiff.model import Model, denoiser_of
from jaxdiff.objectives import to_unit_range
from jaxdiff.objectives.variational import prior_term
from jaxdiff.pipeline import conditions
from jaxdiff.pipeline.sampling import tick_size
from jaxdiff.samplers import ode
from jaxdiff.sharding import over_batches


def measured(model: Model, measure: Measure, real: list[dict], tick: Callable[[int], None]) -> dict:
    """Those of `measure.metrics` that are bits per dimension.

    Args:
      model: denoiser of pixels.
      measure: from `measure.complete`.
      real: examples, {"image": uint8 [H, W, C], "label": int}.
      tick: called after every part of the work with how much it was, `work` in all.

    Returns:
      {metric: {"bits_per_dim": mean, "standard_error": of that mean, ...}}.

    Raises:
      NotFinite: a number that is not finite, because the solver of an ODE ran out of steps.
    """
    if not measure.named(BITS):
        return {}
    schedule, found, net = model.schedule, {}, model.config.net
    images = np.stack([example["image"] for example in real])
    label = np.array([example["label"] for example in real], np.int32) if net.num_classes else None
    cond = conditions.rows(model, None, label, None, np.arange(len(real))).cond
    for name in measure.named(BITS):
        metric = METRICS[name]
        denoise = denoiser_of(model)
        if metric.clips and measure.clip:
            denoise = guidance.clip_x0(denoise, schedule)
        of_batch = functools.partial(metric.of, measure, denoise, schedule, tick)
        numbers = over_batches(of_batch, measure.num, measure.batch_size, measure.seed, (images, cond))
        numbers = {what: values.astype(np.float64) for what, values in numbers.items()}
        bits = numbers.pop("bits_per_dim")
        if not np.all(np.isfinite(bits)):
            raise NotFinite(
                f"{name} is not finite: the ODE took too many steps; give a larger `tolerance`, such as 1e-3"
            )
        error = float(bits.std(ddof=1) / math.sqrt(measure.num)) if measure.num > 1 else None
        found[name] = {"bits_per_dim": float(bits.mean()), "standard_error": error}
        found[name] |= {what: float(values.mean()) for what, values in numbers.items()} | metric.how(measure)
    return found


def work(measure: Measure) -> int:
    """Number of ticks of `measured`."""
    return math.ceil(measure.num / measure.batch_size) * sum(
        METRICS[name].work(measure) for name in measure.named(BITS)
    )


class Metric(NamedTuple):
    """One metric.

    Attributes:
      clips: whether the predicted image may be kept in its range.
      of: (measure, denoise, schedule, tick, keys [B], (images, cond)) -> {"bits_per_dim": [B], ...}.
      work: measure -> how much it ticks for each batch.
      how: measure -> what the report says of how it was made.
    """

    clips: bool
    of: Callable
    work: Callable
    how: Callable


def _nll(measure, denoise, schedule, tick, keys, examples):
    images, cond = examples
    levels = timesteps.grid(schedule.num_levels, measure.steps)
    size = tick_size(measure.steps)
    terms = []
    for part in likelihood.bound_terms(
        keys, denoise, schedule, levels, to_unit_range(images), cond, measure.variance, size=size
    ):
        terms.append(jax.block_until_ready(part))
        tick(size)
    terms = jnp.concatenate(terms)
    prior = jax.vmap(prior_term, (None, 0))(schedule, to_unit_range(images))
    return {
        "bits_per_dim": prior + terms.sum(0),
        "prior": prior,
        "between": terms[:-1].sum(0),
        "decoder": terms[-1],
    }


def _nll_ode(measure, denoise, schedule, tick, keys, examples):
    images, cond = examples
    noise_keys, probe_keys = (samplers.fold(keys, i) for i in range(2))
    x = likelihood.dequantize(noise_keys, images)
    method = ode.adaptive(measure.tolerance, measure.tolerance)
    log_prob = likelihood.log_prob(probe_keys, denoise, schedule, x, cond, measure.probes, method)
    bits = likelihood.bits_per_dim(jax.block_until_ready(log_prob), images.shape[1:])
    tick(1)
    return {"bits_per_dim": bits}


METRICS = {
    "nll": Metric(
        True,
        _nll,
        lambda measure: measure.steps,
        lambda measure: {"num_steps": measure.steps, "variance": measure.variance, "clip": measure.clip},
    ),
    "nll_ode": Metric(
        False,
        _nll_ode,
        lambda measure: 1,
        lambda measure: {"probes": measure.probes, "tolerance": measure.tolerance},
    ),
}
