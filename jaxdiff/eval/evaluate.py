"""Evaluation of a model: bits per dimension of held-out data, quality of samples, accuracy, reconstruction, retrieval."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from jaxdiff import progress
from jaxdiff.data import Source
from jaxdiff.errors import NotFinite, unknown
from jaxdiff.eval import bits, quality, reading, reconstruction, zero_shot
from jaxdiff.eval.features import Features
from jaxdiff.eval.measure import Measure, chosen, complete
from jaxdiff.eval.quality import Plan
from jaxdiff.model import Model
from jaxdiff.pipeline import ControlInput, Request
from jaxdiff.pipeline.sampling import as_control, check


def evaluate(
    model: Model,
    metrics: str | Sequence[str] = (),
    source: str | Source | None = None,
    *,
    classifier: Model | None = None,
    control: ControlInput | None = None,
    judge: Model | Features | None = None,
    show_progress: bool = True,
    **options,
) -> dict:
    """Evaluates a model on data that it was not trained on.

    Args:
      model: any model, from `jaxdiff.load`.
      metrics: names, see `Measure`; by default the first that the model has.
      source: held-out data, see `jaxdiff.data.load`, or a `Source`; by default the test split of the model's own.
      classifier: classifier that guides the samples, see `jaxdiff.generate`.
      control: pictures for the model's ControlNets, see `jaxdiff.generate`.
      judge: classifier of clean images, or `Features`, by whose features samples are compared with real images; by default
        the one that ships, for digits.
      show_progress: show a bar when it takes more than two seconds.
      **options: fields of `Measure`, such as `num`, `seed`, `steps`; and `sample`, a `jaxdiff.config.Sample`, for the
        samples, by default the model's own.

    Returns:
      {metric: {name: number, ...}}, of types that JSON has.

    Raises:
      ValueError, OSError: metrics or data that do not go with the model; one line.
      NotFinite: a number that is not finite.

    Example::

        >>> import jaxdiff
        >>> found = jaxdiff.evaluate(jaxdiff.load("digits_classifier"), num=32, batch_size=32)
        >>> list(found), found["accuracy"]["level_1"] > 0.8
        (['accuracy'], True)
    """
    sample = options.pop("sample", model.config.sample)
    known = {field.name for field in dataclasses.fields(Measure)} - {"metrics", "source"}
    if wrong := next((name for name in options if name not in known), None):
        raise unknown("argument", wrong, [*known, "metrics", "source", "classifier", "control", "judge", "sample"])
    named = metrics if isinstance(metrics, str) else ",".join(metrics)
    text = str(source) if isinstance(source, str) else None
    plan = Plan(model, Measure(metrics=named or None, source=text, **options), Request(sample, None, classifier))
    plan = prepared(plan._replace(request=plan.request._replace(control=as_control(control))), judge)
    with progress.bar("measuring", work(plan), "steps", delay=2.0 if show_progress else math.inf) as tick:
        return measured(plan, tick, source if isinstance(source, Source) else None)


def prepared(plan: Plan, judge: Model | Features | None = None) -> Plan:
    """The plan with its defaults filled in, checked.

    Raises:
      ValueError, OSError: as `evaluate`.
    """
    plan = plan._replace(measure=complete(plan.measure, plan.model, plan.request))
    plan = quality.with_judges(plan, judge)
    if plan.samples_images:
        check(plan.model, quality.sampled(plan, None))
    return plan


def measured(plan: Plan, tick: Callable[[int], None], source: Source | None = None) -> dict:
    """The metrics of a prepared plan; `tick` is called after every part of the work, `work` in all.

    Raises:
      ValueError, OSError: as `jaxdiff.data.load`; fewer examples than asked for, or labels that the network lacks.
      NotFinite: a number that is not finite.
    """
    model, measure, real = plan.model, plan.measure, chosen(plan.model, plan.measure, source)
    if model.config.role == "classifier":
        found = reading.measured(model, measure, real, tick)
    elif model.config.role == "autoencoder":
        found = reconstruction.measured(model, measure, real, tick)
    elif model.config.role == "clip":
        found = zero_shot.measured(model, measure, real, tick)
    else:
        found = bits.measured(model, measure, real, tick) | quality.measured(plan, real, tick)
    for metric, numbers in found.items():
        for name, value in numbers.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise NotFinite(f"{name} of {metric} is {value}")
    return found


def work(plan: Plan) -> int:
    """Number of ticks of `measured`."""
    model, measure = plan.model, plan.measure
    if model.config.role == "classifier":
        return reading.work(model, measure)
    if model.config.role != "denoiser":
        return reconstruction.work(measure)
    return bits.work(measure) + quality.work(plan)
