"""What is measured, on what: names of metrics, their options, and the examples."""

import dataclasses
from typing import Literal

import jax
import numpy as np

from jaxdiff import data
from jaxdiff.config import Config, Latent, indivisible
from jaxdiff.errors import unknown
from jaxdiff.eval import guided
from jaxdiff.eval.guided import Guide
from jaxdiff.nets.clip import TextConfig

BITS = ("nll", "nll_ode")  # bits per dimension of real images
JUDGED = ("fid", "kid", "precision_recall", "inception_score", "accuracy")  # drawn images, by what a judge says of them
DRAWN = (*JUDGED, "nearest")


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is measured, on what.

    Attributes:
      metrics: names, with commas between. "nll", the variational bound in bits per dimension, the default; "nll_ode", the
        likelihood by the probability flow. Of drawn images beside as many real ones: "fid", "kid", "precision_recall",
        "inception_score", "accuracy" (how many are read as their label) and "nearest" (distances to training images). Of a
        classifier: "accuracy". Of an autoencoder: "psnr", "latents" and, with one, "codebook". Of a CLIP: "retrieval", how
        many of the `num` texts find their image, and images their text. What follows is of all of them, or says of which.
      source: data that the network was not trained on, see `jaxdiff.data.load`; by default the test split of its own.
      num: how many examples, and how many images are drawn; the seed chooses them.
      batch_size: how many at a time.
      steps: of nll: levels in the bound, all of them by default, as papers have it.
      variance: of nll: of the network's steps; by default "learned" where it says one, else "posterior".
      clip: of nll: keep the predicted image in its range, as published code and, by default, this does.
      probes: of nll_ode: random directions in which the divergence is taken, 1 by default.
      tolerance: of nll_ode: relative and absolute, of the solver's steps; by default 1e-5, as in score SDE; 1e-3 is faster.
      judge: of drawn images: a classifier of clean images, whose features and classes they are judged by: its run, its
        file or its name; by default "digits_judge" for the embedded digits.
      inception: of drawn images: instead of a judge, weights of InceptionV3, see `benchmarks/convert_inception.py`.
      seed: of the choice of examples, the noise and the probes.
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
    seed: int = 0

    def named(self, group: tuple[str, ...]) -> list[str]:
        """Those of the metrics that are in a group."""
        return [name for name in self.metrics.split(",") if name in group]


def complete(measure: Measure, config: Config, guide: Guide | None = None) -> Measure:
    """The same with its defaults filled in from the config of the network.

    Raises:
      ValueError: one line that says what to change.
    """
    kind, known = config.kind, metrics_of(config)
    measure = dataclasses.replace(measure, metrics=measure.metrics or known[0])
    names = measure.metrics.split(",")
    for name in names:
        if name not in known:
            raise unknown("metric" if kind == "generator" else f"metric of {kind}s:", name, known)
        if names.count(name) > 1:
            raise ValueError(f"{name} stands twice in --metrics {measure.metrics}")
    options = _options(measure, config)
    measure = dataclasses.replace(measure, source=measure.source or held_out(config.data.source), **options)
    _check_numbers(measure, config)
    _check_judge(measure, config, guide)
    return measure


def metrics_of(config: Config) -> tuple[str, ...]:
    """The metrics that a network can be measured by, the default first.

    Raises:
      ValueError: there is none.
    """
    if config.kind == "generator" and config.latent != Latent():
        raise ValueError(
            "jaxdiff eval measures networks that draw pixels, and without words: benchmarks/latent.py shows how to measure "
            "others"
        )
    if isinstance(config.net, TextConfig):
        raise ValueError("a text transformer alone cannot be measured: give the CLIP that it is a half of")
    codebook = ("codebook",) if config.reconstruction.words else ()
    return {
        "generator": (*BITS, *DRAWN),
        "classifier": ("accuracy",),
        "autoencoder": ("psnr", "latents", *codebook),
        "CLIP": ("retrieval",),
    }[config.kind]


