"""What is drawn, and how it is guided there: from the words of a config to a condition and a denoiser."""

import logging
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff import guidance
from jaxdiff.config import Config, Sample
from jaxdiff.denoise import network
from jaxdiff.nets.unet import UNetConfig
from jaxdiff.schedules import Schedule
from jaxdiff.text.encoder import TextEncoder
from jaxdiff.types import Array, Cond, Denoiser, Guided

log = logging.getLogger("jaxdiff")


class Guide(NamedTuple):
    """A classifier of noisy images that leads a network to labels.

    Attributes:
      log_prob: (x_t, t, cond) -> log p(cond.label | x_t) [B], a pytree.
      num_classes: how many it tells apart.
    """

    log_prob: Callable
    num_classes: int


def make_guide(config: Config, classifier: Config, params) -> Guide:
    """A classifier as the guide of a network.

    Args:
      config: of the network.
      classifier: of the classifier.
      params: the classifier's.

    Raises:
      ValueError: it is no classifier, or was trained on other images, levels or classes than the network.
    """
    if not classifier.classifies:
        raise ValueError(f"{classifier.name} is no classifier: train one with --diffusion.objective classification")
    if config.latent.codec:
        raise ValueError(
            "a classifier of images cannot lead a diffusion of latents: see guidance.by_gradient for what can"
        )
    if classifier.data.image_shape != config.data.image_shape:
        raise ValueError(
            f"the classifier reads images {classifier.data.image_shape} and the network draws {config.data.image_shape}: "
            "train one on the other's"
        )
    if classifier.diffusion.levels == "clean":
        raise ValueError(
            "the classifier has only seen images without noise: a guide needs all levels of --diffusion.levels"
        )
    betas = [d.make_schedule().betas for d in (classifier.diffusion, config.diffusion)]
    if betas[0].shape != betas[1].shape or not np.allclose(*betas):
        raise ValueError(
            "the classifier was trained with another noise schedule than the network: use the same for both"
        )
    if config.net.num_classes not in (0, classifier.net.out_channels):
        raise ValueError(
            f"the classifier tells {classifier.net.out_channels} classes apart, and the network knows "
            f"{config.net.num_classes}: train one on the other's"
        )
    log_prob = guidance.label_log_prob(network(classifier.make_net()), params)
    return Guide(log_prob, classifier.net.out_channels)


class Texts(NamedTuple):
    """What is asked for in words, as the network reads it.

    Attributes:
      wanted: contexts of the prompts [P, L, D].
      negative: context of what is led away from [L, D].
    """

    wanted: Array
    negative: Array


def texts(config: Config, reads: TextEncoder | None) -> Texts | None:
    """The prompts of a config as contexts; None of a network that reads no texts."""
    if reads is None:
        return None
    wanted = [*config.sample.prompts, config.sample.negative]
    for kept, cut in filter(None, map(reads.tokenizer.truncation, wanted)):
        log.warning("only %d tokens of a prompt are read: %r, and %r is cut", reads.tokenizer.length - 2, kept, cut)
    contexts = reads(wanted)
    return Texts(contexts[:-1], contexts[-1])


def num_classes(config: Config, guide: Guide | None) -> int:
    """How many classes can be asked for; 0 is none."""
    return guide.num_classes if guide else config.net.num_classes


