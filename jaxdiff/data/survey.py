"""Looks through a source: sizes, classes, captions, what cannot be read, and what is there twice."""

import collections
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from jaxdiff.data.base import Source
from jaxdiff.data.captions import Captions
from jaxdiff.data.captions import of as captions_of
from jaxdiff.data.sizes import size_of

CHUNK = 64  # examples that a thread looks at, one after the other
SHOWN = 5  # of a list


class Survey(NamedTuple):
    """Contents of a source.

    Attributes:
      examples: number of examples.
      sizes: (width, height) of the images before they are cropped and resized -> how many have it, the most frequent first.
      classes: name -> number of examples; {} without labels.
      captions: number of different captions; 0 without captions.
      words: least, median and largest number of words of a caption; () without captions.
      empty_captions: number of captions without a word.
      without_caption: index -> reason, of examples of a captioned source whose caption cannot be read; -1 where all cannot.
      duplicates: indices of examples whose image files hold the same bytes as that of an earlier example, which stands
        beside each.
      unreadable: index -> reason, of files that cannot be read or are no images.
      caption_kinds: number of examples by the kind of file that their captions come from; {} where that is not known.
      several_captions: number of examples with several captions.
    """

    examples: int
    sizes: dict[tuple[int, int], int]
    classes: dict[str, int]
    captions: int
    words: tuple[int, ...]
    empty_captions: int
    without_caption: dict[int, str]
    duplicates: list[tuple[int, int]]
    unreadable: dict[int, str]
    caption_kinds: dict[str, int]
    several_captions: int


def survey(source: Source, advance: Callable[[int], None] = lambda count: None) -> Survey:
    """Looks at all examples of a source, of each image file at its bytes and its header.

    Args:
      source: any source; of one without image files the images are read, and have one size.
      advance: called with numbers of examples that are done.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import data
        >>> from jaxdiff.data.survey import survey
        >>> grey = data.Source(lambda i: {"image": np.full([2, 4, 1], i % 3, np.uint8)}, size=4, image_shape=(2, 4, 1))
        >>> found = survey(grey)
        >>> found.examples, found.sizes, found.duplicates
        (4, {(4, 2): 4}, [(3, 0)])
    """
    sizes, labels, first, duplicates, unreadable = collections.Counter(), collections.Counter(), {}, [], {}
    chunks = range(0, len(source), CHUNK)
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        for start, looked in zip(chunks, pool.map(lambda start: _look(source, start), chunks)):
            for i, (size, digest, label, error) in enumerate(looked, start):
                if error:
                    unreadable[i] = error
                else:
                    sizes[size] += 1
                if digest is not None and (earlier := first.setdefault(digest, i)) != i:
                    duplicates.append((i, earlier))
                labels[label] += 1
            advance(len(looked))
    classes = {name: labels[i] for i, name in enumerate(source.classes)}
    texts, without_caption = _captions(source)
    counts = sorted(len(text.split()) for text in texts)
    words = (counts[0], counts[len(counts) // 2], counts[-1]) if counts else ()
    return Survey(
        len(source),
        dict(sizes.most_common()),
        classes,
        len(set(texts)),
        words,
        counts.count(0),
        without_caption,
        duplicates,
        unreadable,
        source.caption.kinds if isinstance(source.caption, Captions) else {},
        0 if without_caption or not source.captioned else captions_of(source).count_several(),
    )


def _look(source, start):
    return [_look_at(source, i) for i in range(start, min(start + CHUNK, len(source)))]


def _captions(source):
    """Captions that can be read, and why the others cannot, by their indices."""
    if not source.captioned:
        return [], {}
    try:
        return list(source.captions()), {}
    except (OSError, ValueError) as error:
        if isinstance(source.caption, Captions) and source.caption.read is None:  # all or none
            return [], {-1: _reason(error)}

    def look(i):
        try:
            return source.caption(i), ""
        except (OSError, ValueError) as error:
            return None, _reason(error)

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        found = list(pool.map(look, range(len(source))))
    return [text for text, _ in found if text is not None], {
        i: why for i, (text, why) in enumerate(found) if text is None
    }


def _look_at(source, i):
    """Size, digest of the bytes, label and what is wrong, of one example."""
    label, content = source.label(i) if source.label else None, None
    try:
        if source.encoded is None or (label is None and source.classes):
            example = source.read(i)
            label = int(example["label"]) if source.classes else None
        if source.encoded is None:
            content, (height, width) = np.ascontiguousarray(example["image"]).tobytes(), example["image"].shape[:2]
            return (width, height), _digest(content), label, ""
        content = source.encoded(i)
        return size_of(content)[::-1], _digest(content), label, ""
    except Exception as error:  # Pillow has a dozen kinds for files that are broken
        return None, content and _digest(content), label, _reason(error)


def _digest(content):
    return hashlib.blake2b(content, digest_size=12).digest()


def _reason(error):
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def lines(found: Survey, source: Source) -> list[str]:
    """The findings, as lines of text."""
    place = source.where or (lambda i: f"example {i}")
    of = " (of latents)" if "codec" in (source.encoded_by or ()) else ""
    said = [("examples", f"{found.examples:,}"), ("sizes", _sizes(found.sizes) + of)]
    if found.classes:
        each = [f"{name} {count:,}" for name, count in found.classes.items()]
        said.append(("labels", f"{len(each)}: {_some(each, 20)}"))
    else:
        said.append(("labels", f"none: {source.no_labels_reason}"))
    if source.captioned:
        said.append(("captions", _words(found, place)))
    else:
        said.append(("captions", f"none: {source.no_captions_reason}"))
    if found.duplicates:
        pairs = [f"{place(i)} of {place(first)}" for i, first in found.duplicates]
        said.append(("duplicates", f"{len(pairs):,} with the bytes of an earlier one: {_some(pairs)}"))
    if source.skipped:
        said.append(("left out", f"{len(source.skipped):,}: {_some(source.skipped)}"))
    if found.unreadable:
        each = [f"{place(i)} ({reason})" for i, reason in found.unreadable.items()]
        said.append(("unreadable", f"{len(each):,}: {_some(each)}"))
    return [f"{name:<12} {text}" for name, text in said]


def _words(found, place):
    """Line on captions."""
    if reason := found.without_caption.get(-1):
        return f"none can be read: {reason}"
    parts = []
    if found.words:
        least, middle, most = found.words
        parts.append(f"{found.captions:,} different, of {least} to {most} words, half of at most {middle}")
    if found.several_captions:
        parts.append(f"{found.several_captions:,} examples have several, of which these are the first")
    if found.caption_kinds:
        parts.append("of " + _some([f"{kind} {count:,}" for kind, count in found.caption_kinds.items()]))
    if found.empty_captions:
        parts.append(f"{found.empty_captions:,} empty")
    if found.without_caption:
        i, reason = next(iter(found.without_caption.items()))
        parts.append(f"{len(found.without_caption):,} have none, such as {place(i)} ({reason})")
    return ", ".join(parts)


def _sizes(sizes):
    if not sizes:
        return "none is known"
    each = [f"{count:,} of {width}x{height}" for (width, height), count in sizes.items()]
    widths, heights = zip(*sizes)
    ends = f"; widths {min(widths)} to {max(widths)}, heights {min(heights)} to {max(heights)}" if len(each) > 1 else ""
    return _some(each) + ends


def _some(each, count=SHOWN):
    return ", ".join([*each[:count], *(["..."] if len(each) > count else [])])
