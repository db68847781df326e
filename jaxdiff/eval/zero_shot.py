"""Zero-shot classification by a CLIP, and CLIP scores.

(1)  class = argmax_k cos(image, mean_j text_kj / |mean_j text_kj|)                   Radford et al. 2021, section 3.1.4
(2)  CLIP score = cos(image, text)              Hessel et al. 2021 report 2.5 max(cos, 0); text-to-image papers mostly this
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arguments import as_array, check_images
from jaxdiff.eval.measure import Measure
from jaxdiff.model import Model, check_model
from jaxdiff.objectives import to_unit_range
from jaxdiff.sharding import over_batches


def check_clip(clip: Model) -> None:
    """Raises TypeError for what is no `Model`, and ValueError for one that is no CLIP."""
    check_model(clip, "clip")
    if clip.config.role != "clip":
        raise ValueError(f"`clip` must be a CLIP, and {clip.config.name} is a network of kind {clip.config.net.kind!r}")


def embed_images(
    clip: Model, images: np.ndarray, batch_size: int = 64, tick: Callable[[int], None] | None = None
) -> np.ndarray:
    """Images, uint8 [N, H, W, C] -> float32 [N, projection], of length 1; `tick` is called after every batch.

    Raises:
      TypeError: no `Model`.
      ValueError: a model that is no CLIP; no images, or some of another type or shape than the CLIP's.
    """
    check_clip(clip)
    images = check_images("images", as_array("images", images), clip.image_shape)
    if not len(images):
        raise ValueError("`images` is empty: give at least one")
    encode = _jitted(clip.config.make_net(), "encode_image")

    def of_batch(_, x):
        said = jax.block_until_ready(encode(clip.params, to_unit_range(x)))
        if tick is not None:
            tick(1)
        return said

    return over_batches(of_batch, len(images), batch_size, 0, images)


def embed_texts(clip: Model, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """Texts -> float32 [N, projection], of length 1.

    Raises:
      TypeError: no `Model`.
      ValueError: a model that is no CLIP; no texts.
    """
    check_clip(clip)
    tokens = clip.tokenizer(texts)
    if not len(texts):
        raise ValueError("`texts` is empty: give at least one")
    encode = _jitted(clip.config.make_net(), "encode_text")
    return over_batches(lambda _, tokens: encode(clip.params, tokens), len(texts), batch_size, 0, tokens)


def embed_classes(clip: Model, descriptions: Sequence[Sequence[str]]) -> np.ndarray:
    """Classes, each by several descriptions, equation (1) -> float32 [K, projection], of length 1."""
    ends = np.cumsum([len(texts) for texts in descriptions])
    texts = embed_texts(clip, [text for texts in descriptions for text in texts])
    means = np.stack([part.mean(0) for part in np.split(texts, ends[:-1])])
    return means / np.linalg.norm(means, axis=-1, keepdims=True)


def classify(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The class of each image, equation (1): float32 [N, projection], [K, projection] -> int [N].

    Example::

        >>> import numpy as np
        >>> from jaxdiff.eval import zero_shot
        >>> zero_shot.classify(np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
        [0, 1]
    """
    return (images @ classes.T).argmax(-1)


def probabilities(images: np.ndarray, texts: np.ndarray, classes: np.ndarray, scale: float) -> np.ndarray:
    """Class probabilities where texts describe more than the class: those of a class's texts are summed.

        p(k | image) = sum_{j of class k} softmax_j(s cos(image, text_j))

    The mean of equation (1) lies between texts that differ in all else, where CLIPs that tell much apart know nothing.

    Args:
      images: float32 [N, projection].
      texts: of all descriptions, float32 [M, projection].
      classes: which class each is a description of, int [M], each class equally often.
      scale: s, exp of the CLIP's logit_scale.

    Returns:
      float32 [N, K].

    Example::

        >>> import numpy as np
        >>> from jaxdiff.eval import zero_shot
        >>> texts = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
        >>> p = zero_shot.probabilities(np.array([[1.0, 0.0]]), texts, np.array([0, 0, 1, 1]), 2.0)
        >>> p.round(2).tolist()
        [[0.92, 0.08]]
    """
    logits = scale * images @ texts.T
    likely = np.exp(logits - logits.max(1, keepdims=True))
    likely = likely / likely.sum(1, keepdims=True)
    return np.stack([likely[:, classes == k].sum(1) for k in range(classes.max() + 1)], axis=1)


def clip_score(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """CLIP score of each image and its text, equation (2): float32 [N, projection] of both -> [N] in [-1, 1]."""
    return (images * texts).sum(-1)


def score_report(clip: Model, images: np.ndarray, texts: Sequence[str], real: Sequence[dict]) -> dict:
    """CLIP scores of sampled images and their texts, and of real images and their captions, where they have some.

    Args:
      clip: CLIP, which must not have been trained on the images.
      images: uint8 [N, H, W, C].
      texts: one of each image.
      real: examples, {"image": uint8 [H, W, C], "caption": str}.

    Returns:
      {"clip_score", "standard_error", "real", "n"}.
    """
    scores = clip_score(embed_images(clip, images), embed_texts(clip, texts))
    found = {"clip_score": float(scores.mean()), "standard_error": float(scores.std() / np.sqrt(len(scores)))}
    if all("caption" in example for example in real):
        pictures, captions = np.stack([one["image"] for one in real]), [one["caption"] for one in real]
        found["real"] = float(clip_score(embed_images(clip, pictures), embed_texts(clip, captions)).mean())
    return found | {"n": len(scores)}


def measured(clip: Model, measure: Measure, real: list[dict], tick: Callable[[int], None]) -> dict:
    """Retrieval: shares of texts that find their image among all, and of images that find their text.

    Several texts of one meaning can be mistaken for each other.

    Args:
      clip: CLIP.
      measure: from `measure.complete`.
      real: examples that it has not seen, {"image": uint8 [H, W, C], "caption": str}.
      tick: called after every batch of images.

    Returns:
      {"retrieval": {"text_to_image", "image_to_text"}}, shares.
    """
    images = embed_images(clip, np.stack([example["image"] for example in real]), measure.batch_size, tick)
    texts = embed_texts(clip, [example["caption"] for example in real], measure.batch_size)
    own = np.arange(len(real))
    found = {"text_to_image": classify(texts, images) == own, "image_to_text": classify(images, texts) == own}
    return {"retrieval": {name: float(hits.mean()) for name, hits in found.items()}}


@functools.cache
def _jitted(net, method):
    return jax.jit(lambda params, x: jnp.asarray(net.apply({"params": params}, x, method=method)))
