"""Prompt-to-prompt: an image is edited by its words, by attention that is taken over from the image as it was.

With p the attention of the edited image at a site, p* that of the source at the same level, and M which of the source's
words stands for which of the edited ones (Hertz et al. 2023, section 3):

(1)  cross-attention    p <- w c (a p* M + (1 - a) p) + (1 - w) p       per word: a taken over, c its weight, w its window
(2)  self-attention     p <- p*                                         while the window is open, at sites of few pixels

A word swap has a = 1; a refinement a = 1 for words that were there and 0 for new ones; re-weighting has c.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.types import Array, Static, rows

Window = float | tuple[float, float]
MAX_PIXELS = Static(32 * 32)


class AttentionEdit(NamedTuple):
    """What is done to attention, row by row; a pytree that `Cond.attention_edit` takes.

    Attributes:
      source_offset: how many rows further the source is, int [B]; 0 is the row itself.
      mapper: M, float [B, L, L]; column j says which words of the source word j stands for.
      source_share: a, float [B, L]; for `sample_pairs` also one for each of N steps, [N, B, L], see `set_source_share`.
      token_scale: c, float [B, L].
      cross_window: window of each word, the levels up to which and above which cross-attention is edited, float [B, 2, L].
      self_window: window in which self-attention is taken over, float [B, 2].
      max_pixels: `Static` of the most pixels of a site whose self-attention is taken over.
    """

    source_offset: Array
    mapper: Array
    source_share: Array
    token_scale: Array
    cross_window: Array
    self_window: Array
    max_pixels: Static = MAX_PIXELS

    def __call__(self, p: Array, site, t: Array) -> Array:
        """Edited probabilities, equations (1) and (2)."""
        there = p[jnp.arange(p.shape[0]) + self.source_offset]
        if site.cross:
            per_word = lambda x: x[:, None, None]  # [B, L] -> [B, 1, 1, L]
            a, c = per_word(self.source_share), per_word(self.token_scale)
            taken = jnp.einsum("bhqk,bkl->bhql", there, self.mapper)
            edited = c * (a * taken + (1 - a) * p)
            return jnp.where(per_word(_inside(t[:, None], self.cross_window)), edited, p)
        if site.size[0] * site.size[1] > self.max_pixels.value:
            return p
        return jnp.where(rows(_inside(t, self.self_window), p), there, p)


def _inside(t, window):
    return (t <= window[:, 0]) & (t > window[:, 1])


def no_edit(count: int, length: int, max_pixels: Static = MAX_PIXELS) -> AttentionEdit:
    """Rows that stay as they are, such as sources and the half of guidance that reads no prompt.

    Args:
      count: B.
      length: L, of the context.
      max_pixels: as in `AttentionEdit`.
    """
    ones, never = np.ones([count, length], np.float32), np.full([count, 2, length], np.inf, np.float32)
    mapper = np.broadcast_to(np.eye(length, dtype=np.float32), (count, length, length))
    return AttentionEdit(np.zeros(count, np.int32), mapper, ones, ones, never, never[..., 0], max_pixels)


def replace(tokenizer: Tokenizer, source: str, target: str, **windows) -> AttentionEdit:
    """A word swap: where words differ, the new one gets the attention of the one that it stands in the place of.

    Args:
      tokenizer: that the network's texts are read with.
      source: the prompt of the image as it is.
      target: the same with other words, as many.
      **windows: see `windows`.

    Returns:
      One row, for a source one row before; `pairs` makes more of it.

    Raises:
      ValueError: another number of words, or more than are read.

    Example::

        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> words = tokenizer.train(["a red seven", "a green seven"], vocab_size=600, length=6)
        >>> edit = editing.replace(words, "a red seven", "a green seven", cross_attention=0.8)
        >>> edit.mapper.shape, edit.cross_window[0, :, 2].tolist()  # until the last fifth of 1000 levels
        ((1, 6, 6), [1000.0, 200.0])
    """
    _check_length(tokenizer, source, target)
    old, new = source.split(), target.split()
    if len(old) != len(new):
        raise ValueError(
            f"{source!r} has {len(old)} words and {target!r} has {len(new)}: a word swap needs as many, take a refinement"
        )
    mapper, at, to = np.zeros([tokenizer.length] * 2, np.float32), 0, 0
    for here, there in ((tokenizer.token_ids(a), tokenizer.token_ids(b)) for a, b in zip(["", *old], ["", *new])):
        # The start token is a word here; of words of as many tokens each stands for its own, else all for all.
        n, m = max(1, len(here)), max(1, len(there))
        mapper[at : at + n, to : to + m] = np.eye(n) if n == m else np.full([n, m], 1 / m)
        at, to = at + n, to + m
    rest = min(tokenizer.length - at, tokenizer.length - to)
    mapper[at : at + rest, to : to + rest] = np.eye(rest)
    return _edit(tokenizer, target, mapper, mapper.any(0), **windows)  # ends that nothing stands for keep their own


def refine(tokenizer: Tokenizer, source: str, target: str, **windows) -> AttentionEdit:
    """Words added, left out or changed: those of the longest common sequence keep their attention, new ones have their own.

    Args:
      tokenizer: that the network's texts are read with.
      source: the prompt of the image as it is.
      target: any other.
      **windows: see `windows`.

    Returns:
      As `replace`.

    Raises:
      ValueError: they have no word in common, or more than are read.

    Example::

        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> words = tokenizer.train(["a red seven", "a small red seven"], vocab_size=600, length=7)
        >>> edit = editing.refine(words, "a red seven", "a small red seven")
        >>> edit.source_share[0].tolist()  # start, "a", "small", ...: the new word keeps its own attention
        [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
        >>> edit.mapper[0].argmax(0).tolist()  # whose attention the others get
        [0, 1, 0, 2, 3, 4, 5]
    """
    _check_length(tokenizer, source, target)
    old, new = ([0, *(n + 1 for n in tokenizer.token_ids(text))] for text in (source, target))
    pairs_ = common(old, new)
    if len(pairs_) < 2:
        raise ValueError(f"{source!r} and {target!r} have no word in common: nothing could be kept")
    mapper, share = np.zeros([tokenizer.length] * 2, np.float32), np.zeros(tokenizer.length, np.float32)
    rest = min(tokenizer.length - len(old), tokenizer.length - len(new))
    pairs_ += [(len(old) + i, len(new) + i) for i in range(rest)]  # the ends, and what texts are filled up with
    for i, j in pairs_:
        if max(i, j) < tokenizer.length:
            mapper[i, j] = share[j] = 1
    return _edit(tokenizer, target, mapper, share, **windows)


def common(a: list, b: list) -> list[tuple[int, int]]:
    """Where the longest common sequence stands in both, [(i, j), ...] with a[i] == b[j].

    Example::

        >>> from jaxdiff.editing.prompt_to_prompt import common
        >>> common("a red seven".split(), "a small red seven".split())
        [(0, 0), (1, 2), (2, 3)]
    """
    longest = np.zeros([len(a) + 1, len(b) + 1], int)
    for i in range(len(a) - 1, -1, -1):
        for j in range(len(b) - 1, -1, -1):
            longest[i, j] = longest[i + 1, j + 1] + 1 if a[i] == b[j] else max(longest[i + 1, j], longest[i, j + 1])
    found, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            found.append((i, j))
            i, j = i + 1, j + 1
        elif longest[i + 1, j] >= longest[i, j + 1]:
            i += 1
        else:
            j += 1
    return found


def reweight(tokenizer: Tokenizer, edit: AttentionEdit, target: str, word: str, scale: float) -> AttentionEdit:
    """The same edit with a word's attention made stronger or weaker.

    Args:
      tokenizer: that the network's texts are read with.
      edit: from `replace` or `refine`, of a prompt with itself if that is all that changes.
      target: the edited prompt.
      word: in it.
      scale: c; above 1 more of it, in (-1, 1) less, below 0 the opposite.

    Returns:
      As `replace`.

    Raises:
      ValueError: the prompt does not hold the word.

    Example::

        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> words = tokenizer.train(["a red seven"], vocab_size=600, length=6)
        >>> same = editing.refine(words, "a red seven", "a red seven", cross_attention=1.0)
        >>> editing.reweight(words, same, "a red seven", "red", 3.0).token_scale[0].tolist()
        [1.0, 1.0, 3.0, 1.0, 1.0, 1.0]
    """
    scales = np.array(edit.token_scale)
    scales[:, tokenizer.positions(target, word)] = scale
    return edit._replace(token_scale=scales)


def set_source_share(tokenizer: Tokenizer, edit: AttentionEdit, target: str, word: str, share) -> AttentionEdit:
    """The same edit with more or less of a word's attention taken over: how much of it, step by step if need be.

    Args:
      tokenizer: that the network's texts are read with.
      edit: from `replace` or `refine`.
      target: the edited prompt.
      word: in it.
      share: a, in [0, 1]; or one for each step, [N].

    Returns:
      As `replace`; with a share for each step [N, 1, L], for grids of N steps alone.

    Raises:
      ValueError: the prompt does not hold the word, or a share outside of [0, 1].

    Example::

        >>> import numpy as np
        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> words = tokenizer.train(["a red seven", "a green seven"], vocab_size=600, length=6)
        >>> edit = editing.replace(words, "a red seven", "a green seven", cross_attention=1.0)
        >>> editing.set_source_share(words, edit, "a green seven", "green", 0.5).source_share[0].tolist()
        [1.0, 1.0, 0.5, 1.0, 1.0, 1.0]
        >>> editing.set_source_share(words, edit, "a green seven", "green", np.linspace(1, 0, 50)).source_share.shape
        (50, 1, 6)
    """
    share = np.asarray(share, np.float32)
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"the share of {word!r} must lie in [0, 1]: of what is taken over from the source")
    shares = np.array(np.broadcast_to(edit.source_share, (*share.shape, *edit.source_share.shape[-2:])))
    shares[..., tokenizer.positions(target, word)] = share[..., None, None] if share.ndim else share
    return edit._replace(source_share=shares)


def windows(
    tokenizer: Tokenizer,
    target: str,
    cross_attention: Window = 0.8,
    self_attention: Window = 0.4,
    word_windows: Mapping[str, Window] | None = None,
    num_levels: int = 1000,
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the way down from T on which attention is taken over, as levels.

    Args:
      tokenizer: that the network's texts are read with.
      target: the edited prompt.
      cross_attention: for cross-attention, the share of the way at which its window ends, in [0, 1]; or at which it
        begins and ends.
      self_attention: the same for self-attention.
      word_windows: the same for single words, in place of `cross_attention`.
      num_levels: T.

    Returns:
      Levels at which windows begin and end: float32 [2, L] for cross-attention, and [2] for self-attention.

    Raises:
      ValueError: a share outside of [0, 1], a window that ends before it begins, or a word that is not in the prompt.

    Example::

        >>> from jaxdiff.editing.prompt_to_prompt import windows
        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven"], vocab_size=600, length=6)
        >>> cross, own = windows(tokens, "a red seven", 0.8, 0.4, word_windows={"red": (0.1, 0.3)})
        >>> cross[:, :3].tolist(), own.tolist()  # of the start, "a" and "red"
        ([[1000.0, 1000.0, 900.0], [200.0, 200.0, 700.0]], [1000.0, 600.0])
    """
    both = lambda window: (0.0, window) if np.ndim(window) == 0 else window
    shares = np.repeat([both(cross_attention)], tokenizer.length, axis=0).T  # in float64: in float32 1 - 0.8 < 0.2
    for word, window in (word_windows or {}).items():
        shares[:, tokenizer.positions(target, word)] = np.reshape(both(window), [2, 1])
    for begin, end in (*shares.T, both(self_attention)):
        if not 0 <= begin <= end <= 1:
            raise ValueError("where attention is taken over must begin and end, in this order, in [0, 1] of the way")
    level = lambda share: np.asarray(num_levels * (1 - share), np.float32)
    return level(shares), level(np.array(both(self_attention)))


def _check_length(tokenizer, *prompts):
    for prompt in prompts:
        if tokenizer.truncation(prompt):
            raise ValueError(f"{prompt!r} is too long: only {tokenizer.truncation(prompt)[0]!r} would be read")


def _edit(tokenizer, target, mapper, share, **kwargs):
    cross, own = windows(tokenizer, target, **kwargs)
    one = lambda x: np.asarray(x, np.float32)[None]
    return AttentionEdit(np.array([-1]), one(mapper), one(share), one(np.ones_like(share)), one(cross), one(own))


def pairs(edits: Sequence[AttentionEdit]) -> AttentionEdit:
    """Edits for rows of sources, and then of as many edited images.

    Args:
      edits: one row for each pair, from `replace` or `refine`.

    Returns:
      Twice as many rows.

    Example::

        >>> from jaxdiff import editing
        >>> editing.pairs([editing.no_edit(1, 6)] * 3).source_offset.tolist()
        [0, 0, 0, -3, -3, -3]
    """
    count, stacked = len(edits), lambda *rows: np.concatenate(rows)
    shares = np.concatenate(np.broadcast_arrays(*(edit.source_share for edit in edits)), axis=-2)
    edited = jax.tree.map(stacked, *(edit._replace(source_share=None) for edit in edits))
    sources = no_edit(count, shares.shape[-1], edited.max_pixels)._replace(source_share=None)
    both = jax.tree.map(stacked, sources, edited._replace(source_offset=np.full(count, -count)))
    return both._replace(source_share=np.concatenate([np.ones_like(shares), shares], axis=-2))
