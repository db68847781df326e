"""Metrics by name, their options, and the real examples that they are of."""

import dataclasses
import logging
from typing import Literal

import jax
import numpy as np

from jaxdiff import data, sharding
from jaxdiff.config import Config
from jaxdiff.config.checks import check_seed
from jaxdiff.data import Source, caption_tags, derived
from jaxdiff.errors import unknown
from jaxdiff.model import Model
from jaxdiff.pipeline import Request
from jaxdiff.pipeline.requests import classes_of

log = logging.getLogger("jaxdiff")
BITS = ("nll", "nll_ode")  # bits per dimension of real images
JUDGED = ("fid", "kid", "precision_recall", "inception_score", "accuracy")  # sampled images, in a judge's features
SAMPLED = (*JUDGED, "nearest", "clip_score")


@dataclasses.dataclass(frozen=True)
class Measure:
    """Metrics of a model and the data that they are of.

    Attributes:
      metrics: names with commas between. Of a denoiser of pixels: "nll", the variational bound in bits per dimension, its
        default; "nll_ode", the likelihood by the probability flow. Of sampled images beside as many real ones: "fid",
        "kid", "precision_recall", "inception_score", "accuracy" (share that the judge classifies as their label), "nearest"
        (distances to training images), and of text-to-image models "clip_score". Of a classifier: "accuracy". Of an
        autoencoder: "psnr", "latents" and, with one, "codebook". Of a CLIP: "retrieval".
      source: data that the model was not trained on, see `jaxdiff.data.load`; by default the test split of its own.
      num: number of real examples, and of sampled images; the seed chooses them.
      batch_size: number at a time.
      steps: levels in the bound of nll; all of them by default, as in papers.
      variance: variance of the network's steps in nll; by default "learned" where there is one, else "posterior".
      clip: clip the predicted x0 in nll, as published code does; the default.
      probes: random directions in which nll_ode takes the divergence; 1 by default.
      tolerance: relative and absolute tolerance of nll_ode's solver; by default 1e-5, as in score SDE; 1e-3 is faster.
      judge: classifier of clean images, in whose features sampled images are compared: its run, file or name; by default
        the one that ships for the model's data, such as "digits_judge".
      inception: weights of InceptionV3, in place of a judge, see `benchmarks/convert_inception.py`.
      clip_model: CLIP of the CLIP score: its run, file or name.
      seed: seed of the choice of examples, of the noise and of the probes.
    """

    metrics: str | None = None
    source: str | None = None
    num: int = 128
    batch_size: int = 64
    steps: int | None = None
    variance: Literal["posterior", "beta", "learned"] | None = None
    clip: bool | None = None
    probes: int | None = None
    tolerance: float | None = None
    judge: str | None = None
    inception: str | None = None
    clip_model: str | None = None
    seed: int = 0

    def named(self, group: tuple[str, ...]) -> list[str]:
        """Returns those of the metrics that are in a group."""
        return [name for name in self.metrics.split(",") if name in group]


def complete(measure: Measure, model: Model, request: Request, source: Source | None = None) -> Measure:
    """The measure with its defaults filled in from the model.

    Args:
      measure: as given.
      model: the model that is evaluated.
      request: its samples.
      source: data in place of `measure.source`.

    Raises:
      ValueError: one line that says what to change.
    """
    config, known = model.config, metrics_of(model.config)
    measure = dataclasses.replace(measure, metrics=known[0] if measure.metrics is None else measure.metrics)
    names = measure.metrics.split(",")
    for name in names:
        if name not in known:
            raise unknown("metric" if config.samples else f"metric of a network of role {config.role!r}:", name, known)
        if names.count(name) > 1:
            raise ValueError(f"{name} stands twice in `metrics` {measure.metrics}")
    options = _options(measure, config)
    if source is None and measure.source is None:
        options["source"] = held_out(str(config.data.source))
    measure = dataclasses.replace(measure, **options)
    _check_numbers(measure, config)
    _check_judge(measure, model, request)
    if source is None:
        _check_shape(measure.source, config)
    return measure


def metrics_of(config: Config) -> tuple[str, ...]:
    """The metrics of a network, the default first.

    Raises:
      ValueError: there are none.
    """
    if config.role == "text_encoder":
        raise ValueError("a text transformer alone cannot be evaluated: give the CLIP that it is a half of")
    if config.samples and config.net.context_dim:
        return SAMPLED
    if config.samples and config.latent.codec:
        return SAMPLED[:-1]
    return {
        "denoiser": (*BITS, *SAMPLED[:-1]),
        "classifier": ("accuracy",),
        "autoencoder": ("psnr", "latents", *(("codebook",) if getattr(config.net, "codebook_size", 0) else ())),
        "clip": ("retrieval",),
    }[config.role]