def _options(measure, config):
    """What belongs to one metric alone, filled in, and refused beside others."""
    d = config.diffusion
    says_variance = config.kind == "generator" and config.net.out_channels == 2 * config.data.image_shape[-1]
    defaults = {
        "nll": {"steps": d.num_levels, "variance": "learned" if says_variance else "posterior", "clip": True},
        "nll_ode": {"probes": 1, "tolerance": 1e-5},
    }
    options = {}
    for owner, values in defaults.items():
        for option, default in values.items():
            given = getattr(measure, option)
            if given is not None and owner not in measure.metrics.split(","):
                raise ValueError(f"{option}={given} is for the metric {owner}: add it to --metrics, or leave it out")
            options[option] = default if given is None else given
    if options["variance"] == "learned" and not says_variance:
        raise ValueError("variance='learned' needs a network that says a variance: net.out_channels twice the image's")
    return options


def _check_numbers(measure, config):
    if min(measure.num, measure.batch_size, measure.probes) < 1:
        raise ValueError("the number of examples, the batch size and the probes must be at least 1")
    if measure.batch_size % jax.local_device_count():
        raise indivisible("batch_size", measure.batch_size, jax.local_device_count())
    if not measure.tolerance > 0:
        raise ValueError(f"tolerance={measure.tolerance} must be above 0")
    if not 2 <= measure.steps <= config.diffusion.num_levels:
        raise ValueError(f"steps={measure.steps} must be from 2 to {config.diffusion.num_levels}, the number of levels")
    if measure.num < 4 and config.draws and measure.named(JUDGED):
        raise ValueError(f"--num {measure.num} must be at least 4: distances are taken to the third neighbour")


def _check_judge(measure, config, guide):
    """Drawn images need somebody to judge them, and nothing else does."""
    judged, judges = config.draws and measure.named(JUDGED), [measure.judge, measure.inception]
    if not judged and any(judges):
        raise ValueError(f"--judge and --inception are for {', '.join(JUDGED)} of drawn images: leave them out")
    if all(judges):
        raise ValueError("--judge and --inception are two judges: choose one")
    if judged and "accuracy" in judged and (measure.inception or not guided.num_classes(config, guide)):
        raise ValueError("accuracy is of networks that draw by label, by a --judge that knows the same classes")


def held_out(source: str) -> str:
    """The test split of the data that a network was trained on.

    Raises:
      ValueError: it is a folder, which has none, or the test split was trained on.

    Example::

        >>> from jaxdiff.eval import measure
        >>> measure.held_out("digits"), measure.held_out("tfds:cifar10:train[:80%]")
        ('digits:test', 'tfds:cifar10:test')
    """
    kind, _, name = source.partition(":")
    split = name
    if kind == "tfds":
        from jaxdiff.data import prepared  # which takes a second to import

        dataset, version, split = prepared.parse(name)
        kind = f"tfds:{dataset}" + ("" if "*" in version else f":{version}")
    seen = {part.split("[")[0].strip() for part in split.split("+")}
    if kind == "folder" or seen & {"test", "all"}:
        raise ValueError(f"no test split was kept from {source}: give data that was not trained on by --source")
    return f"{kind}:test"


def chosen(config: Config, measure: Measure) -> list[dict]:
    """The examples that the seed chooses.

    Raises:
      ValueError, OSError: as `jaxdiff.data.load`; fewer of them than asked for, or labels that the network lacks, where
        those are needed.
    """
    d, labels = config.data, config.classes
    source = data.load(data.parse(measure.source, like=d), d.image_shape)
    if len(source) < measure.num:
        raise ValueError(f"{measure.source} has {len(source)} examples: --num {len(source)} takes all of them")
    if config.kind == "CLIP" and not source.captioned:
        raise ValueError(f"{source.no_captions_reason}, and a CLIP is measured by captions")
    needed = labels and (config.classifies or measure.named(BITS))
    if needed and len(source.classes) not in range(1, labels + 1):
        raise ValueError(f"{measure.source} has {len(source.classes)} classes, and the network labels for {labels}")
    return [source[i] for i in np.random.default_rng(measure.seed).permutation(len(source))[: measure.num].tolist()]
