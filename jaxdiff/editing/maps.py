"""Which word looked where: cross-attention averaged over steps, sites and heads, as pictures."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.types import Array


def at_size(maps: dict | None, size: int | None) -> Array:
    """The maps of a size, averaged over sites, [B, Q, L]; None is the largest size that there is.

    Raises:
      ValueError: there is none.
    """
    sides = {round(one.shape[1] ** 0.5) for one in (maps or {}).values()}
    size = max(sides, default=None) if size is None else size
    if size not in sides:
        there = (
            f"one of {sorted(sides)}" if sides else "the denoiser collects maps where there is a Cond.attention_edit"
        )
        raise ValueError(f"no attention maps of side {size}: {there}")
    found = [one for one in maps.values() if one.shape[1] == size**2]
    return sum(found) / len(found)


@functools.cache
def collect_maps(size: int | None = None) -> Callable:
    """What `sample` takes as `collect`, to give the cross-attention of each step, float32 [N, B, size^2, L].

    Args:
      size: side of the maps that are averaged; None is the largest.

    Returns:
      (State, Prediction) -> maps; the same function for the same size, so that nothing compiles anew. It raises ValueError
      where there are none: maps are there where a `Cond.attention_edit` is, `no_edit` at least.
    """
    return lambda state, prediction: at_size(prediction.aux.maps, size)


def by_word(maps: Array, tokenizer: Tokenizer, prompt: str) -> dict[str, np.ndarray]:
    """Where each word of a prompt looked, on average over the steps.

    Args:
      maps: of one example, from `collect_maps`, [N, Q, L].
      tokenizer: that the network's texts are read with.
      prompt: of that example.

    Returns:
      For each word float32 [side, side]: 1 where it looked most, of all places and words. Words beyond the cut are missing.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> words = tokenizer.train(["a red seven"], size=600, length=6)
        >>> maps = np.zeros([10, 16, 6])
        >>> maps[:, 5, 2] = 0.5  # the second row's second place at the token of "red", after the start and "a"
        >>> looked = editing.by_word(maps, words, "a red seven")
        >>> list(looked), np.argwhere(looked["red"]).tolist()
        (['a', 'red', 'seven'], [[1, 1]])
    """
    heat = np.asarray(maps, np.float32).mean(0)
    side = round(len(heat) ** 0.5)
    found, at = {}, 1  # after the start token
    for word in prompt.split():
        places = [place for place in range(at, at + len(tokenizer.words(word))) if place < tokenizer.length - 1]
        at += len(tokenizer.words(word))
        if places:
            found[word] = heat[:, places].sum(1).reshape(side, side)
    highest = max((one.max() for one in found.values()), default=1.0)
    return {word: one / max(highest, 1e-12) for word, one in found.items()}


def lit(image: np.ndarray, looked: np.ndarray, dark: float = 0.25) -> np.ndarray:
    """A picture that is bright where a word looked most, and dark elsewhere.

    Args:
      image: uint8 [H, W, C].
      looked: [h, w], at least 0, stretched so that the highest is fully bright.
      dark: brightness of the rest, in [0, 1].

    Returns:
      uint8 [H, W, C].

    Example::

        >>> import numpy as np
        >>> from jaxdiff import editing
        >>> editing.lit(np.full([2, 2, 1], 200, np.uint8), np.array([[1.0, 0.0], [0.0, 0.0]]))[..., 0].tolist()
        [[200, 50], [50, 50]]
    """
    looked = np.asarray(jax.image.resize(looked / max(looked.max(), 1e-12), image.shape[:2], "linear"))
    return np.round(image * (dark + (1 - dark) * np.clip(looked, 0, 1))[..., None]).astype(np.uint8)
