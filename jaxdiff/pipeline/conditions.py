"""Conditions of a model from prompts, labels and pictures: everything that its network takes is filled in."""

import functools
import logging
import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.adapt import control as controlnets
from jaxdiff.arguments import check_images, check_text, check_type, plain
from jaxdiff.model import Model, check_denoiser
from jaxdiff.pipeline.labels import as_labels, check_labels, parse_labels
from jaxdiff.text import weighted
from jaxdiff.text.encoder import with_sizes
from jaxdiff.types import Array, Cond, Guided, call

log = logging.getLogger("jaxdiff")


class ControlInput(NamedTuple):
    """Pictures that ControlNets are conditioned on, and their weights.

    Attributes:
      pictures: one for each ControlNet, uint8 [N, H, W, C]; image i has the i-th of them, in turn.
      scales: weight of each ControlNet; () is 1.
      guess: guess mode, in which the pictures alone say what to draw, see `adapt.control.guess_scales`.
    """

    pictures: tuple[np.ndarray, ...]
    scales: tuple[float, ...] = ()
    guess: bool = False


class ImagePrompt(NamedTuple):
    """Pictures as prompts, beside texts, of a model from `jaxdiff.model.with_ip_adapter`.

    Attributes:
      pictures: uint8 [N, H, W, C] of any size; image i has the i-th of them, in turn.
      scale: weight of the attention to them.
    """

    pictures: np.ndarray
    scale: float = 1.0


def condition(
    model: Model,
    prompts: str | Sequence[str] | None = None,
    labels: int | Sequence[int] | str | None = None,
    negative: str = "",
    control: ControlInput | None = None,
    num: int | None = None,
    start: int = 0,
    guidance: float | None = None,
    prompt_syntax: Literal["plain", "weighted"] = "plain",
    image_prompt: ImagePrompt | None = None,
) -> Guided:
    """Conditions of images, and the unconditional or negative ones beside them, for `guidance.cfg`.

    Image i has the i-th prompt and the i-th label, in turn. A vector, which tells a network how an image was augmented, is
    zero: no augmentation.

    Args:
      model: denoiser.
      prompts: texts, for a model with a text encoder; None is the empty text.
      labels: classes, for a model with labels, also as text such as "0-4,7" or by name; None is the null label.
      negative: text of the unconditional half.
      control: pictures for the ControlNets of the model.
      num: number of images; by default one of each prompt or label.
      start: index of the first image.
      guidance: scale, for a network that takes it as a condition; None is the model's own.
      prompt_syntax: see `jaxdiff.config.Sample`.
      image_prompt: pictures beside the prompts, of a model from `jaxdiff.model.with_ip_adapter`.

    Returns:
      `Guided` of two `Cond` with `num` rows each; of (None, None) where the network takes no condition.

    Raises:
      TypeError: no `Model`.
      ValueError: a model that is no denoiser; prompts, labels or a guidance that it does not take, labels that it does not
        know, an empty prompt, or another number of pictures than of ControlNets.

    Example::

        >>> import jaxdiff
        >>> both = jaxdiff.condition(jaxdiff.load("digits"), labels=[7, 3])
        >>> both.cond.label.tolist(), both.uncond.label.tolist(), both.cond.vector.shape
        ([7, 3], [10, 10], (2, 6))
    """
    check_denoiser(model)
    prompts, num, start = None if prompts is None else as_texts(prompts), plain(num), plain(start)
    check_type("`negative`", negative, str)
    check_type("`prompt_syntax`", prompt_syntax, Literal["plain", "weighted"])
    if check_type("`num`", num, int | None) is not None and num < 1:
        raise ValueError(f"`num`={num} must be at least 1")
    if check_type("`start`", start, int) < 0:
        raise ValueError(f"`start`={start} must be at least 0")
    if guidance is not None and not model.config.net.guidance_dim:
        raise ValueError(f"{model.config.name} takes no `guidance` as a condition: give it to jaxdiff.guidance.cfg")
    if isinstance(labels, str):
        labels = tuple(parse_labels(labels, model.config.net.classes, model.config.data.classes))
    labels = None if labels is None else as_labels(labels)
    check(model, prompts, labels, negative, control)
    count = num if num is not None else max(len(prompts or ()), len(labels or ()), 1)
    check_image_prompt(model, image_prompt)
    texts = encode(model, prompts, negative, prompt_syntax, image_prompt)
    return rows(model, texts, labels, control, jnp.arange(start, start + count), guidance)


class Texts(NamedTuple):
    """Encoded prompts.

    Attributes:
      context: contexts of the prompts [P, L, D].
      negative: context of the negative prompt [L, D].
      vector: vectors of the whole prompts [P, V], of a model with two text encoders; else None.
      negative_vector: vector of the negative prompt [V].
      pictures: embeddings of image prompts [N, E]; None is none.
      picture_scale: weight of the attention to them.
    """

    context: Array
    negative: Array
    vector: Array | None = None
    negative_vector: Array | None = None
    pictures: Array | None = None
    picture_scale: float = 1.0


