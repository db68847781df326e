"""Sampling of images from a model: condition, guidance, noise, levels, sampler, decoding."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import guidance, latent, progress, samplers, sharding
from jaxdiff.arguments import as_array, check_fields, check_floats, check_type, plain
from jaxdiff.config import Sample
from jaxdiff.errors import NotFinite, check_known, unknown
from jaxdiff.model import Model, check_model, denoiser_of
from jaxdiff.pipeline import conditions
from jaxdiff.pipeline.conditions import ControlInput, ImagePrompt, Texts, as_texts
from jaxdiff.pipeline.images import to_uint8
from jaxdiff.pipeline.labels import as_labels
from jaxdiff.pipeline.requests import (
    Request,
    as_control,
    as_image_prompt,
    check,
    classes_of,
    guides_itself,
    labels_of,
    sized,
)
from jaxdiff.schedules import Schedule
from jaxdiff.seeds import key_of
from jaxdiff.types import Array, Cond, Denoiser, Guided, call, is_traced

FAR = 10.0  # median of |x| of what is no image any more; x is in [-1, 1]
DECODING = {"whole": lambda codec: codec, "sliced": latent.sliced, "tiled": latent.tiled}


def generate(
    model: Model,
    prompts: str | Sequence[str] = (),
    *,
    labels: int | Sequence[int] | str | None = None,
    num: int | None = None,
    classifier: Model | None = None,
    control: np.ndarray | Sequence[np.ndarray] | ControlInput | None = None,
    image_prompt: np.ndarray | ImagePrompt | None = None,
    show_progress: bool = True,
    **options,
) -> np.ndarray:
    """Samples images from a model.

    Args:
      model: denoiser, from `jaxdiff.load`.
      prompts: texts, for a model with a text encoder; image i is of the i-th of them, in turn.
      labels: classes, for a model with labels or with a classifier; image i is of the i-th of them, in turn, also
        as text such as "0-4,7"; by default all of them.
      num: number of images; by default one of each prompt or label.
      classifier: classifier of noisy images whose gradient leads to the labels (Dhariwal and Nichol 2021).
      control: picture for a ControlNet, uint8 [H, W, C] or [N, H, W, C]; of several ControlNets a sequence with one each;
        `ControlInput` for weights and guess mode.
      image_prompt: picture beside the prompts, uint8 [H, W, 3] or [N, H, W, 3], for a model from
        `jaxdiff.model.with_ip_adapter`; `ImagePrompt` for a weight.
      show_progress: show a bar when it takes more than two seconds.
      **options: fields of `jaxdiff.config.Sample`: `seed`, `steps`, `guidance`, `negative`, `prompt_syntax`, `sampler`,
        `spacing`, `interval`, `rescale`, `guide`, `clip`, `compat`, `size`, `decode`, `batch_size`; by default those of the
        model's config, and seed 0.

    Returns:
      uint8 [num, H, W, C]. Image i of a seed is the same whatever `num` and `batch_size` are.

    Raises:
      TypeError: `model` or `classifier` is no `Model`.
      ValueError: arguments that the model cannot be sampled with; one line that says what to change.
      NotFinite: an image that is not finite.

    Example::

        >>> import jaxdiff
        >>> images = jaxdiff.generate(jaxdiff.load("digits"), labels=[7, 3], guidance=2.0, steps=5)
        >>> images.shape, images.dtype
        ((2, 28, 28, 1), dtype('uint8'))
    """
    check_model(model)
    prompts = as_texts(prompts)
    if classifier is not None:
        check_model(classifier, "classifier")
    if labels is not None and not isinstance(labels, str):
        labels = as_labels(labels)
    known = {field.name for field in dataclasses.fields(Sample)} - {"num", "labels", "prompts"}
    if wrong := next((name for name in options if name not in known), None):
        raise unknown("argument", wrong, [*known, "prompts", "labels", "num", "classifier", "control"])
    given = {"seed": 0, "negative": ""} | {name: plain(value) for name, value in options.items()}
    num = check_type("`num`", plain(num), int | None)
    if isinstance(labels, str) or labels is None:
        given["labels"], labels = labels, None
    sample = dataclasses.replace(model.config.sample, prompts=prompts, num=1, **given)
    sample = check_fields(sample)
    request = Request(sample, labels, classifier, as_control(control), as_image_prompt(image_prompt))
    by_label = classes_of(model, request) and (labels is not None or sample.labels is not None)
    count = max(len(prompts), len(labels_of(model, request)) if by_label else 1) if num is None else num
    request = request._replace(sample=dataclasses.replace(sample, num=count))
    check(model, request)
    with progress.bar("sampling", num_ticks(model, request), "steps", delay=2.0 if show_progress else math.inf) as tick:
        return np.concatenate([images for images, _ in batches(model, request, tick)])


def batches(
    model: Model, request: Request, tick: Callable[[int], None] = lambda steps: None, frames: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Samples the images of a request, a batch at a time, spread over the local devices.

    Args:
      model: denoiser.
      request: checked by `check`.
      tick: called after every few steps with their number, `num_ticks` in all.
      frames: also give the predicted x0 of every step.

    Yields:
      uint8 [B, H, W, C], and with `frames` uint8 [N, B, H, W, C], else None.

    Raises:
      NotFinite: an image that is not finite.
    """
    model, sample, schedule = sized(model, request.sample), request.sample, model.schedule
    sampler, levels = sample.sampler(), model.levels(sample.steps, sample.spacing)
    submodels = "codec", "text_encoder", "second_text_encoder"
    names = [name for name in submodels if getattr(model.config.latent, name)]
    if lost := [name for name in names if name not in model.submodels]:
        raise ValueError(f"{model.config.name} lacks its {' and '.join(lost)}: load it anew")
    denoise = sharding.knowing_mesh(make_denoiser(model, request), model.params)
    size = tick_size(sample.steps)
    std = schedule(levels[0]).sigma if sample.compat.scale_noise else schedule.std(levels[0])
    batch_size = sharding.fitting(sample.batch_size, sample.num)
    asked = sample.prompts, sample.negative, sample.prompt_syntax, request.image_prompt
    texts = conditions.encode(model, *asked)
    labels = labels_of(model, request)
    for start in range(0, sample.num, batch_size):
        indices = jnp.arange(start, start + batch_size)  # the last batch is cut, not compiled anew
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key_of(sample.seed), indices)
        keys, cond = sharding.split((keys, condition(model, request, texts, labels, indices)), model.params)
        x_T = samplers.noise(keys, model.shape) * std
        count, pictures = min(batch_size, sample.num - start), []
        arguments = keys, sampler, denoise, schedule, levels, x_T, cond
        for x, x0s in samplers.chunks(*arguments, size=size, collect=_x0 if frames else None):
            if frames:
                pictures.append(np.stack([to_uint8(decode(model, x0, sample.decode)[:count]) for x0 in x0s]))
            jax.block_until_ready(x)
            tick(size)
        yield finite(decode(model, x, sample.decode)[:count], start), np.concatenate(pictures) if frames else None


