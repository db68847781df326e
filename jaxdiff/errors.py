"""Errors with the nearest valid choice."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Error for an unknown name, with the most similar known one.

    Args:
      kind: of thing that the name is for, such as "sampler".
      name: the unknown name.
      known: the valid names.

    Returns:
      `ValueError`, for the caller to raise.

    Example::

        >>> from jaxdiff.errors import unknown
        >>> unknown("sampler", "dim", ["ddim", "ddpm"])
        ValueError("unknown sampler 'dim': did you mean 'ddim'? (one of ddim, ddpm)")
    """
    known = list(known)
    if not known:
        return ValueError(f"unknown {kind} {name!r}: there is none")
    nearest = difflib.get_close_matches(str(name), known, 1, cutoff=0.0)[0]
    return ValueError(f"unknown {kind} {name!r}: did you mean {nearest!r}? (one of {', '.join(known)})")


class NotFinite(FloatingPointError):
    """A result that is infinite or not a number."""
