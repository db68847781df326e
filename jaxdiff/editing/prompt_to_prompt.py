"""Prompt-to-prompt: edits an image through its prompt, with attention probabilities taken over from the source image.

With p the attention of the edited image at a site, p* that of the source at the same level, and M the alignment of source
tokens with target tokens (Hertz et al. 2023, section 3):

(1)  cross-attention    p <- w c (a p* M + (1 - a) p) + (1 - w) p     per token: source share a, scale c, window w in {0, 1}
(2)  self-attention     p <- p*                                       within its window, at sites of few pixels

Word swap has a = 1; refinement a = 1 for the tokens of both prompts and 0 for new ones; re-weighting sets c.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arguments import check_number
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.types import Array, Static, rows

Window = float | tuple[float, float]
MAX_PIXELS = Static(32 * 32)


class AttentionEdit(NamedTuple):
    """Edit of attention probabilities, row by row; a pytree for `Cond.attention_edit`.

    Attributes:
      source_offset: row of the source minus the row's own index, int [B]; 0 for a source itself.
      mapper: M, float [B, L, L]; column j has the weights of the source tokens in target token j.
      source_share: a, float [B, L]; in `sample_pairs` also one per step, [N, B, L], see `set_source_share`.
      token_scale: c, float [B, L].
      cross_window: first level and end (excluded) of each token's window for cross-attention, float [B, 2, L].
      self_window: the same for self-attention, float [B, 2].
      max_pixels: `Static`: largest number of pixels of a site whose self-attention is taken over.
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
        source = p[jnp.arange(p.shape[0]) + self.source_offset]
        if site.cross:
            per_token = lambda x: x[:, None, None]  # [B, L] -> [B, 1, 1, L]
            a, c = per_token(self.source_share), per_token(self.token_scale)
            mapped = jnp.einsum("bhqk,bkl->bhql", source, self.mapper)
            edited = c * (a * mapped + (1 - a) * p)
            return jnp.where(per_token(_within(t[:, None], self.cross_window)), edited, p)
        if site.size[0] * site.size[1] > self.max_pixels.value:
            return p
        return jnp.where(rows(_within(t, self.self_window), p), source, p)


def _within(t, window):
    return (t <= window[:, 0]) & (t > window[:, 1])


def no_edit(count: int, length: int, max_pixels: Static = MAX_PIXELS) -> AttentionEdit:
    """Edit that changes nothing, such as for sources and for the unconditional half of guidance.

    Args:
      count: number of rows, B.
      length: L, of the context.
      max_pixels: as in `AttentionEdit`.
    """
    ones, never = np.ones([count, length], np.float32), np.full([count, 2, length], np.inf, np.float32)
    mapper = np.broadcast_to(np.eye(length, dtype=np.float32), (count, length, length))
    return AttentionEdit(np.zeros(count, np.int32), mapper, ones, ones, never, never[..., 0], max_pixels)


def replace(tokenizer: Tokenizer, source: str, target: str, **windows) -> AttentionEdit:
    """Word swap: each word of the target prompt takes over the attention of the source word in its place.

    Args:
      tokenizer: of the text encoder.
      source: source prompt.
      target: target prompt, of as many words.
      **windows: see `windows`.

    Returns:
      One row, whose source is the row before; `pairs` combines several.

    Raises:
      ValueError: prompts of different numbers of words, or too long for the tokenizer.

    Example::

        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven", "a green seven"], vocab_size=600, length=6)
        >>> edit = editing.replace(tokens, "a red seven", "a green seven", cross_attention=0.8)
        >>> edit.mapper.shape, edit.cross_window[0, :, 2].tolist()  # until the last fifth of 1000 levels
        ((1, 6, 6), [1000.0, 200.0])
    """
    _check_length(tokenizer, source, target)
    old, new = source.split(), target.split()
    if len(old) != len(new):
        raise ValueError(
            f"a word swap needs prompts of as many words, and {source!r} has {len(old)} and {target!r} {len(new)}: use a "
            "refinement"
        )
    mapper, i, j = np.zeros([tokenizer.length] * 2, np.float32), 0, 0
    for a, b in zip(["", *old], ["", *new]):  # "" for the start token
        # Words of as many tokens are aligned token by token, others all with all.
        n, m = (max(1, len(tokenizer.token_ids(word))) for word in (a, b))
        mapper[i : i + n, j : j + m] = np.eye(n) if n == m else np.full([n, m], 1 / m)
        i, j = i + n, j + m
    rest = min(tokenizer.length - i, tokenizer.length - j)
    mapper[i : i + rest, j : j + rest] = np.eye(rest)
    return _edit(tokenizer, target, mapper, mapper.any(0), **windows)  # padding without a counterpart is not taken over


