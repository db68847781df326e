"""Data: sources by name and the batches made from them."""

from jaxdiff.data.base import SOURCES, Source
from jaxdiff.data.sources import load, parse

__all__ = ["SOURCES", "Source", "aspect_buckets", "batches", "load", "parse", "sized"]


def __getattr__(name):
    """Imports `batches` when it is first used, for grain takes seconds to import, and what few use."""
    if name == "batches":
        from jaxdiff.data.pipeline import batches

        return batches
    if name in ("aspect_buckets", "sized"):
        from jaxdiff.data import sizes

        return getattr(sizes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