def _x0(state, prediction):
    return prediction.x0


def condition(model: Model, request: Request, texts: Texts | None, labels: Sequence[int], indices: Array) -> Guided:
    """The condition of some images of a request; a classifier sees the labels beside the network.

    Args:
      model: denoiser.
      request: the request.
      texts: its encoded prompts, see `conditions.encode`.
      labels: its classes, see `labels_of`.
      indices: indices of the images, int [B].
    """
    if request.classifier is None:
        return conditions.rows(model, texts, labels or None, request.control, indices, request.sample.guidance)
    own = labels if model.config.net.num_classes else None
    network_cond = conditions.rows(model, texts, own, request.control, indices).cond
    return Guided(Cond(label=jnp.asarray(labels, jnp.int32)[indices % len(labels)]), network_cond)


def decode(model: Model, x: Array, how: Literal["whole", "sliced", "tiled"] = "whole") -> Array:
    """Images of x_0: latents are decoded, pixels returned as they are; in about [-1, 1], float32 [B, H, W, C].

    Args:
      model: denoiser or autoencoder.
      x: x_0, float32 [B, h, w, c].
      how: decode the batch at once, one image after the other, or in tiles, see `jaxdiff.latent`.

    Raises:
      ValueError: a model of another role; integers, no example, or another number of dimensions or channels than the
        model's; an unknown `how`.
    """
    check_known("way of decoding", how, DECODING)
    codec = _codec_of(model)
    latent = model.config.net.latent_shape(model.image_shape) if model.config.role == "autoencoder" else model.shape
    x = _checked_batch("x", x, latent)
    return x if codec is None else call(DECODING[how](codec).decode, x)


def encode(model: Model, images: Array) -> Array:
    """x_0 of images: the mean of their latents, or the images themselves.

    Args:
      model: denoiser or autoencoder.
      images: float32 [B, H, W, C] in [-1, 1], such as `jaxdiff.objectives.to_unit_range` makes of uint8.

    Raises:
      ValueError: a model of another role; integers, numbers outside of about [-1, 1], no example, or another number of
        dimensions or channels than the model's.
    """
    codec = _codec_of(model)
    images = _checked_batch("images", images, model.image_shape)
    if not is_traced(images) and not np.abs(np.asarray(images)).max(initial=0) <= 2:
        raise ValueError(
            "`images` must lie in [-1, 1]: of numbers in 0..255, uint8, see jaxdiff.objectives.to_unit_range"
        )
    return images if codec is None else call(codec.encode, images)