def parse_labels(text: str, classes: int) -> list[int]:
    """The classes that are named.

    Args:
      text: numbers and ranges with commas between, ends included.
      classes: how many there are.

    Raises:
      ValueError: something else, or a class that there is not.

    Example::

        >>> from jaxdiff.eval.guided import parse_labels
        >>> parse_labels("1,3,5-7", 10)
        [1, 3, 5, 6, 7]
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise ValueError(f"--labels {text} must be numbers and ranges, such as 7 or 0-9 or 1,3,5-7")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < classes:
            raise ValueError(
                f"--labels {text} must lie in 0-{classes - 1}, and ranges go up: there are {classes} classes"
            )
        found += range(first, last + 1)
    return found


def labels(config: Config, guide: Guide | None) -> list[int]:
    """The classes that are drawn in turn; [] where there are none."""
    classes, asked = num_classes(config, guide), config.sample.labels
    return list(range(classes)) if asked is None else parse_labels(asked, classes)


def check(config: Config, guide: Guide | None = None) -> None:
    """Refuses labels and guidance that this network cannot do.

    Raises:
      ValueError: one line that says what to change.
    """
    s, classes, reads = config.sample, num_classes(config, guide), bool(config.latent.text)
    cfgpp, scaled = s.sampler == "ddim_cfgpp", s.guidance != 1 and guide is None
    if s.labels is not None and not classes:
        raise ValueError(
            f"--labels {s.labels} is for networks that were trained with labels, and this one was not: leave it out, or "
            "give a --classifier"
        )
    if s.labels is not None:
        parse_labels(s.labels, classes)
    if (s.prompts or s.negative) and not reads:
        raise ValueError("prompts are for networks that read texts, and this one does not: leave them out")
    if reads and not s.prompts:
        raise ValueError(
            'this network draws what it is told: give it a prompt, such as "a red seven on a blue background" (in training '
            "--sample.prompts)"
        )
    if not all(prompt.strip() for prompt in s.prompts):
        raise ValueError("a prompt is empty: say what to draw; --guidance 0 draws without looking at what is said")
    if s.negative and guide:
        raise ValueError("--negative is for the network's own guidance, and not that of a --classifier: leave one out")
    if s.num < len(s.prompts):
        raise ValueError(f"--num={s.num} images are too few for {len(s.prompts)} prompts: ask for one of each at least")
    if s.negative and s.guidance == 1 and not cfgpp:
        raise ValueError("--negative is what guidance leads away from: add --guidance 3, or leave it out")
    if not 0 <= s.guidance < math.inf:
        raise ValueError(f"--guidance={s.guidance} must be at least 0 and finite: less would lead away from the label")
    if scaled and not classes and not reads:
        raise ValueError(
            f"--guidance={s.guidance} needs labels or prompts to lead to: this network has none, so give a --classifier"
        )
    if (scaled or cfgpp) and not config.diffusion.drop:
        raise ValueError(
            "guidance needs a network that also draws without its label or prompt: train it with --diffusion.drop 0.1, or "
            "give a --classifier"
        )
    if cfgpp and (guide or s.guidance > 1):
        raise ValueError(f"ddim_cfgpp takes a --guidance in [0, 1], not {s.guidance}, and no --classifier")
    if not 0 <= s.rescale <= 1:
        raise ValueError(f"--rescale={s.rescale} must lie in [0, 1]")
    if (s.interval or s.rescale) and (cfgpp or (not guide and not scaled)):
        raise ValueError(
            "--interval and --rescale are of guidance by --guidance or --classifier: add one, or leave them out"
        )
    T = config.diffusion.num_levels
    if s.interval and not 1 <= s.interval[0] <= s.interval[1] <= T:
        raise ValueError(
            f"--interval {s.interval[0]} {s.interval[1]} must be two levels in 1..{T}, the lower one first"
        )


def guided(denoise: Denoiser, schedule: Schedule, sample: Sample, guide: Guide | None = None) -> Denoiser:
    """The denoiser with the guidance that is asked for; its condition is that of `condition`."""
    if sample.sampler == "ddim_cfgpp":
        return denoise
    if guide:
        plain = guidance.on_uncond(denoise)
        strong = guidance.classifier(plain, guide.log_prob, schedule, sample.guidance)
        if sample.rescale:
            strong = guidance.rescaled(plain, strong, schedule, sample.rescale)
    elif sample.guidance == 1:
        return denoise
    else:
        plain, strong = guidance.on_cond(denoise), guidance.cfg(denoise, sample.guidance)
        if sample.rescale:
            strong = guidance.rescaled_cfg(denoise, sample.guidance, schedule, sample.rescale)
    return guidance.within(strong, plain, *sample.interval) if sample.interval else strong


def condition(
    config: Config, indices: Array, guide: Guide | None = None, texts: Texts | None = None
) -> Cond | Guided | None:
    """What images are drawn for: image i for the i-th label and prompt, in turn, and as no augmentation has changed it.

    Args:
      config: of the network, and how it is sampled.
      indices: which images, int [B].
      guide: the classifier, if there is one.
      texts: the prompts, for a network that reads texts.

    Returns:
      A `Cond`; a `Guided` where there is guidance, whose other half is what the network itself is told; or None.
    """
    wanted, net = labels(config, guide), config.net
    label = jnp.asarray(wanted, jnp.int32)[indices % len(wanted)] if wanted else None
    context = texts.wanted[indices % len(texts.wanted)] if texts else None
    hears = told(net, label, len(indices), context)
    if guide:
        return Guided(Cond(label=label), hears)
    if config.sample.guidance == 1 and config.sample.sampler != "ddim_cfgpp":
        return hears
    nothing = None if hears.label is None else jnp.full_like(label, net.num_classes)
    negative = None if context is None else jnp.broadcast_to(texts.negative, context.shape)
    return Guided(hears, hears._replace(label=nothing, context=negative))


def told(net: UNetConfig, label: Array | None, count: int, context: Array | None = None) -> Cond | None:
    """What a network is told of unaugmented images of such labels [count] and texts; None if it takes nothing."""
    if not net.num_classes and not net.vector_dim and not net.context_dim:
        return None
    vector = np.zeros([count, net.vector_dim], np.float32) if net.vector_dim else None
    return Cond(label if net.num_classes else None, vector, context)
