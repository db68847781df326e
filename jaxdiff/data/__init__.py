"""Data: sources by name and the batches made from them."""

from jaxdiff.data.base import SOURCES, Source
from jaxdiff.data.sources import load, name_of, parse

__all__ = ["SOURCES", "Source", "batches", "load", "name_of", "parse"]


def __getattr__(name):
    """Imports `batches` when it is first used: grain takes seconds to import."""
    if name == "batches":
        from jaxdiff.data.pipeline import batches

        return batches
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
