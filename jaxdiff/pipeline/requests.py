"""Requests: images to sample, and what of them a model can fulfil."""

import math
from typing import NamedTuple

import jax
import numpy as np

from jaxdiff import schedules, sharding
from jaxdiff.arguments import as_array
from jaxdiff.config import Sample
from jaxdiff.config.checks import check_seed
from jaxdiff.model import Model
from jaxdiff.pipeline import conditions
from jaxdiff.pipeline.conditions import ControlInput, ImagePrompt
from jaxdiff.pipeline.labels import check_labels, parse_labels


class Request(NamedTuple):
    """Images to sample.

    Attributes:
      sample: how they are sampled.
      labels: classes in turn; None are those of `sample.labels`.
      classifier: classifier that guides.
      control: pictures for the ControlNets.
      image_prompt: pictures beside the prompts.
    """

    sample: Sample
    labels: tuple[int, ...] | None = None
    classifier: Model | None = None
    control: ControlInput | None = None
    image_prompt: ImagePrompt | None = None


def as_image_prompt(given) -> ImagePrompt | None:
    """Pictures as `ImagePrompt`, see `generate`."""
    if given is None or isinstance(given, ImagePrompt):
        return given
    pictures = np.asarray(as_array("image_prompt", given))
    return ImagePrompt(pictures[None] if pictures.ndim == 3 else pictures)


def as_control(given) -> ControlInput | None:
    """Pictures as `ControlInput`, see `generate`."""
    if given is None or isinstance(given, ControlInput):
        return given
    given = as_array("control", given)
    if not isinstance(given, np.ndarray | jax.Array | list | tuple):
        raise ValueError(f"`control` must be a picture, uint8 [H, W, C], or a list of them, not {type(given).__name__}")
    several = given if isinstance(given, list | tuple) else [given]
    pictures = [np.asarray(as_array("control", each)) for each in several]
    return ControlInput(tuple(each[None] if each.ndim == 3 else each for each in pictures))


def classes_of(model: Model, request: Request) -> int:
    """Number of classes that can be asked for; 0 is none."""
    return (request.classifier or model).config.net.classes


def labels_of(model: Model, request: Request) -> tuple[int, ...]:
    """The classes that are sampled in turn; () without labels.

    Raises:
      ValueError: a class that does not exist.
    """
    classes, text = classes_of(model, request), request.sample.labels
    names = (request.classifier or model).config.data.classes
    if request.labels is not None:
        check_labels(request.labels, classes)
        return request.labels
    return tuple(range(classes) if text is None else parse_labels(text, classes, names))


def is_guided(sample: Sample) -> bool:
    """Whether there is guidance at all: a constant scale of 1 is none."""
    return sample.guidance != 1 or sample.guide.kind != "constant"


def guides_itself(sample: Sample) -> bool:
    """Whether the sampler takes both halves of the condition and a guidance scale of its own."""
    return sample.sampler.traits.get("guides_itself", False)


def sized(model: Model, sample: Sample) -> Model:
    """The model for images of the size that is asked for.

    Raises:
      ValueError: a size that it does not take.
    """
    return model.resized(*sample.size) if sample.size else model


def check(model: Model, request: Request) -> None:
    """Refuses a request that the model cannot fulfil.

    Raises:
      ValueError: one line that says what to change.
    """
    s, config, classifier = request.sample, model.config, request.classifier
    if config.classifies:
        raise ValueError(
            "this is a classifier, which no images are sampled from: give it as `classifier` of another model"
        )
    if not config.samples:
        raise ValueError(f"no images are sampled from {config.name}, whose network is of kind {config.net.kind!r}")
    if classifier is not None:
        check_classifier(model, classifier)
    if not 0 <= s.guidance < math.inf:
        raise ValueError(f"`guidance`={s.guidance} must be at least 0 and finite: less would lead away from the label")
    if (request.labels is not None or s.labels is not None) and not classes_of(model, request):
        raise ValueError(
            f"`labels`={request.labels or s.labels} is for models that were trained with labels, and this one was not: "
            "leave it out, or give a `classifier`"
        )
    labels_of(model, request)
    conditions.check_image_prompt(model, request.image_prompt)
    conditions.check(model, s.prompts or None, None, s.negative, request.control)
    if config.net.context_dim and not s.prompts:
        raise ValueError(
            'this model samples images of texts: give it `prompts`, such as "a red seven on a blue background" (in '
            "training --sample.prompts)"
        )
    if s.prompt_syntax != "plain" and not config.net.context_dim:
        raise ValueError(f"`prompt_syntax`={s.prompt_syntax} is of prompts, and this model takes none: leave it out")
    if s.prompt_syntax != "plain" and config.net.context_length:
        raise ValueError(
            f"{config.name} reads {config.net.context_length} tokens and no more: leave out `prompt_syntax`"
        )
    if s.sampler.traits.get("takes_end") and not config.net.takes_end:
        raise ValueError(
            f"the sampler {s.sampler.kind} is for networks trained with the objective 'mean_flow': choose another"
        )
    _check_guidance(model, request)
    _check_numbers(model, request)


