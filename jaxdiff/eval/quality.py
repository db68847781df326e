"""How good drawn images are: beside as many real ones, in the features of a judge that no generator learned from."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator

import numpy as np

from jaxdiff import data
from jaxdiff.config import Config
from jaxdiff.eval import draw, fid, guided, neighbors
from jaxdiff.eval.features import Features, Gathered, gathered
from jaxdiff.eval.guided import Guide
from jaxdiff.eval.measure import DRAWN, JUDGED, Measure

log = logging.getLogger("jaxdiff")


def work(config: Config, measure: Measure) -> int:
    """How much `measured` ticks in all."""
    judged = math.ceil(measure.num / measure.batch_size) if measure.named(JUDGED) else 0  # batches of real images
    return judged + (draw.num_steps(sampled(config, measure)) if measure.named(DRAWN) else 0)


def sampled(config: Config, measure: Measure) -> Config:
    """The config with as many images to draw as are measured."""
    how = {"num": measure.num, "batch_size": measure.batch_size, "seed": measure.seed}
    return dataclasses.replace(config, sample=dataclasses.replace(config.sample, **how))


def measured(
    config: Config,
    params,
    measure: Measure,
    real: list[dict],
    tick: Callable[[int], None],
    judge: Features | None = None,
    guide: Guide | None = None,
) -> dict:
    """Those of `measure.metrics` that are of drawn images.

    Where images are drawn by label, they are of all classes in turn, or of those of `config.sample.labels`, whatever the
    labels of the real ones are.

    Args:
      config: of the run that the network was trained in, and how it is sampled.
      params: its parameters.
      measure: from `measure.complete`.
      real: as many real examples, {"image": uint8 [H, W, C], ...}.
      tick: called after every part of the work with how much it was, `work` in all.
      judge: of all but "nearest".
      guide: a classifier that guides, if there is one.

    Returns:
      {metric: {what: number, ...}}.
    """
    config, names, found = sampled(config, measure), measure.named(DRAWN), {}
    if not names:
        return found
    drawn = (images for images, _ in draw.batches(config, params, tick, guide=guide))
    images = [example["image"] for example in real]
    if "nearest" in names:
        drawn = list(drawn)
        found["nearest"] = remembered(config, np.concatenate(drawn), np.stack(images))
    if judge is None:
        return found
    labels = guided.labels(config, guide)
    judged = gathered(judge, _batched(images, measure.batch_size), lambda _: tick(1)), gathered(judge, drawn)
    return found | compared(names, *judged, np.array(labels)[np.arange(measure.num) % len(labels)] if labels else None)


def compared(names: list[str], real: Gathered, drawn: Gathered, labels: np.ndarray | None) -> dict:
    """Metrics of what a judge says of real images and of drawn ones, which were drawn for such labels."""
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
            what: fid.inception_score(x.score) for what, x in (("drawn", drawn), ("real", real))
        }
    if "accuracy" in names:
        right = drawn.classes == labels
        found["accuracy"] = {"accuracy": float(right.mean()), "standard_error": float(right.std() / math.sqrt(n))}
    return found


def remembered(config: Config, drawn: np.ndarray, real: np.ndarray, block: int = 1000) -> dict:
    """Distances of drawn and of real images to the nearest training image: a generator that remembers is nearer."""
    d, nearest = config.data, {}
    source = data.load(data.parse(d.source, like=d), d.image_shape)
    for start in range(0, len(source), block):
        train = np.stack([source[i]["image"] for i in range(start, min(start + block, len(source)))]) / 255.0
        for what, images in (("drawn", drawn), ("real", real)):
            nearest[what] = np.minimum(nearest.get(what, np.inf), neighbors.nearest(images / 255.0, train))
    return {f"{what}_{q}%": float(np.percentile(nearest[what], q)) for what in nearest for q in (5, 25, 50)}


def _batched(images: list[np.ndarray], size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), size):
        yield np.stack(images[start : start + size])
