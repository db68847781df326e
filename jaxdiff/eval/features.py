"""Features and class probabilities of images by a judge network, gathered batch by batch, for `eval.fid`."""

import math
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.arguments import check_images
from jaxdiff.denoise import network
from jaxdiff.eval import fid
from jaxdiff.nets.classifier import Encoder
from jaxdiff.nets.inception import InceptionV3, load_inception, preprocess
from jaxdiff.nets.layers import Dense
from jaxdiff.nets.unet import UNetConfig
from jaxdiff.objectives import to_unit_range
from jaxdiff.sharding import replicated, split
from jaxdiff.types import Array, Static, as_partial


class Features(NamedTuple):
    """Network that judges images.

    Attributes:
      of: uint8 [B, H, W, C] -> (features float32 [B, D], probabilities of classes float32 [B, K]), of each image by itself.
        A `jax.tree_util.Partial` over its parameters is compiled once for all of them.
      name: its name in reports; numbers by different features are not comparable.
    """

    of: Callable[[Array], tuple[Array, Array]]
    name: str


def inception(path: str | os.PathLike) -> Features:
    """The features of published FIDs, and classes as published inception scores take them.

    Those scores leave the last layer's bias out (Salimans et al. 2016, in their code), and so do the probabilities here.

    Args:
      path: safetensors file that `benchmarks/convert_inception.py` made.

    Returns:
      `Features` with D = 2048 and K = 1008, of images of any size with 1 or 3 channels.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file of another kind.

    Example::

        >>> from jaxdiff.eval import features
        >>> features.inception("absent.safetensors")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        FileNotFoundError: No such file or directory: absent.safetensors
    """
    return Features(Partial(_inception, load_inception(path)), "inception-2015-12-05")


def _inception(params, images):
    features, logits = InceptionV3().apply({"params": params}, preprocess(images))
    return features, jax.nn.softmax(logits - params["fc"]["bias"][None])


def classifier_features(config: UNetConfig, params, name: str) -> Features:
    """The features and classes of a `Classifier` that was trained with clean images among others, at level 0.

    Args:
      config: of the classifier.
      params: its parameters.
      name: what a report calls it.

    Returns:
      `Features` with D = channels[-1] and K = out_channels, of images of the shape that it was trained on.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff import UNetConfig
        >>> from jaxdiff.eval import features
        >>> from jaxdiff.nets.classifier import Classifier
        >>> config = UNetConfig(out_channels=10, channels=(8, 16), blocks=1, attention=(), groups=4)
        >>> init = jax.jit(Classifier(config).init)
        >>> params = init(jax.random.key(0), jnp.zeros([1, 8, 8, 1]), jnp.zeros([1]))["params"]
        >>> digits = features.classifier_features(config, params, "untrained")
        >>> [x.shape for x in jax.jit(digits.of)(jnp.zeros([4, 8, 8, 1], jnp.uint8))]
        [(4, 16), (4, 10)]
    """
    return Features(Partial(_classifier, Static(config), params), name)


def _classifier(config: Static, params, images):
    channels = params["encoder"]["conv_in"]["kernel"].shape[2] // config.value.patch**2
    if images.shape[-1] != channels:
        raise ValueError(f"this classifier reads images of {channels} channels, and these have {images.shape[-1]}")
    features, _ = network(Encoder(config.value))(params["encoder"], to_unit_range(images), 0)
    logits = Dense(config.value.out_channels).apply({"params": params["head"]}, features)
    return features, jax.nn.softmax(logits)


class Gathered(NamedTuple):
    """Statistics of N images, which are not kept.

    Attributes:
      moments: of all features, for `fid.frechet`.
      score: sums over all probabilities, for `fid.inception_score`.
      kept: features of some images, all if there are few; float32 [min(N, keep), D], for `fid.kernel_distance` and
        `neighbors.precision_recall`.
      classes: the likeliest class of each image, int [N].
    """

    moments: fid.Moments
    score: fid.Score
    kept: np.ndarray
    classes: np.ndarray


def gathered(
    features: Features,
    batches: Iterable[np.ndarray],
    tick: Callable[[int], None] | None = None,
    keep: int = 10_000,
    seed: int = 0,
) -> Gathered:
    """Judges images batch by batch, each batch spread over all local devices.

    Args:
      features: the judge.
      batches: uint8 [B, H, W, C], B of any size; batches of one size, but for a smaller last one, are one compilation.
      tick: called after every batch with how many images it had.
      keep: how many images' features are kept, chosen at random where there are more.
      seed: of that choice, which is the same whatever the batches' sizes.

    Returns:
      `Gathered`.

    Raises:
      ValueError: no images, images of another type or shape, or features that are not finite.

    Example::

        >>> import jax.numpy as jnp, numpy as np
        >>> from jaxdiff.eval import features, fid
        >>> def halves(images):  # mean brightness of both halves, and which is brighter
        ...     means = images.reshape(len(images), 2, -1).mean(-1)
        ...     return means, 1.0 * (means == means.max(1, keepdims=True))
        >>> top, bottom = (np.zeros([3, 4, 4, 1], np.uint8) for _ in range(2))
        >>> top[:, 0], bottom[:, 3] = 200, 100
        >>> found = features.gathered(features.Features(halves, "halves"), [top, bottom[:1]])
        >>> found.moments.mean.tolist(), found.classes.tolist(), round(fid.inception_score(found.score), 4)
        ([75.0, 12.5], [0, 0, 0, 1], 1.7548)
    """
    of, devices = replicated(as_partial(features.of)), jax.local_device_count()
    rng, places, size, so_far = np.random.default_rng(seed), np.empty(0), 0, None
    for images in batches:
        check_images("batches", images)
        size = max(size, math.ceil(len(images) / devices) * devices)
        rows, probabilities = _judged(of, images, size)
        found = Gathered(fid.moments(rows), fid.score(probabilities), rows, probabilities.argmax(1))
        so_far = found if so_far is None else _together(so_far, found)
        # The place of each row in a random order of all: those of the lowest are kept.
        places = np.append(places, rng.random(len(rows)))
        if len(places) > keep:
            chosen = np.sort(np.argpartition(places, keep)[:keep])
            so_far, places = so_far._replace(kept=so_far.kept[chosen]), places[chosen]
        if tick is not None:
            tick(len(images))
    if so_far is None:
        raise ValueError("there are no images to judge: give at least one batch")
    return so_far


def _judged(of, images, size):
    """Features and probabilities of a batch that is filled up to a size that the devices divide, then cut."""
    if not len(images):
        raise ValueError("a batch has no images: leave it out")
    filled = np.asarray(images)[np.arange(size) % len(images)]
    found = _run(of, split(filled))
    return [np.asarray(x, np.float32)[: len(images)] for x in found]


@jax.jit
def _run(of, images):
    return of(jnp.asarray(images))


def _together(a, b):
    kept, classes = (np.concatenate(pair) for pair in ((a.kept, b.kept), (a.classes, b.classes)))
    return Gathered(fid.merge(a.moments, b.moments), fid.add(a.score, b.score), kept, classes)
