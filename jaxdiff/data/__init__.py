"""Data: sources by name and the batches made from them."""

from jaxdiff.data.base import Source
from jaxdiff.data.pipeline import batches
from jaxdiff.data.sources import load

__all__ = ["Source", "batches", "load"]
