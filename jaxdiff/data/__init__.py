"""Data: sources by name and the batches made from them."""

from jaxdiff.data.pipeline import batches
from jaxdiff.data.sources import load

__all__ = ["batches", "load"]
