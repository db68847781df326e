"""Records that `jaxdiff prepare` has written."""

from jaxdiff.data.base import SOURCES, Source
from jaxdiff.paths import as_path


@SOURCES.register("records")
def load(image_shape: tuple[int, int, int] | None, path: str = "", verify: bool = False) -> Source:
    """The examples of a folder that `jaxdiff prepare` has written, images or latents, with captions, labels and contexts.

    Args:
      image_shape: height, width and channels of the images, as they were prepared; None is that.
      path: the folder.
      verify: read all records first, and compare their hashes with the manifest.

    Raises:
      FileNotFoundError: the folder is not there, or not complete.
      ValueError: another shape, or files that are not those of the manifest.
    """
    from jaxdiff.data import records  # imports array_record

    if not path:
        raise ValueError("records: must be records:PATH, a folder that jaxdiff prepare has written")
    return records.load(as_path(path), image_shape, verify)
