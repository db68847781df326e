"""Measuring a trained network on data that it has not seen: metrics by name, and a report that says how each was made."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdiff import data, samplers, timesteps
from jaxdiff.config import Config, indivisible
from jaxdiff.errors import unknown
from jaxdiff.eval import draw, likelihood
from jaxdiff.objectives import to_unit_range
from jaxdiff.objectives.variational import prior_term
from jaxdiff.samplers import ode
from jaxdiff.types import Cond


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is measured, on what.

    Attributes:
      metrics: names, with commas between: "nll", the variational bound in bits per dimension; "nll_ode", the likelihood
        by the probability flow. What follows is of all of them, or says of which.
      source: data that the network was not trained on, see `jaxdiff.data.load`; by default the test split of its own.
      num: how many examples; the seed chooses them.
      batch_size: how many at a time.
      steps: of nll: levels in the bound, all of them by default, as papers have it.
      variance: of nll: of the network's steps; by default "learned" where it says one, else "posterior".
      clip: of nll: keep the predicted image in its range, as published code and, by default, this does.
      probes: of nll_ode: random directions in which the divergence is taken, 1 by default.
      tolerance: of nll_ode: relative and absolute, of the solver's steps; by default 1e-5, as in score SDE; 1e-3 is faster.
      seed: of the choice of examples, the noise and the probes.
    """

    metrics: str = "nll"
    source: str | None = None
    num: int = 128
    batch_size: int = 64
    steps: int | None = None
    variance: Literal["posterior", "beta", "learned"] | None = None
    clip: bool | None = None
    probes: int | None = None
    tolerance: float | None = None
    seed: int = 0


def complete(measure: Measure, config: Config) -> Measure:
    """The same with its defaults filled in from the config of the network.

    Raises:
      ValueError: one line that says what to change.
    """
    T, says_variance = config.diffusion.num_steps, config.net.out_channels == 2 * config.data.image_shape[-1]
    defaults = {
        "nll": {"steps": T, "variance": "learned" if says_variance else "posterior", "clip": True},
        "nll_ode": {"probes": 1, "tolerance": 1e-5},
    }
    names, options = measure.metrics.split(","), {}
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        if names.count(name) > 1:
            raise ValueError(f"{name} stands twice in --metrics {measure.metrics}")
    for owner, values in defaults.items():
        for option, default in values.items():
            given = getattr(measure, option)
            if given is not None and owner not in names:
                raise ValueError(f"{option}={given} is for the metric {owner}: add it to --metrics, or leave it out")
            options[option] = default if given is None else given
    measure = dataclasses.replace(measure, source=measure.source or held_out(config.data.source), **options)
    if measure.variance == "learned" and not says_variance:
        raise ValueError("variance='learned' needs a network that says a variance: net.out_channels twice the image's")
    if min(measure.num, measure.batch_size, measure.probes) < 1:
        raise ValueError("the number of examples, the batch size and the probes must be at least 1")
    if measure.batch_size % jax.local_device_count():
        raise indivisible("batch_size", measure.batch_size, jax.local_device_count())
    if not measure.tolerance > 0:
        raise ValueError(f"tolerance={measure.tolerance} must be above 0")
    if not 2 <= measure.steps <= T:
        raise ValueError(f"steps={measure.steps} must be from 2 to {T}, the number of levels")
    return measure


def held_out(source: str) -> str:
    """The test split of the data that a network was trained on.

    Raises:
      ValueError: it is a folder, which has none, or the test split was trained on.

    Example::

        >>> from jaxdiff.eval import report
        >>> report.held_out("digits"), report.held_out("tfds:cifar10:train[:80%]")
        ('digits:test', 'tfds:cifar10:test')
    """
    kind, _, name = source.partition(":")
    split = name
    if kind == "tfds":
        from jaxdiff.data import tfds  # which takes a second to import

        dataset, version, split = tfds.parse(name)
        kind = f"tfds:{dataset}" + ("" if "*" in version else f":{version}")
    if kind == "folder" or "test" in split or "all" in split:
        raise ValueError(f"no test split was kept from {source}: give data that was not trained on by --source")
    return f"{kind}:test"