def _options(measure, config):
    """The options of single metrics filled in; refused beside others."""
    d = config.diffusion
    learned = config.samples and config.net.learns_variance(config.shape[-1])
    defaults = {
        "nll": {"steps": d.num_levels, "variance": "learned" if learned else "posterior", "clip": True},
        "nll_ode": {"probes": 1, "tolerance": 1e-5},
        "clip_score": {"clip_model": None},
    }
    options = {}
    for owner, values in defaults.items():
        for option, default in values.items():
            given = getattr(measure, option)
            if given is not None and owner not in measure.metrics.split(","):
                raise ValueError(f"`{option}`={given} is for the metric {owner}: add it to `metrics`, or leave it out")
            options[option] = default if given is None else given
    if options["variance"] == "learned" and not learned:
        raise ValueError(
            "`variance`='learned' needs a network that predicts one, with twice as many output channels as the image"
        )
    return options


def _check_numbers(measure, config):
    if min(measure.num, measure.probes) < 1:
        raise ValueError("`num` and `probes` must be at least 1")
    check_seed("`seed`", measure.seed)
    sharding.check_batch_size("`batch_size`", measure.batch_size, jax.local_device_count())
    if not 0 < measure.tolerance < 1:
        raise ValueError(f"`tolerance`={measure.tolerance} must be above 0 and below 1, which leaves no digit right")
    if not 2 <= measure.steps <= config.diffusion.num_levels:
        raise ValueError(
            f"`steps`={measure.steps} must be from 2 to {config.diffusion.num_levels}, the number of levels"
        )
    if measure.num < 4 and config.samples and measure.named(JUDGED):
        raise ValueError(f"`num`={measure.num} must be at least 4: distances are taken to the third neighbour")


def _check_judge(measure, model, request):
    """Refuses judges that no metric needs, or metrics that a judge does not have."""
    judged, judges = model.config.samples and measure.named(JUDGED), [measure.judge, measure.inception]
    if not judged and any(judges):
        raise ValueError(f"`judge` and `inception` are for {', '.join(JUDGED)} of sampled images: leave them out")
    if all(judges):
        raise ValueError("`judge` and `inception` are two judges: choose one")
    if judged and "accuracy" in judged and (measure.inception or not classes_of(model, request)):
        raise ValueError("accuracy is of models with labels, by a `judge` that knows the same classes")


def _check_shape(name, config):
    """Refuses data of another shape, which an evaluation does not crop as a training may (`resize`)."""
    choice = data.parse(name, like=config.data.source)
    if getattr(choice, "resize", True):  # as pictures of folders are, or as the training did
        return
    there, here = ("x".join(map(str, shape)) for shape in (data.load(choice).image_shape, config.data.image_shape))
    if there != here:
        raise ValueError(
            f"the images of {name} are {there}, and the model's {here}: give a `source` of that shape, or a "
            "folder:PATH, whose pictures are cropped and resized"
        )


def held_out(source: str) -> str:
    """The test split of the data that a network was trained on.

    Raises:
      ValueError: data of its kind has no splits, as a folder, or the test split was trained on.

    Example::

        >>> from jaxdiff.eval import measure
        >>> measure.held_out("digits"), measure.held_out("tfds:cifar10:train[:80%]")
        ('digits:test', 'tfds:cifar10:test')
    """
    choice = data.parse(source)
    kind, split = choice.kind, getattr(choice, "split", None)
    if kind == "tfds":
        from jaxdiff.data import prepared  # which takes a second to import

        dataset, version, split = prepared.parse(source.partition(":")[2])
        kind = f"tfds:{dataset}" + ("" if "*" in version else f":{version}")
    if split is None or {part.split("[")[0].strip() for part in split.split("+")} & {"test", "all"}:
        raise ValueError(f"no test split was kept from {source}: give data that was not trained on as `source`")
    return f"{kind}:test"


def chosen(model: Model, measure: Measure, source: Source | None = None) -> list[dict]:
    """The real examples that the seed chooses.

    Args:
      model: the model that is evaluated.
      measure: from `complete`.
      source: data in place of `measure.source`.

    Raises:
      ValueError, OSError: as `jaxdiff.data.load`; fewer examples than asked for, or labels or captions that are needed and
        missing.
    """
    config, labels = model.config, model.config.net.classes
    name, kind = measure.source if source is None else "the source", ""
    if source is None:
        choice = data.parse(name, like=config.data.source)
        source, kind = data.load(choice, config.data.image_shape), choice.kind
        if choice == config.data.source:
            log.warning("%s was trained on %s: its numbers on these examples say little of others", config.name, name)
    elif source.image_shape != config.data.image_shape:
        raise ValueError(f"the source's images are {source.image_shape}, and the model's {config.data.image_shape}")
    source = caption_tags.with_trigger(derived.checked(source), config.data.trigger)
    if len(source) < measure.num:
        raise ValueError(f"{name} has {len(source)} examples: `num`={len(source)} takes all of them")
    if (config.role == "clip" or getattr(config.net, "context_dim", 0)) and not source.captioned:
        raise ValueError(f"{source.no_captions_reason}, and this model is evaluated by captions")
    needed = labels and (config.classifies or measure.named(BITS))
    if needed:
        source = derived.as_learned(source, config.data.classes, kind == "folder")
    if needed and len(source.classes) not in range(1, labels + 1):
        raise ValueError(f"{name} has {len(source.classes)} classes, and the network labels for {labels}")
    return [source[i] for i in np.random.default_rng(measure.seed).permutation(len(source))[: measure.num].tolist()]
