"""Errors that say what to do."""

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not known, with the nearest one that is.

    Example::

        >>> from jaxdiff.errors import unknown
        >>> unknown("sampler", "dim", ["ddim", "ddpm"])
        ValueError("unknown sampler 'dim': did you mean 'ddim'? (one of ddim, ddpm)")
    """
    known = list(known)
    near = difflib.get_close_matches(str(name), known, 1, cutoff=0.0)[0]
    return ValueError(f"unknown {what} {name!r}: did you mean {near!r}? (one of {', '.join(known)})")


class NotFinite(FloatingPointError):
    """A result that is infinite or not a number."""