def measured(config: Config, params, measure: Measure, tick: Callable[[int], None]) -> dict:
    """The metrics of a network.

    Args:
      config: of the run that it was trained in.
      params: parameters to measure (for a trained run, its EMA).
      measure: from `complete`.
      tick: called after every part of the work with how much it was, `work` in all.

    Returns:
      {metric: {"bits_per_dim": mean, "standard_error": of that mean, ...}}, of types that JSON has.

    Raises:
      ValueError, OSError: as `jaxdiff.data.load`; fewer examples than asked for, or labels that the network lacks; a
        number that is not finite, because the solver of an ODE ran out of steps.
    """
    images, cond = examples(config, measure)
    schedule, found = config.diffusion.make_schedule(), {}
    for name in measure.metrics.split(","):
        metric = METRICS[name]
        denoise = draw.make_denoiser(config, params, schedule, clip=metric.clips and measure.clip)
        of_batch = functools.partial(metric.of, measure, denoise, schedule, tick)
        numbers = _over_batches(of_batch, measure, images, cond)
        bits = numbers.pop("bits_per_dim")
        if not np.all(np.isfinite(bits)):
            raise ValueError(
                f"{name} is not finite: the ODE took too many steps; give a larger --tolerance, such as 1e-3"
            )
        error = float(bits.std(ddof=1) / math.sqrt(measure.num)) if measure.num > 1 else None
        found[name] = {"bits_per_dim": float(bits.mean()), "standard_error": error}
        found[name] |= {what: float(values.mean()) for what, values in numbers.items()} | metric.how(measure)
    return found


def work(measure: Measure) -> int:
    """How much `measured` ticks in all."""
    batches = math.ceil(measure.num / measure.batch_size)
    return batches * sum(METRICS[name].work(measure) for name in measure.metrics.split(","))


def examples(config: Config, measure: Measure) -> tuple[np.ndarray, Cond | None]:
    """Images uint8 [num, H, W, C] and their labels, chosen by the seed."""
    d, labels = config.data, config.net.num_classes
    source = data.load(measure.source, d.image_shape, resize=d.resize, skip_broken=d.skip_broken)
    if len(source) < measure.num:
        raise ValueError(f"{measure.source} has {len(source)} examples: --num {len(source)} takes all of them")
    if labels and len(source.classes) not in range(1, labels + 1):
        raise ValueError(f"{measure.source} has {len(source.classes)} classes, and the network labels for {labels}")
    chosen = [source[i] for i in np.random.default_rng(measure.seed).permutation(len(source))[: measure.num].tolist()]
    images = np.stack([example["image"] for example in chosen])
    label = np.array([example["label"] for example in chosen], np.int32) if labels else None
    vector = np.zeros([len(chosen), config.net.vector_dim], np.float32) if config.net.vector_dim else None
    return images, None if label is None and vector is None else Cond(label, vector)


def _over_batches(of_batch, measure, images, cond):
    """{what: float64 [num]} of of_batch(keys, images, cond) -> {what: [B]}; the last batch is filled up, then cut."""
    mesh = jax.sharding.Mesh(jax.local_devices(), ("batch",))
    parts, key = [], jax.random.key(measure.seed)
    for start in range(0, measure.num, measure.batch_size):
        rows = np.arange(start, start + measure.batch_size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        batch = jax.tree.map(lambda x: x[rows % measure.num], (images, cond))  # noqa: B023
        numbers = of_batch(*jax.device_put((keys, *batch), NamedSharding(mesh, PartitionSpec("batch"))))
        parts.append(jax.tree.map(lambda x: np.asarray(x, np.float64)[: measure.num - start], numbers))  # noqa: B023
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


class Metric(NamedTuple):
    """One metric.

    Attributes:
      clips: whether the predicted image may be kept in its range.
      of: (measure, denoise, schedule, tick, keys [B], images, cond) -> {"bits_per_dim": [B], ...}.
      work: measure -> how much it ticks for each batch.
      how: measure -> what the report says of how it was made.
    """

    clips: bool
    of: Callable
    work: Callable
    how: Callable


def _nll(measure, denoise, schedule, tick, keys, images, cond):
    levels = timesteps.grid(schedule.num_steps, measure.steps)
    size = draw.part_size(measure.steps)
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


def _nll_ode(measure, denoise, schedule, tick, keys, images, cond):
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
