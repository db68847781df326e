"""Quality of sampled images: compared with as many real ones in the features of a judge that no generator learned from."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxdiff import data
from jaxdiff import model as models
from jaxdiff.data import Source
from jaxdiff.eval import features, fid, neighbors, zero_shot
from jaxdiff.eval.features import Features, Gathered, gathered
from jaxdiff.eval.measure import JUDGED, SAMPLED, Measure
from jaxdiff.model import Model
from jaxdiff.pipeline import Request, requests, sampling

log = logging.getLogger("jaxdiff")


class Plan(NamedTuple):
    """An evaluation.

    Attributes:
      model: the model.
      measure: metrics and their options, from `measure.complete`.
      request: how images are sampled; their number, batch size and seed are the measure's.
      source: the real examples, in place of those that `measure.source` names.
      judge: features that images are compared in; None where no metric needs them.
      clip: CLIP of the CLIP score; None without.
    """

    model: Model
    measure: Measure
    request: Request
    source: Source | None = None
    judge: Features | None = None
    clip: Model | None = None

    @property
    def samples_images(self) -> bool:
        """Whether images are sampled at all."""
        return self.model.config.samples and bool(self.measure.named(SAMPLED))


def with_judges(plan, judge: Model | Features | None = None):
    """The plan with the judge and the CLIP that its metrics need.

    Raises:
      ValueError, OSError: there is none; it is not a classifier, is of other images, or knows other classes.
    """
    measure, model = plan.measure, plan.model
    if not plan.samples_images:
        return plan
    if measure.named(JUDGED):
        plan = plan._replace(judge=_judge(plan, judge))
    elif judge is not None:
        raise ValueError(f"`judge` is for {', '.join(JUDGED)} of sampled images: leave it out")
    if "clip_score" in measure.metrics.split(","):
        clip = models.load(measure.clip_model or "captioned_clip")
        if clip.config.role != "clip" or clip.image_shape != model.image_shape:
            raise ValueError(f"`clip_model` {clip.config.name} must be a CLIP of images {model.image_shape}")
        if str(clip.config.data.source) == str(model.config.data.source):
            log.warning(
                "%s was trained on %s, as the model was: its scores compare runs, and are no independent judgement",
                *(clip.config.name, clip.config.data.source),
            )
        plan = plan._replace(clip=clip)
    return plan


def _judge(plan, judge):
    measure, shape = plan.measure, plan.model.image_shape
    if judge is not None and (measure.judge or measure.inception):
        raise ValueError("`judge` and `inception` are two judges: choose one")
    if measure.inception:
        return features.inception(measure.inception)
    if isinstance(judge, Features):
        return judge
    if judge is None:
        default = plan.model.config.data.source.traits.get("judge")
        if measure.judge is None and default is None:
            raise ValueError(
                f"{measure.metrics} needs a judge: `inception` weights (see benchmarks/convert_inception.py), or `judge` "
                "with a classifier of such images"
            )
        judge = models.load(measure.judge or default)
    name = judge.origin.name or judge.config.name
    if not judge.config.classifies or judge.image_shape != shape:
        raise ValueError(f"`judge` {name} must be a classifier of images {shape}: train one, or take `inception`")
    if measure.named(("accuracy",)) and judge.config.net.classes != requests.classes_of(plan.model, plan.request):
        raise ValueError(f"`judge` {name} must know the classes that are sampled: leave accuracy out")
    label = f"{name}, trained on {judge.origin.trained_on}"
    return features.classifier_features(judge.config.net, judge.params, label)


def work(plan: Plan) -> int:
    """Number of ticks of `measured`."""
    measure = plan.measure
    judged = math.ceil(measure.num / measure.batch_size) if measure.named(JUDGED) else 0  # batches of real images
    return judged + (sampling.num_ticks(plan.model, sampled(plan, None)) if measure.named(SAMPLED) else 0)


def sampled(plan: Plan, real: list[dict] | None) -> Request:
    """The request for as many images as are measured; of text-to-image models for the captions of the real ones."""
    measure, request = plan.measure, plan.request
    prompts = request.sample.prompts
    if plan.model.config.net.context_dim and not prompts:
        prompts = tuple(example["caption"] for example in real) if real else ("a caption",) * measure.num
    how = {"num": measure.num, "batch_size": measure.batch_size, "seed": measure.seed, "prompts": prompts}
    return request._replace(sample=dataclasses.replace(request.sample, **how))


def measured(plan: Plan, real: list[dict], tick: Callable[[int], None]) -> dict:
    """Those of the metrics that are of sampled images.

    Images are sampled by label for all classes in turn, or for those of the request, whatever the labels of the real ones
    are; by text for the captions of the real ones, or for the prompts of the request.

    Args:
      plan: prepared.
      real: as many real examples, {"image": uint8 [H, W, C], ...}.
      tick: called after every part of the work with its size, `work` in all.

    Returns:
      {metric: {name: number, ...}}.
    """
    measure, names, found = plan.measure, plan.measure.named(SAMPLED), {}
    if not names:
        return found
    request = sampled(plan, real)
    drawn = (images for images, _ in sampling.batches(plan.model, request, tick))
    images = [example["image"] for example in real]
    if {"nearest", "clip_score"} & set(names):
        drawn = list(drawn)
    if "nearest" in names:
        found["nearest"] = nearest_training_images(plan.model, np.concatenate(drawn), np.stack(images))
    if "clip_score" in names:
        prompts = request.sample.prompts
        texts = [prompts[i % len(prompts)] for i in range(measure.num)]
        found["clip_score"] = zero_shot.score_report(plan.clip, np.concatenate(drawn), texts, real)
    if plan.judge is None:
        return found
    labels = requests.labels_of(plan.model, request)
    judged = gathered(plan.judge, _batched(images, measure.batch_size), lambda _: tick(1)), gathered(plan.judge, drawn)
    return found | compared(names, *judged, np.array(labels)[np.arange(measure.num) % len(labels)] if labels else None)


def compared(names: list[str], real: Gathered, drawn: Gathered, labels: np.ndarray | None) -> dict:
    """Metrics of a judge's features of real and of sampled images, which were sampled for such labels."""
    found, n, kept = {}, len(drawn.classes), len(drawn.kept)
    if "fid" in names:
        dim = len(drawn.moments.mean)
        if n <= dim:
            log.warning(
                "fid of %d images in %d features: too few for a covariance, so compare at this number only", n, dim
            )
        found["fid"] = {"fid": fid.frechet(real.moments, drawn.moments), "n": n}
    if "kid" in names:
        distance = fid.kernel_distance(real.kept, drawn.kept)
        found["kid"] = {"kid": distance.value, "standard_error": distance.standard_error, "n": kept}
    if "precision_recall" in names:
        found["precision_recall"] = neighbors.precision_recall(real.kept, drawn.kept)._asdict() | {"n": kept}
    if "inception_score" in names:
        found["inception_score"] = {
            which: fid.inception_score(x.score) for which, x in (("drawn", drawn), ("real", real))
        }
    if "accuracy" in names:
        right = drawn.classes == labels
        found["accuracy"] = {"accuracy": float(right.mean()), "standard_error": float(right.std() / math.sqrt(n))}
    return found


def nearest_training_images(model: Model, drawn: np.ndarray, real: np.ndarray, block: int = 1000) -> dict:
    """Distances of sampled and of real images to their nearest training image: memorised images are nearer."""
    nearest, source = {}, data.load(model.config.data.source, model.image_shape)
    for start in range(0, len(source), block):
        train = np.stack([source[i]["image"] for i in range(start, min(start + block, len(source)))]) / 255.0
        for which, images in (("drawn", drawn), ("real", real)):
            nearest[which] = np.minimum(nearest.get(which, np.inf), neighbors.nearest(images / 255.0, train))
    return {f"{which}_{q}%": float(np.percentile(nearest[which], q)) for which in nearest for q in (5, 25, 50)}


def _batched(images: list[np.ndarray], size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), size):
        yield np.stack(images[start : start + size])