def _check_guidance(model, request):
    s, config, classifier = request.sample, model.config, request.classifier
    itself, scaled = guides_itself(s), is_guided(s) and request.classifier is None
    if config.net.guidance_dim:
        used = {"negative": s.negative, "interval": s.interval, "rescale": s.rescale, "classifier": classifier}
        used |= {
            "guide": s.guide.kind != "constant",
            "sampler": itself,
            "guess": request.control and request.control.guess,
        }
        if wrong := next((name for name, value in used.items() if value), None):
            raise ValueError(
                f"`{wrong}` cannot go with {config.name}, which takes `guidance` as a condition: leave it out"
            )
        return
    if s.negative and classifier is not None:
        raise ValueError("`negative` is for the network's own guidance, not that of a `classifier`: leave one out")
    if s.negative and not is_guided(s) and not itself:
        raise ValueError("`negative` is what guidance leads away from: add `guidance`=3, or leave it out")
    if s.negative and s.guidance < 1 and not itself:
        raise ValueError(
            f"`guidance`={s.guidance:g} draws without the prompt, in whole or in part, and `negative` would be drawn: "
            "raise it above 1, or leave `negative` out"
        )
    if scaled and not config.net.num_classes and not config.net.context_dim:
        raise ValueError(
            f"`guidance`={s.guidance} needs labels or prompts to lead to: this network has none, so give a `classifier`"
        )
    if (scaled or itself) and not config.diffusion.cond_dropout:
        raise ValueError(
            "guidance needs a network that also samples without its label or prompt: train it with "
            "--diffusion.cond-dropout 0.1, or give a `classifier`"
        )
    if classifier is not None and s.guide.kind != "constant":
        raise ValueError(f"`guide`={s.guide.kind} is for the network's own guidance, not that of a `classifier`")
    if itself and (classifier is not None or is_guided(s)):
        raise ValueError(
            f"the sampler {s.sampler.kind} guides by its own `scale`: set `guidance` to 1, and leave out `classifier`"
        )
    if request.control and request.control.guess and not is_guided(s):
        raise ValueError("`guess` is for guidance, whose other half does not see the picture: add `guidance`=3")
    if not 0 <= s.rescale <= 1:
        raise ValueError(f"`rescale`={s.rescale} must lie in [0, 1]")
    if (s.interval or s.rescale) and (itself or (classifier is None and not scaled)):
        raise ValueError("`interval` and `rescale` are of `guidance` or a `classifier`: add one, or leave them out")
    T = config.diffusion.num_levels
    if s.interval and not 1 <= s.interval[0] <= s.interval[1] <= T:
        raise ValueError(f"`interval`={s.interval} must be two levels in 1..{T}, the lower one first")


def _check_numbers(model, request):
    s = request.sample
    s.sampler()  # raises for options out of range
    sized(model, s)  # raises for a size that it does not take
    if s.decode != "whole" and not model.config.latent.codec:
        raise ValueError(f"`decode`={s.decode} is of latents, and {model.config.name} has none: leave it out")
    _check_end(s, model.levels(s.steps, s.spacing))
    check_seed("`seed`", s.seed)
    if s.num < 1:
        raise ValueError(f"`num`={s.num} must be at least 1")
    if s.num < len(s.prompts):
        raise ValueError(f"`num`={s.num} images are too few for {len(s.prompts)} prompts: ask for one of each at least")
    labels = () if request.labels is None and s.labels is None else labels_of(model, request)
    if s.num < len(labels):
        raise ValueError(f"`num`={s.num} images are too few for {len(labels)} `labels`: ask for one of each at least")
    sharding.check_batch_size("`batch_size`", s.batch_size, jax.local_device_count())
    if model.config.latent.codec and s.clip:
        raise ValueError("`clip` keeps images in their range, and latents have none: set it to False (--no-clip)")
    variance, net = getattr(s.sampler, "variance", None), model.config.net
    if variance == "learned" and not net.learns_variance(model.shape[-1]):
        raise ValueError(
            "`variance`='learned' needs a network that predicts one, with twice as many output channels as the image"
        )


def _check_end(sample, levels):
    if levels[-1] > 1:  # a grid of `jaxdiff.sample` may end anywhere, and its x is noisy then
        raise ValueError(
            f"the spacing {sample.spacing.kind} ends at level {levels[-1]:g}, where images are noisy: set its `end` to 0 "
            "or 1"
        )


def check_classifier(model: Model, classifier: Model) -> None:
    """Refuses a classifier that cannot guide the model.

    Raises:
      ValueError: it is not one, or was trained on other images, levels or classes than the model.
    """
    one, other = classifier.config, model.config
    if not one.classifies:
        raise ValueError(f"{one.name} is not a classifier: train one, as configs/digits_classifier.py does")
    if other.latent.codec:
        raise ValueError(
            "a classifier of images cannot guide a latent diffusion: see guidance.by_gradient for what can"
        )
    if one.data.image_shape != other.data.image_shape:
        raise ValueError(
            f"the classifier is of images {one.data.image_shape}, and the model of {other.data.image_shape}: train one on "
            "the other's"
        )
    if one.diffusion.levels.kind == "clean":
        raise ValueError(
            "the classifier has only seen images without noise: one that guides needs all levels (--diffusion.levels)"
        )
    if not schedules.equal(*(d.make_schedule() for d in (one.diffusion, other.diffusion))):
        raise ValueError(
            "the classifier was trained with another noise schedule than the network: use the same for both"
        )
    if other.net.num_classes not in (0, one.net.classes):
        raise ValueError(
            f"the classifier tells {one.net.classes} classes apart, and the network knows {other.net.num_classes}: train "
            "one on the other's"
        )
