"""Cross-attention maps of words, averaged over steps, sites and heads."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from jaxdiff.arguments import FRACTION, check_number
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.types import Array


def map_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Height and width of an attention map for images of that shape, `size` being its longer side."""
    return shape[0] * size // max(shape), shape[1] * size // max(shape)


def maps_of_size(maps: dict | None, shape: tuple[int, int], size: int | None) -> Array:
    """Average over the sites that have maps of one size, float32 [B, h, w, L].

    Args:
      maps: from `Aux`, [B, Q, L] by site; None means no maps.
      shape: height and width of the sampled images or latents.
      size: longer side of the maps; None is the largest available.

    Raises:
      ValueError: no site has maps of that size.
    """
    found = maps_by_size(maps, shape)
    size = max(found, default=None) if size is None else size
    if size not in found:
        reason = f"one of {sorted(found)}" if found else "denoisers collect maps if there is a Cond.attention_edit"
        raise ValueError(f"no attention maps of `size`={size}: {reason}")
    return sum(one.reshape(one.shape[0], *map_shape(shape, size), -1) for one in found[size]) / len(found[size])


def maps_by_size(maps: dict | None, shape: tuple[int, int]) -> dict[int, list]:
    """Groups attention maps by size.

    Args:
      maps: from `Aux`, [B, Q, L] by site, or their shapes; None means no maps.
      shape: height and width of the sampled images or latents.

    Returns:
      Longer side -> list of the maps that have it.

    Example::

        >>> import jax.numpy as jnp
        >>> from jaxdiff import editing
        >>> list(editing.maps_by_size({"down": jnp.ones([1, 64, 24]), "mid": jnp.ones([1, 16, 24])}, (16, 16)))
        [8, 4]
    """
    found = {}
    for one in (maps or {}).values():
        longer = round(max(shape) * (one.shape[1] / (shape[0] * shape[1])) ** 0.5)
        found.setdefault(longer, []).append(one)
    return found


@functools.cache
def collect_maps(size: int | None = None) -> Callable:
    """Returns a `collect` argument of `sample` that gives the cross-attention maps of each step, float32 [N, B, h, w, L].

    Args:
      size: longer side of the maps, which are averaged over sites; None is the largest available.

    Returns:
      (State, Prediction) -> maps; one function per size, so that sampling again does not recompile. It raises ValueError if
      there are no maps of that size: the condition needs a `Cond.attention_edit`, such as `no_edit`.
    """
    return lambda state, prediction: maps_of_size(prediction.aux.maps, state.x.shape[1:3], size)


def word_heatmaps(maps: Array, tokenizer: Tokenizer, prompt: str) -> dict[str, np.ndarray]:
    """Heat maps of a prompt's words: cross-attention averaged over steps and summed over a word's tokens.

    Args:
      maps: of one example, from `collect_maps`, [N, h, w, L].
      tokenizer: of the text encoder.
      prompt: of that example.

    Returns:
      Word -> float32 [h, w], divided by the highest value of all words. Words beyond the tokenizer's length are left out;
      the maps of a repeated word are added.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven"], vocab_size=600, length=6)
        >>> maps = np.zeros([10, 4, 4, 6])
        >>> maps[:, 1, 1, 2] = 0.5  # one pixel attends to "red", the third token after the start and "a"
        >>> heatmaps = editing.word_heatmaps(maps, tokens, "a red seven")
        >>> list(heatmaps), np.argwhere(heatmaps["red"]).tolist()
        (['a', 'red', 'seven'], [[1, 1]])
    """
    attention = np.asarray(maps, np.float32).mean(0)
    heatmaps, first = {}, 1  # after the start token
    for word in prompt.split():
        end = first + len(tokenizer.token_ids(word))
        positions = [position for position in range(first, end) if position < tokenizer.length - 1]
        first = end
        if positions:
            heatmaps[word] = heatmaps.get(word, 0) + attention[..., positions].sum(-1)
    highest = max((heatmap.max() for heatmap in heatmaps.values()), default=1.0)
    return {word: heatmap / max(highest, 1e-12) for word, heatmap in heatmaps.items()}


def highlight(image: np.ndarray, heatmap: np.ndarray, min_brightness: float = 0.25) -> np.ndarray:
    """Darkens an image except where a heat map is high.

    Args:
      image: uint8 [H, W, C].
      heatmap: [h, w], at least 0; resized to the image, and divided by its highest value.
      min_brightness: brightness where the heat map is 0, in [0, 1].

    Returns:
      uint8 [H, W, C].

    Raises:
      ValueError: a min_brightness outside of [0, 1].

    Example::

        >>> import numpy as np
        >>> from jaxdiff import editing
        >>> editing.highlight(np.full([2, 2, 1], 200, np.uint8), np.array([[1.0, 0.0], [0.0, 0.0]]))[..., 0].tolist()
        [[200, 50], [50, 50]]
    """
    check_number("min_brightness", min_brightness, *FRACTION)
    heatmap = np.asarray(jax.image.resize(heatmap / max(heatmap.max(), 1e-12), image.shape[:2], "linear"))
    brightness = min_brightness + (1 - min_brightness) * np.clip(heatmap, 0, 1)
    return np.round(image * brightness[..., None]).astype(np.uint8)