def refine(tokenizer: Tokenizer, source: str, target: str, **windows) -> AttentionEdit:
    """Prompt refinement: tokens in the longest common subsequence take over their attention, new ones have their own.

    Args:
      tokenizer: of the text encoder.
      source: source prompt.
      target: target prompt, with words added, left out or changed.
      **windows: see `windows`.

    Returns:
      As from `replace`.

    Raises:
      ValueError: prompts without a common word, or too long for the tokenizer.

    Example::

        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven", "a small red seven"], vocab_size=600, length=7)
        >>> edit = editing.refine(tokens, "a red seven", "a small red seven")
        >>> edit.source_share[0].tolist()  # start, "a", "small", ...: the new word has its own attention
        [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
        >>> edit.mapper[0].argmax(0).tolist()  # positions of the others in the source
        [0, 1, 0, 2, 3, 4, 5]
    """
    _check_length(tokenizer, source, target)
    old, new = ([0, *(n + 1 for n in tokenizer.token_ids(text))] for text in (source, target))  # 0 for the start token
    aligned = common(old, new)
    if len(aligned) < 2:
        raise ValueError(f"{source!r} and {target!r} have no word in common: a refinement needs one")
    mapper, share = np.zeros([tokenizer.length] * 2, np.float32), np.zeros(tokenizer.length, np.float32)
    rest = min(tokenizer.length - len(old), tokenizer.length - len(new))
    aligned += [(len(old) + i, len(new) + i) for i in range(rest)]  # end tokens and padding
    for i, j in aligned:
        if max(i, j) < tokenizer.length:
            mapper[i, j] = share[j] = 1
    return _edit(tokenizer, target, mapper, share, **windows)


