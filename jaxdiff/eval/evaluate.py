"""Evaluation of a model: bits per dimension of held-out data, quality of samples, accuracy, reconstruction, retrieval."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from jaxdiff import progress
from jaxdiff.arguments import check_fields, check_type, plain
from jaxdiff.config import Sample
from jaxdiff.data import Source
from jaxdiff.errors import NotFinite, unknown
from jaxdiff.eval import bits, quality, reading, reconstruction, zero_shot
from jaxdiff.eval.features import Features
from jaxdiff.eval.measure import BITS, SAMPLED, Measure, chosen, complete
from jaxdiff.eval.quality import Plan
from jaxdiff.model import Model, check_model
from jaxdiff.pipeline import ControlInput, Request
from jaxdiff.pipeline.requests import as_control, check


def evaluate(
    model: Model,
    metrics: str | Sequence[str] | None = (),
    source: str | Source | None = None,
    *,
    classifier: Model | None = None,
    control: ControlInput | None = None,
    judge: str | Model | Features | None = None,
    show_progress: bool = True,
    **options,
) -> dict:
    """Evaluates a model on data that it was not trained on.

    Args:
      model: any model, from `jaxdiff.load`.
      metrics: names, see `Measure`; by default, also of () and None, the first that the model has.
      source: held-out data, see `jaxdiff.data.load`, or a `Source`; by default the test split of the model's own.
      classifier: classifier that guides the samples, see `jaxdiff.generate`.
      control: pictures for the model's ControlNets, see `jaxdiff.generate`.
      judge: classifier of clean images, by name or as a model, or `Features`, in whose features samples are compared with
        real images; by default the one that ships for the model's data.
      show_progress: show a bar when it takes more than two seconds.
      **options: fields of `Measure`, such as `num`, `seed`, `steps`; and `sample`, a `jaxdiff.config.Sample`, for the
        samples, by default the model's own, but with the captions of the real examples as prompts.

    Returns:
      {metric: {name: number, ...}}, of types that JSON has.

    Raises:
      TypeError: `model`, `classifier` or `judge` is no `Model`.
      ValueError, OSError: metrics or data that do not go with the model; one line.
      NotFinite: a number that is not finite.

    Example::

        >>> import jaxdiff
        >>> found = jaxdiff.evaluate(jaxdiff.load("digits_classifier"), num=32, batch_size=32)
        >>> list(found), found["accuracy"]["level_1"] > 0.8
        (['accuracy'], True)
    """
    check_model(model)
    sample = options.pop("sample", None) or default_sample(model)
    check_type("`sample`", sample, Sample)
    check_type("`source`", source, str | Source | None)
    for name, one in (("classifier", classifier), ("judge", judge)):
        if one is not None and not isinstance(one, str | Features):
            check_model(one, name)
    known = {field.name for field in dataclasses.fields(Measure)} - {"metrics", "source"}
    if wrong := next((name for name in options if name not in known), None):
        raise unknown("argument", wrong, [*known, "metrics", "source", "classifier", "control", "judge", "sample"])
    if isinstance(judge, str):
        options, judge = options | {"judge": judge}, None
    names = (metrics,) if isinstance(metrics, str) else () if metrics is None else metrics
    names = check_type("`metrics`", tuple(names) if isinstance(names, list) else names, tuple[str, ...])
    text, own = (source, None) if isinstance(source, str) else (None, source)
    measure = Measure(
        metrics=",".join(names) or None, source=text, **{name: plain(value) for name, value in options.items()}
    )
    measure, sample = check_fields(measure), check_fields(sample, "sample.")
    plan = prepared(Plan(model, measure, Request(sample, None, classifier, as_control(control)), own), judge)
    with progress.bar("measuring", work(plan), "steps", delay=2.0 if show_progress else math.inf) as tick:
        return measured(plan, tick)


def default_sample(model: Model) -> Sample:
    """The default sampling: that of the model's config, by the captions of the real examples."""
    return dataclasses.replace(model.config.sample, prompts=())


def prepared(plan: Plan, judge: Model | Features | None = None) -> Plan:
    """The plan with its defaults filled in, checked.

    Raises:
      ValueError, OSError: as `evaluate`.
    """
    plan = plan._replace(measure=complete(plan.measure, plan.model, plan.request, plan.source))
    request = plan.request
    if not plan.samples_images and (
        request.sample != default_sample(plan.model) or request.classifier or request.control or judge
    ):
        raise ValueError(f"`sample`, `classifier`, `control` and `judge` are for {', '.join(SAMPLED)}: leave them out")
    if plan.model.controls and plan.measure.named(BITS):
        raise ValueError(f"{', '.join(BITS)} are of models without ControlNets: leave them out")
    plan = quality.with_judges(plan, judge)
    if plan.samples_images:
        check(plan.model, quality.sampled(plan, None))
    return plan


def measured(plan: Plan, tick: Callable[[int], None]) -> dict:
    """The metrics of a prepared plan; `tick` is called after every part of the work, `work` in all.

    Raises:
      ValueError, OSError: as `jaxdiff.data.load`; fewer examples than asked for, or labels that the network lacks.
      NotFinite: a number that is not finite.
    """
    model, measure, real = plan.model, plan.measure, chosen(plan.model, plan.measure, plan.source)
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
