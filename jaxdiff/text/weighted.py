"""Long prompts and weighted words, in the syntax of web interfaces such as AUTOMATIC1111's.

(word) counts 1.1 times as much, [word] as much less, (word:1.3) 1.3 times; brackets nest, and \\( is a bracket. A prompt of
more tokens than the text encoder reads is read in chunks, whose contexts stand one after the other; BREAK begins a new one.

(1)  c'_i = w_i c_i,   c'' = c' mean(c) / mean(c')               contexts of a chunk, weighted, with the mean that they had
"""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.nets.clip import Read
from jaxdiff.text.encoder import TextEncoder
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.types import Array

SIGNS = re.compile(r"\\[\\()\[\]]|[()\[\]]|:\s*([+-]?[\d.]+)\s*\)|\bBREAK\b|[^\\()\[\]:B]+|.", re.S)
STEP = 1.1  # factor of one bracket
BREAK = None  # in place of a text


def parse(prompt: str) -> list[tuple[str | None, float]]:
    """A prompt as texts with weights, in their order; the text None is a BREAK.

    Example::

        >>> from jaxdiff.text.weighted import parse
        >>> parse(r"a (red:1.5) \\(big\\) [seven]")
        [('a ', 1.0), ('red', 1.5), (' (big) ', 1.0), ('seven', 0.9091)]
    """
    found, opened = [], []  # opened: kind of the bracket, and position of its first text
    for sign in SIGNS.finditer(prompt):
        text = sign[0]
        if text in "([":
            opened.append((text, len(found)))
        elif sign[1] is not None and opened and opened[-1][0] == "(":
            _weigh(found, opened.pop()[1], _number(sign[1]))
        elif text in ")]" and opened and opened[-1][0] == {")": "(", "]": "["}[text]:
            _weigh(found, opened.pop()[1], STEP if text == ")" else 1 / STEP)
        elif text == "BREAK":
            found.append((BREAK, 1.0))
        else:
            found.append((text[1:] if text.startswith("\\") and len(text) == 2 else text, 1.0))
    for kind, first in reversed(opened):  # brackets that are not closed last to the end, as there
        _weigh(found, first, STEP if kind == "(" else 1 / STEP)
    return _joined(found)


def _number(text):
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the weight {text!r} in a prompt is not a number") from None


def _weigh(found, first, factor):
    found[first:] = [(text, weight if text is BREAK else weight * factor) for text, weight in found[first:]]


def _joined(found):
    """Neighbours of one weight as one text."""
    joined = []
    for text, weight in found:
        weight = round(weight, 4)
        if joined and joined[-1][1] == weight and BREAK not in (text, joined[-1][0]):
            joined[-1] = joined[-1][0] + text, weight
        else:
            joined.append((text, weight))
    return joined


def chunks(tokenizer: Tokenizer, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and weights of a prompt in chunks, as many as it takes and at least one.

    Args:
      tokenizer: of the text encoder.
      prompt: text with weights.

    Returns:
      int32 [n, L] with start and end tokens in each row, and float32 [n, L].
    """
    size, rows, current = tokenizer.length - 2, [], []
    for text, weight in parse(prompt):
        if text is BREAK:
            rows.append(current)
            current = []
            continue
        for token in tokenizer.token_ids(text):
            if len(current) == size:
                rows.append(current)
                current = []
            current.append((token, weight))
    rows.append(current)
    return tuple(map(np.stack, zip(*(_filled(tokenizer, row) for row in rows))))


def _filled(tokenizer, row):
    ids = np.full(tokenizer.length, tokenizer.pad_id, np.int32)
    weights = np.ones(tokenizer.length, np.float32)
    ids[: len(row) + 2] = [tokenizer.start_id, *(token for token, _ in row), tokenizer.end_id]
    weights[1 : len(row) + 1] = [weight for _, weight in row]
    return ids, weights


def read(encoder: TextEncoder, prompts: Sequence[str]) -> Read:
    """Contexts of prompts with weights, all of the same number of chunks n, equation (1).

    Args:
      encoder: text encoder.
      prompts: texts with weights; those of fewer chunks are filled up with empty ones.

    Returns:
      `Read` of tokens [B, n L, D], and the vectors of the first chunks [B, V].

    Raises:
      ValueError: a weight that is not a number.
    """
    tokenizers = [encoder.tokenizer, *([encoder.second] if encoder.second else [])]
    each = [[chunks(tokenizer, prompt) for prompt in prompts] for tokenizer in tokenizers]
    n = max(len(ids) for ids, _ in each[0])
    ids = np.stack([_same_number(tokenizer, of, n)[0] for tokenizer, of in zip(tokenizers, each)], axis=1)
    weights = _same_number(tokenizers[0], each[0], n)[1]
    found = encoder.read_ids(ids if encoder.second else ids[:, 0])
    parts = jnp.split(found.tokens, np.cumsum(encoder.widths)[:-1], axis=-1)  # each encoder has a mean of its own
    tokens = jnp.concatenate([_weighted(part, weights) for part in parts], axis=-1)
    return Read(encoder.pad(tokens.reshape(len(prompts), -1, tokens.shape[-1])), found.pooled[::n])


def _same_number(tokenizer, each, n):
    """Ids and weights of all prompts, [B n, L], with empty chunks at their ends."""
    empty = _filled(tokenizer, [])
    rows = [[*zip(ids, weights), *[empty] * (n - len(ids))] for ids, weights in each]
    return tuple(map(np.stack, zip(*(row for prompt in rows for row in prompt))))


@jax.jit
def _weighted(tokens: Array, weights: Array) -> Array:
    found = tokens * weights[..., None]
    mean = lambda x: x.mean((1, 2), keepdims=True)
    return jnp.where((weights == 1).all(1)[:, None, None], tokens, found * (mean(tokens) / mean(found)))