def _codec_of(model):
    """Codec of an autoencoder or of a latent diffusion; None of a diffusion of pixels.

    Raises:
      ValueError: a model of another role, which neither encodes nor decodes images.
    """
    check_model(model)
    if model.config.role not in ("autoencoder", "denoiser"):
        raise ValueError(
            f"`model` {model.config.name} has no latents, as its network is of kind {model.config.net.kind!r}: give an "
            "autoencoder, or a denoiser"
        )
    return model.codec


def _checked_batch(name, x, shape):
    """x as an array; ValueError unless it is a batch of floats with these channels, whose size may be another."""
    x = as_array(name, x)
    found = np.shape(x)
    if len(found) != 4 or found[-1] != shape[-1]:
        raise ValueError(f"`{name}` must be float [B, H, W, {shape[-1]}], not {list(found)}")
    if not found[0]:
        raise ValueError(f"`{name}` is empty, of shape {list(found)}: give at least one")
    check_floats(name, x)
    return x


def finite(images: Array, start: int = 0) -> np.ndarray:
    """Images in [-1, 1] as uint8.

    Raises:
      NotFinite: one is not finite, or far outside of [-1, 1]; the message names the first, counted from `start`.
    """
    images = np.asarray(images)
    if bad := np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1)).tolist():
        raise NotFinite(
            f"image {start + bad[0]} is not finite: lower `guidance`, clip x0, take another sampler or more steps, or "
            "weights of float32"
        )
    size = np.median(np.abs(images).reshape(len(images), -1), axis=1)
    if (far := np.flatnonzero(size > FAR)).size:
        raise NotFinite(f"image {start + far[0]} lies far outside of [-1, 1]: lower `guidance`, or clip x0")
    return to_uint8(images)


def make_denoiser(model: Model, request: Request) -> Denoiser:
    """The model's denoiser with the guidance of a request, for conditions that are `Guided`."""
    sample, schedule, log_prob = request.sample, model.schedule, None
    if request.classifier is not None:
        classifier = request.classifier
        log_prob = guidance.label_log_prob(classifier.apply, classifier.params)
    denoise = denoiser_of(model, sample.compat.round_levels)
    if model.config.net.guidance_dim:  # the network takes the scale itself
        denoise = guidance.on_cond(denoise)
    else:
        denoise = guided(denoise, schedule, sample, log_prob)
    chord = sample.sampler.traits.get("takes_end")  # whose x0 may rightly lie outside
    return guidance.clip_x0(denoise, schedule) if sample.clip and not chord else denoise


def guided(denoise: Denoiser, schedule: Schedule, sample: Sample, log_prob: Callable | None = None) -> Denoiser:
    """A denoiser with guidance, for conditions that are `Guided`.

    Args:
      denoise: denoiser without guidance.
      schedule: its noise schedule.
      sample: scale, kind, interval and rescaling of the guidance.
      log_prob: log-probability of a classifier that guides, see `guidance.classifier`; None guides by the network's own
        unconditional prediction.
    """
    if guides_itself(sample):
        return denoise
    if log_prob is not None:
        plain = guidance.on_uncond(denoise)
        strong = guidance.classifier(plain, log_prob, schedule, sample.guidance)
        if sample.rescale:
            strong = guidance.rescaled(plain, strong, schedule, sample.rescale)
    else:
        plain = guidance.on_cond(denoise)
        strong = sample.guide(denoise, schedule, sample.guidance, sample.rescale)
    return guidance.within(strong, plain, *sample.interval) if sample.interval else strong


def num_ticks(model: Model, request: Request) -> int:
    """Number of steps that `batches` takes in all."""
    sample = request.sample
    return math.ceil(sample.num / sharding.fitting(sample.batch_size, sample.num)) * sample.steps


def tick_size(steps: int) -> int:
    """Number of steps between two ticks: the largest that divides `steps` and gives ten ticks.

    A program that called the host would not be kept by the persistent compilation cache.
    """
    return max(size for size in range(1, max(1, steps // 10) + 1) if steps % size == 0)


def layout(model: Model, request: Request) -> np.ndarray:
    """Places of images on a sheet, int [rows, columns], -1 for none: of several classes or prompts a row each."""
    num, classes = request.sample.num, len(request.sample.prompts or labels_of(model, request))
    if 1 < classes <= num:
        places = np.arange(math.ceil(num / classes) * classes).reshape(-1, classes).T
    else:
        columns = math.ceil(math.sqrt(num))
        places = np.arange(math.ceil(num / columns) * columns).reshape(-1, columns)
    return np.where(places < num, places, -1)