def encode(
    model: Model,
    prompts: Sequence[str] | None,
    negative: str = "",
    syntax: Literal["plain", "weighted"] = "plain",
    image_prompt: ImagePrompt | None = None,
) -> Texts | None:
    """Encodes prompts; None of a model without text encoder. The log names the part of a prompt that is cut off."""
    if (encoder := model.text_encoder) is None:
        return None
    texts = _encode(model, encoder, prompts, negative, syntax)
    if image_prompt is None:
        return texts
    pictures = jnp.asarray(image_prompt.pictures, jnp.float32) / 127.5 - 1
    reader = model.submodels["image_encoder"]
    found = _embed_pictures(reader.config.make_net(), reader.params, pictures)
    return texts._replace(pictures=found, picture_scale=image_prompt.scale)


@functools.partial(jax.jit, static_argnums=0)
def _embed_pictures(net, params, pictures):
    return net.apply({"params": params}, pictures)


def _encode(model, encoder, prompts, negative, syntax):
    texts = [*(prompts or ("",)), negative]
    words = {word for text in texts for word in re.findall(r"<[^<>\s]+>", text)}
    for word in sorted(words):
        if encoder.tokenizer.model.token_to_id(word.lower()) is None:
            log.warning("%s is no token of %s: the adapter that brings it is missing", word, model.config.name)
    if syntax == "weighted":
        return _as_texts(model, texts, weighted.read(encoder, texts), encoder.second is not None)
    for kept, cut in filter(None, map(encoder.tokenizer.truncation, texts)):
        log.warning("only %d tokens of a prompt are read: %r, and %r is cut", encoder.tokenizer.length - 2, kept, cut)
    if encoder.second is None:
        contexts = encoder(texts)
        return Texts(contexts[:-1], contexts[-1])
    return _as_texts(model, texts, encoder.read(texts), True)


def _as_texts(model, texts, read, with_vectors):
    if model.config.latent.zero_empty_text:
        read = jax.tree.map(lambda rows: rows.at[np.flatnonzero([not text for text in texts])].set(0), read)
    vectors = (read.pooled[:-1], read.pooled[-1]) if with_vectors else ()
    return Texts(read.tokens[:-1], read.tokens[-1], *vectors)


def rows(
    model: Model,
    texts: Texts | None,
    labels: Sequence[int] | None,
    control: ControlInput | None,
    indices: Array,
    guidance: float | None = None,
) -> Guided:
    """The conditions of some images, see `condition`.

    Args:
      model: denoiser.
      texts: from `encode`.
      labels: classes.
      control: pictures for the ControlNets.
      indices: indices of the images, int [B].
      guidance: scale, for a network that takes it as a condition; None is the model's own.
    """
    net, count = model.config.net, len(indices)
    cond, uncond = {}, {}
    if net.num_classes:
        labels = [net.null_label] if labels is None else labels
        cond["label"] = jnp.asarray(labels, jnp.int32)[indices % len(labels)]
        uncond["label"] = jnp.full(count, net.null_label, jnp.int32)
    if net.context_dim:
        cond["context"] = texts.context[indices % len(texts.context)]
        uncond["context"] = jnp.broadcast_to(texts.negative, cond["context"].shape)
    if net.vector_dim and texts is not None and texts.vector is not None:
        cond["vector"] = _with_sizes(model, texts.vector[indices % len(texts.vector)])
        uncond["vector"] = _with_sizes(model, jnp.broadcast_to(texts.negative_vector, (count, texts.vector.shape[1])))
    elif net.vector_dim:
        cond["vector"] = uncond["vector"] = np.zeros([count, net.vector_dim], np.float32)
    if net.image_channels:
        cond["image"] = uncond["image"] = jnp.tile(masked_picture(model), (count, 1, 1, 1))
    if net.image_prompt_dim:
        given = texts.pictures is not None
        found = texts.pictures if given else jnp.zeros([1, net.image_prompt_dim], jnp.float32)
        cond["image_prompt"] = found[indices % len(found)]
        uncond["image_prompt"] = jnp.zeros_like(cond["image_prompt"])
        cond["image_prompt_scale"] = uncond["image_prompt_scale"] = jnp.full(
            count, given * texts.picture_scale, jnp.float32
        )
    if net.guidance_dim:
        scale = model.config.sample.guidance if guidance is None else guidance
        cond["guidance"] = uncond["guidance"] = jnp.full(count, scale, jnp.float32)
    guided = Guided(Cond(**cond) if cond else None, Cond(**uncond) if uncond else None)
    return guided if control is None else with_control(model, guided, control, indices)


