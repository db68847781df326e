"""Examples that a run was given from Python, which no name can open."""

from jaxdiff.data.base import SOURCES, Source


@SOURCES.register("own", named=False)
def load(image_shape: tuple[int, int, int] | None) -> Source:
    """The examples that `jaxdiff.fit` was given as `source`: a mark in the config of the run, which opens nothing.

    Raises:
      ValueError: always.
    """
    raise ValueError("the run was trained on examples given from Python: give them, or others, as `source`")
