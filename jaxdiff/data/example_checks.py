"""Checks of data sets, and of their examples as they are read: anybody's, whose mistakes are named by example."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np

from jaxdiff.arguments import plain


def check_source(source: Any) -> None:
    """Refuses what is no random-access data set, such as a generator, a name or an array of images.

    Raises:
      TypeError: it has no length, or no examples by number.
      ValueError: it is empty.

    Example::

        >>> from jaxdiff.data.example_checks import check_source
        >>> check_source(example for example in [{}])
        Traceback (most recent call last):
        TypeError: `source` must be a jaxdiff.data.Source or a list of dicts, with `len` and `[i]`, not generator
    """
    by_number = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if not by_number or isinstance(source, str | bytes | Mapping | Set | np.ndarray | jax.Array | type):
        kind = f"the class {source.__name__}" if isinstance(source, type) else type(source).__name__
        raise TypeError(f"`source` must be a jaxdiff.data.Source or a list of dicts, with `len` and `[i]`, not {kind}")
    if not len(source):
        raise ValueError("`source` is empty: there are no examples to make batches of")


def check_captioned(source: Any, tokenize: Any, hard_negatives: int) -> None:
    """Refuses a tokenizer that is none, or data without the captions that it reads.

    Raises:
      TypeError: `tokenize` is no function.
      ValueError: the source has no captions, or makes no wrong ones.
    """
    if tokenize is not None and not callable(tokenize):
        raise TypeError(f"`tokenize` must be a function of texts, such as a Tokenizer, not {type(tokenize).__name__}")
    if tokenize is not None and getattr(source, "caption", caption) is None:
        raise ValueError(f"`tokenize` reads captions, and {getattr(source, 'no_captions_reason', 'there are none')}")
    if hard_negatives and tokenize is None:
        raise ValueError(f"`hard_negatives`={hard_negatives} are captions: give `tokenize`, or leave it out")
    if hard_negatives and not getattr(source, "hard_negative", None):
        raise ValueError(f"`hard_negatives`={hard_negatives} is for sources that make wrong captions: leave it out")


def check_has(example: Any, i: int, *names: str) -> None:
    """Raises ValueError unless example i is a dict with these."""
    if lost := [name for name in names if not isinstance(example, Mapping) or name not in example]:
        raise ValueError(f"example {i} must be a dict with {lost[0]!r}")


def check_label(value: Any, i: int, num_classes: int | None) -> int:
    """Label of example i as a whole number.

    Raises:
      ValueError: it is none, or not in 0..num_classes - 1, of any number of classes with None.
    """
    label = plain(value)
    if not isinstance(label, int) or isinstance(label, bool):
        raise ValueError(f"the label of example {i} must be an int, not {value!r}")
    if num_classes and not 0 <= label < num_classes:
        raise ValueError(f"example {i} has label {label}, and there are only 0..{num_classes - 1}")
    if label < 0:
        raise ValueError(f"example {i} has label {label}, and labels are 0, 1, ...")
    return label


def check_array(value: Any, name: str, i: int, ndim: int | None = None) -> Any:
    """Array of example i, such as its image.

    Raises:
      ValueError: no array of numbers, one of another rank, or floats that are not finite.
    """
    dtype, shape = getattr(value, "dtype", None), np.shape(value) if hasattr(value, "shape") else None
    if dtype is None or not jax.numpy.issubdtype(dtype, np.number):
        raise ValueError(f"the {name} of example {i} must be an array of numbers, not {dtype or type(value).__name__}")
    if ndim is not None and len(shape) != ndim:
        wanted = "[H, W, C]" if ndim == 3 else f"of {ndim} axes"
        raise ValueError(f"the {name} of example {i} must be {wanted}, not of shape {list(shape)}")
    if dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"the {name} of example {i} is not finite")
    return value


def caption(example: Any, i: int) -> str:
    """Caption of example i of a list of dicts.

    Raises:
      ValueError: it has none.
    """
    check_has(example, i, "caption")
    return example["caption"]


def token_ids(tokenize: Callable, texts: Sequence[str], i: int) -> np.ndarray:
    """Token ids of captions of example i, int32 [B, L].

    Raises:
      ValueError: a caption is no text, or `tokenize` returns something else.
    """
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"the caption of example {i} must be a text, not {type(wrong[0]).__name__}")
    found = tokenize(list(texts))
    dtype, shape = getattr(found, "dtype", None), getattr(found, "shape", ())
    if dtype is None or not np.issubdtype(dtype, np.integer) or len(shape) != 2 or shape[0] != len(texts):
        shown = type(found).__name__ if dtype is None else f"{dtype} {list(shape)}"
        raise ValueError(f"`tokenize` must return int32 [{len(texts)}, L], not {shown}")
    return found


def stack(examples: Sequence[dict]) -> dict:
    """Examples as one batch, each array with an axis in front.

    Raises:
      ValueError: two of them have different arrays, or arrays of another shape or dtype, which NumPy would convert.
    """
    first, *others = examples
    if not others:
        return jax.tree.map(lambda x: np.expand_dims(x, 0), first)
    wanted = _layout(first)
    if different := next((other for other in others if _layout(other) != wanted), None):
        raise ValueError(_difference(first, different))
    return jax.tree.map(lambda *rows: np.stack(rows), *examples)


def _layout(example):
    leaves, tree = jax.tree.flatten(example)
    return tree, [(x.dtype, x.shape) for x in map(np.asarray, leaves)]


def _difference(one, other):
    """The message for two examples of different layouts."""
    arrays = [
        {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (one, other))
    ]
    shown = lambda x: "none" if x is None else f"{x.dtype} {list(x.shape)}"
    pairs = {name: [shown(each.get(name)) for each in arrays] for name in arrays[0] | arrays[1]}
    name, (here, there) = next((name, pair) for name, pair in pairs.items() if pair[0] != pair[1])
    numbers = f"{one['example']} and {other['example']}"
    return f"examples {numbers} differ in {name}, {here} and {there}: all of a data set must have one shape and dtype"