def masked_picture(model: Model, image: np.ndarray | None = None, known: np.ndarray | None = None) -> Array:
    """Input of an inpainting network beside x_t: a mask, and the picture without the region that is drawn anew.

    Args:
      model: denoiser whose network has one more image channel than x_t.
      image: uint8 [H, W, C]; None is none, and all is drawn.
      known: pixels that are kept, bool [H, W, 1]; None are none.

    Returns:
      float32 [1, h, w, 1 + c]: 1 where it is drawn anew, and x_0 of the picture that is grey there.

    Raises:
      ValueError: the network takes other pictures.
    """
    net, (H, W, C), (h, w, c) = model.config.net, model.image_shape, model.shape
    if net.image_channels != c + 1:
        raise ValueError(
            f"the network takes pictures of {net.image_channels} channels beside its images, and only those of inpainting "
            f"networks are made here, of {c + 1}: call its denoiser with `Cond.image`"
        )
    known = np.zeros([H, W, 1], bool) if known is None or image is None else known
    kept = np.zeros([H, W, C], np.float32) if image is None else np.where(known, image / 127.5 - 1, 0)
    x0 = kept[None] if model.codec is None else call(model.codec.encode, jnp.asarray(kept[None], jnp.float32))
    rows, columns = np.arange(h) * H // h, np.arange(w) * W // w
    mask = 1.0 - known[rows][:, columns].astype(np.float32)
    return jnp.concatenate([jnp.asarray(mask)[None], jnp.asarray(x0, jnp.float32)], axis=-1)


def _with_sizes(model, vector):
    """Vectors of texts [B, V] with the sizes of images that are not cropped."""
    H, W, _ = model.image_shape
    return with_sizes(vector, model.config.net.vector_dim, jnp.array([H, W, 0, 0, H, W]))


def with_control(model: Model, guided: Guided, control: ControlInput, indices: Array) -> Guided:
    """The same conditions with the pictures of the ControlNets."""
    B, count = len(indices), controlnets.num_residuals(model.config.net)
    scales = [jnp.full([B, count], scale, jnp.float32) for scale in control.scales or [1.0] * len(model.controls)]
    if control.guess:
        scales = [scale * controlnets.guess_scales(1.0, count)[None] for scale in scales]
    pictures = [jnp.asarray(each)[indices % len(each)] for each in control.pictures]
    one = lambda each: each[0] if len(each) == 1 else tuple(each)
    add = lambda cond, scales: (cond or Cond())._replace(control=one(pictures), control_scale=one(scales))
    uncond_scales = [0 * scale for scale in scales] if control.guess else scales
    return Guided(add(guided.cond, scales), add(guided.uncond, uncond_scales))


def check(
    model: Model,
    prompts: Sequence[str] | None,
    labels: Sequence[int] | None,
    negative: str = "",
    control: ControlInput | None = None,
) -> None:
    """Refuses conditions that the model does not take.

    Raises:
      ValueError: one line that says what to change.
    """
    net, reads = model.config.net, bool(model.config.net.context_dim)
    if labels is not None and not net.num_classes:
        raise ValueError(
            f"`labels`={list(labels)} is for models that were trained with labels, and this one was not: leave it out, or "
            "give a `classifier`"
        )
    if labels is not None:
        check_labels(labels, net.num_classes)
    for name, text in (("prompts", prompts), ("negative", negative)):
        if text and not reads:
            raise ValueError(f"`{name}` is for models with a text encoder, and this one has none: leave it out")
        for one in (text,) if isinstance(text, str) else text or ():
            check_text(name, one)
    if not all(prompt.strip() for prompt in prompts or ()):
        raise ValueError("one of `prompts` is empty: say what to draw; `guidance`=0 draws without condition")
    count = len(model.controls)
    if count and control is None:
        names = " and ".join(control.condition for control in model.controls)
        raise ValueError(f"the model has {count} ControlNets (of {names}): give a picture for each as `control`")
    if control and (len(control.pictures) != count or len(control.scales) not in (0, count)):
        raise ValueError(
            f"there are {count} ControlNets, {len(control.pictures)} pictures (`control`) and {len(control.scales)} scales "
            "(`control_scale`): give one of each for every one"
        )
    for picture in control.pictures if control else ():
        check_images("control", picture)
    if wrong := next((scale for scale in (control.scales if control else ()) if not math.isfinite(scale)), None):
        raise ValueError(f"`control_scale`={wrong} must be a finite number")


def check_image_prompt(model: Model, image_prompt: ImagePrompt | None) -> None:
    """Raises ValueError for pictures that the model does not take as prompts."""
    if image_prompt is None:
        return
    if not model.config.net.image_prompt_dim:
        raise ValueError(f"`image_prompt` is for models with an IP-Adapter, and {model.config.name} has none")
    if not len(check_images("image_prompt", image_prompt.pictures)) or np.shape(image_prompt.pictures)[-1] != 3:
        raise ValueError("`image_prompt` must be pictures of 3 channels")
    if not math.isfinite(image_prompt.scale):
        raise ValueError(f"`image_prompt_scale`={image_prompt.scale} must be a finite number")


def as_texts(prompts: str | Sequence[str]) -> tuple[str, ...]:
    """One text or several as a tuple.

    Raises:
      ValueError: something else.
    """
    if isinstance(prompts, str):
        return (prompts,)
    return check_type("`prompts`", tuple(prompts) if isinstance(prompts, Sequence) else prompts, tuple[str, ...])
