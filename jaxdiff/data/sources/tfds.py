"""Data sets that tensorflow-datasets has prepared."""

from jaxdiff.data import prepared
from jaxdiff.data.base import Source


def load(name: str, image_shape: tuple[int, int, int] | None, resize: bool) -> Source:
    """Opens NAME[:SPLIT], see `jaxdiff.data.load`."""
    name, version, split = prepared.parse(name)
    return prepared.open_split(prepared.find(name, version), name, split, image_shape, resize)
