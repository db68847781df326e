"""Which word looked where: cross-attention averaged over steps, sites and heads, as pictures."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.types import Array


def sides(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Height and width of a map of images of that shape, the longer one being `size`."""
    return shape[0] * size // max(shape), shape[1] * size // max(shape)


def at_size(maps: dict | None, shape: tuple[int, int], size: int | None) -> Array:
    """The maps of a size, averaged over sites, [B, h, w, L].

    Args:
      maps: of `Aux`, by site, [B, Q, L] each.
      shape: height and width of what is drawn.
      size: longer side of the maps; None is the largest that there is.

    Raises:
      ValueError: there is none.
    """
    found = maps_by_size(maps, shape)
    size = max(found, default=None) if size is None else size
    if size not in found:
        there = (
            f"one of {sorted(found)}" if found else "the denoiser collects maps where there is a Cond.attention_edit"
        )
        raise ValueError(f"no attention maps of side {size}: {there}")
    return sum(one.reshape(one.shape[0], *sides(shape, size), -1) for one in found[size]) / len(found[size])


def maps_by_size(maps: dict | None, shape: tuple[int, int]) -> dict[int, list]:
    """The maps of each size.

    Args:
      maps: of `Aux`, by site, [B, Q, L] each, or their shapes; None is none.
      shape: height and width of what is drawn.

    Returns:
      Longer side -> the maps that have it.

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
    """What `sample` takes as `collect`, to give the cross-attention of each step, float32 [N, B, h, w, L].

    Args:
      size: longer side of the maps that are averaged; None is the largest.

    Returns:
      (State, Prediction) -> maps; the same function for the same size, so that nothing compiles anew. It raises ValueError
      where there are none: maps are there where a `Cond.attention_edit` is, `no_edit` at least.
    """
    return lambda state, prediction: at_size(prediction.aux.maps, state.x.shape[1:3], size)


def word_heatmaps(maps: Array, tokenizer: Tokenizer, prompt: str) -> dict[str, np.ndarray]:
    """Where each word of a prompt looked, on average over the steps.

    Args:
      maps: of one example, from `collect_maps`, [N, h, w, L].
      tokenizer: that the network's texts are read with.
      prompt: of that example.

    Returns:
      For each word float32 [h, w]: 1 where it looked most, of all places and words. Words beyond the cut are
      missing, and one that is there twice looked where either did.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> words = tokenizer.train(["a red seven"], vocab_size=600, length=6)
        >>> maps = np.zeros([10, 4, 4, 6])
        >>> maps[:, 1, 1, 2] = 0.5  # the second row's second place at the token of "red", after the start and "a"
        >>> heatmaps = editing.word_heatmaps(maps, words, "a red seven")
        >>> list(heatmaps), np.argwhere(heatmaps["red"]).tolist()
        (['a', 'red', 'seven'], [[1, 1]])
    """
    heat = np.asarray(maps, np.float32).mean(0)
    found, at = {}, 1  # after the start token
    for word in prompt.split():
        places = [place for place in range(at, at + len(tokenizer.token_ids(word))) if place < tokenizer.length - 1]
        at += len(tokenizer.token_ids(word))
        if places:
            found[word] = found.get(word, 0) + heat[..., places].sum(-1)
    highest = max((one.max() for one in found.values()), default=1.0)
    return {word: one / max(highest, 1e-12) for word, one in found.items()}


def highlight(image: np.ndarray, heatmap: np.ndarray, min_brightness: float = 0.25) -> np.ndarray:
    """A picture that is bright where a word looked most, and dark elsewhere.

    Args:
      image: uint8 [H, W, C].
      heatmap: [h, w], at least 0, stretched so that the highest is fully bright.
      min_brightness: brightness of the rest, in [0, 1].

    Returns:
      uint8 [H, W, C].

    Example::

        >>> import numpy as np
        >>> from jaxdiff import editing
        >>> editing.highlight(np.full([2, 2, 1], 200, np.uint8), np.array([[1.0, 0.0], [0.0, 0.0]]))[..., 0].tolist()
        [[200, 50], [50, 50]]
    """
    heatmap = np.asarray(jax.image.resize(heatmap / max(heatmap.max(), 1e-12), image.shape[:2], "linear"))
    return np.round(image * (min_brightness + (1 - min_brightness) * np.clip(heatmap, 0, 1))[..., None]).astype(
        np.uint8
    )