def common(a: list, b: list) -> list[tuple[int, int]]:
    """Positions of the longest common subsequence in both lists, [(i, j), ...] with a[i] == b[j].

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
    """Re-weighting: the same edit with the attention to one word scaled, within the word's window.

    Args:
      tokenizer: of the text encoder.
      edit: from `replace` or `refine`; of a prompt with itself if nothing else is to change.
      target: target prompt.
      word: a word of it.
      scale: c; above 1 strengthens the word, in [0, 1) weakens it, below 0 inverts it.

    Returns:
      As from `replace`.

    Raises:
      ValueError: the prompt does not contain the word, or a scale that is not finite.

    Example::

        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven"], vocab_size=600, length=6)
        >>> same = editing.refine(tokens, "a red seven", "a red seven", cross_attention=1.0)
        >>> editing.reweight(tokens, same, "a red seven", "red", 3.0).token_scale[0].tolist()
        [1.0, 1.0, 3.0, 1.0, 1.0, 1.0]
    """
    check_number("scale", scale)
    scales = np.array(edit.token_scale)
    scales[:, tokenizer.positions(target, word)] = scale
    return edit._replace(token_scale=scales)


def set_source_share(tokenizer: Tokenizer, edit: AttentionEdit, target: str, word: str, share) -> AttentionEdit:
    """The same edit with another share of the source's attention for one word, also step by step.

    Args:
      tokenizer: of the text encoder.
      edit: from `replace` or `refine`.
      target: target prompt.
      word: a word of it.
      share: a, in [0, 1]; or one per step, [N].

    Returns:
      As from `replace`; with one share per step `source_share` is [N, 1, L], for grids of N steps only.

    Raises:
      ValueError: the prompt does not contain the word, or a share outside of [0, 1].

    Example::

        >>> import numpy as np
        >>> from jaxdiff import editing
        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven", "a green seven"], vocab_size=600, length=6)
        >>> edit = editing.replace(tokens, "a red seven", "a green seven", cross_attention=1.0)
        >>> editing.set_source_share(tokens, edit, "a green seven", "green", 0.5).source_share[0].tolist()
        [1.0, 1.0, 0.5, 1.0, 1.0, 1.0]
        >>> editing.set_source_share(tokens, edit, "a green seven", "green", np.linspace(1, 0, 50)).source_share.shape
        (50, 1, 6)
    """
    share = np.asarray(share, np.float32)
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(
            f"the `source_share` of {word!r} must lie in [0, 1]: 1 takes over the source's attention, 0 none of it"
        )
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
    """Windows, as levels, within which attention is taken over from the source.

    A window is given in fractions of the way from level T (0) to level 0 (1): by its end, or by start and end.

    Args:
      tokenizer: of the text encoder.
      target: target prompt.
      cross_attention: window of the cross-attention to all tokens.
      self_attention: window of self-attention.
      word_windows: windows of the cross-attention to single words, in place of `cross_attention`.
      num_levels: T.

    Returns:
      First and end levels of the windows: float32 [2, L] for cross-attention, [2] for self-attention.

    Raises:
      ValueError: a fraction outside of [0, 1], a window that ends before it starts, or a word that is not in the prompt.

    Example::

        >>> from jaxdiff.editing.prompt_to_prompt import windows
        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven"], vocab_size=600, length=6)
        >>> cross, own = windows(tokens, "a red seven", 0.8, 0.4, word_windows={"red": (0.1, 0.3)})
        >>> cross[:, :3].tolist(), own.tolist()  # of the start token, "a" and "red"
        ([[1000.0, 1000.0, 900.0], [200.0, 200.0, 700.0]], [1000.0, 600.0])
    """
    cross = np.repeat([_start_and_end(cross_attention, "`cross_attention`")], tokenizer.length, axis=0).T
    for word, window in (word_windows or {}).items():
        window = _start_and_end(window, f"the window of {word!r}")
        cross[:, tokenizer.positions(target, word)] = np.reshape(window, [2, 1])
    own = np.array(_start_and_end(self_attention, "`self_attention`"))
    # In float64, because 1 - 0.8 is below 0.2 in float32.
    return tuple(np.asarray(num_levels * (1 - fractions), np.float32) for fractions in (cross, own))


def _start_and_end(window, name):
    start, end = (0.0, window) if np.ndim(window) == 0 else window
    if not 0 <= start <= end <= 1:
        raise ValueError(f"{name} must start and end, in this order, in [0, 1] of the way, not at {start} and {end}")
    return start, end


def _check_length(tokenizer, *prompts):
    for prompt in prompts:
        if cut := tokenizer.truncation(prompt):
            raise ValueError(f"{prompt!r} is too long: it would be truncated to {cut[0]!r}")


def _edit(tokenizer, target, mapper, share, **kwargs):
    cross, own = windows(tokenizer, target, **kwargs)
    row = lambda x: np.asarray(x, np.float32)[None]
    return AttentionEdit(np.array([-1]), row(mapper), row(share), row(np.ones_like(share)), row(cross), row(own))


def pairs(edits: Sequence[AttentionEdit]) -> AttentionEdit:
    """Edits of pairs: rows of all sources, followed by rows of all edited images.

    Args:
      edits: of one row each, from `replace` or `refine`.

    Returns:
      Twice as many rows.

    Example::

        >>> from jaxdiff import editing
        >>> editing.pairs([editing.no_edit(1, 6)] * 3).source_offset.tolist()
        [0, 0, 0, -3, -3, -3]
    """
    count, stack = len(edits), lambda *leaves: np.concatenate(leaves)
    shares = np.concatenate(np.broadcast_arrays(*(edit.source_share for edit in edits)), axis=-2)
    edited = jax.tree.map(stack, *(edit._replace(source_share=None) for edit in edits))
    sources = no_edit(count, shares.shape[-1], edited.max_pixels)._replace(source_share=None)
    both = jax.tree.map(stack, sources, edited._replace(source_offset=np.full(count, -count)))
    return both._replace(source_share=np.concatenate([np.ones_like(shares), shares], axis=-2))
