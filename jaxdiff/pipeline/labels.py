"""Labels of a request: numbers, ranges and names of classes."""

import re
from collections.abc import Sequence

import numpy as np

from jaxdiff.arguments import as_array, check_text


def as_labels(labels: int | Sequence[int] | np.ndarray) -> tuple[int, ...]:
    """Labels of any form as a tuple."""
    return tuple(np.atleast_1d(np.asarray(as_array("labels", labels))).tolist())


def check_labels(labels: Sequence[int], classes: int) -> None:
    """Raises ValueError for no labels, or one that is not an integer of 0..classes - 1."""
    if not labels:
        raise ValueError("`labels` is empty: give at least one class, or None for all in turn")
    if wrong := [label for label in labels if not isinstance(label, int) or isinstance(label, bool)]:
        raise ValueError(f"`labels` must be integers: {wrong[0]!r} is not one")
    if any(not 0 <= label < classes for label in labels):
        raise ValueError(f"`labels`={list(labels)} must lie in 0..{classes - 1}: there are {classes} classes")


def parse_labels(text: str, classes: int, names: Sequence[str] = ()) -> list[int]:
    """Classes in text form.

    Args:
      text: names, or numbers and ranges, with commas between, ends included.
      classes: number of classes.
      names: of the classes; where all are numbers, numbers and the ends of ranges are names.

    Raises:
      ValueError: another form, or a class that does not exist.

    Example::

        >>> from jaxdiff.pipeline.labels import parse_labels
        >>> parse_labels("1,3,5-7", 10)
        [1, 3, 5, 6, 7]
        >>> parse_labels("red,0", 2, ["blue", "red"])
        [1, 0]
    """
    check_text("labels", text)
    found, numbers = [], bool(names) and all(name.isdecimal() for name in names)
    for part in text.split(","):
        if part.strip() in names:
            found.append(list(names).index(part.strip()))
            continue
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            known = f"; the names are {', '.join(names)}" if names else ""
            raise ValueError(f"`labels` {text} must be numbers and ranges, such as 7 or 0-9 or 1,3,5-7{known}")
        first, last = int(match[1]), int(match[2] or match[1])
        if numbers:  # of the names, and not of their places
            some = [place for place, name in enumerate(names) if first <= int(name) <= last]
            if not some or not {match[1], match[2] or match[1]} <= set(names):
                raise ValueError(f"`labels` {text} must be of {', '.join(names[:20])}, and ranges go up")
            found += some
            continue
        if not first <= last < classes:
            raise ValueError(
                f"`labels` {text} must lie in 0-{classes - 1}, and ranges go up: there are {classes} classes"
            )
        found += range(first, last + 1)
    return found
