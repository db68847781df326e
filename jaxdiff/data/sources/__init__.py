"""Data sources by name."""

import difflib
import importlib

from etils import epath

from jaxdiff.data import image_decode
from jaxdiff.data.base import Source, cached

KINDS = {
    "digits": "digits[:SPLIT]",
    "outlined": "outlined[:SPLIT]",
    "captioned": "captioned[:SPLIT]",
    "tfds": "tfds:NAME[:SPLIT]",
    "folder": "folder:PATH",
}


def load(
    source: str,
    image_shape: tuple[int, int, int] | None = None,
    *,
    resize: bool = False,
    skip_broken: bool = False,
) -> Source:
    """Opens a source of examples.

    Args:
      source: one of

        * "digits[:SPLIT]": the embedded digits, prepared on first use (see `jaxdiff.data.sources.digits.Digits`);
        * "outlined[:SPLIT]": the same as dark outlines on light ground;
        * "captioned[:SPLIT]": the same in colour and with captions (see `jaxdiff.data.sources.captioned.CaptionedDigits`);
        * "tfds:NAME[:SPLIT]": what tensorflow-datasets has prepared as array_record, read without TensorFlow, NAME being
          in its notation, such as "cifar10" or "imagenet_resized/64x64:0.1.0";
        * "folder:PATH": the PNG, JPEG and WebP files below a folder, here or on gs://; where it is made of folders, their
          names are the labels. Captions are in a .txt beside each, or in the "text" of a `metadata.jsonl`, by "file_name".

        SPLIT is "train", "train[:80%]", "train+test" and so on, and "train" if it is left out.
      image_shape: height, width and channels; None is the data set's own.
      resize: crop and resize the images of a data set to `image_shape`, as those of a folder always are.
      skip_broken: look through all files of a folder and leave out those that cannot be read; the log says which.

    Returns:
      The examples, in an order that is the same on every machine. Up to 2 GiB of them are kept in memory once decoded.

    Raises:
      ValueError: one line that says what to change.
      OSError: the data is not there; one line that says how to get it.

    Example::

        >>> from jaxdiff import data
        >>> digits = data.load("digits:test")
        >>> len(digits), digits.image_shape, digits[0]["label"], digits.classes[:3]
        (500, (28, 28, 1), 0, ('0', '1', '2'))
        >>> data.load("digits", (32, 32, 3), resize=True)[0]["image"].shape
        (32, 32, 3)
    """
    from jaxdiff.registry import Choice

    if isinstance(source, Choice):
        return source(image_shape)
    kind, _, name = source.partition(":")
    if kind not in KINDS:
        raise unknown(source)
    if image_shape is not None:
        image_shape = image_decode.check_shape(image_shape)
    module = importlib.import_module(
        f"jaxdiff.data.sources.{kind}"
    )  # not before: tensorflow-datasets takes a second to import
    if kind == "folder":
        return cached(module.load(name, image_shape, skip_broken))
    return cached(module.load(name, image_shape, resize))


def unknown(source: str) -> ValueError:
    """The error for a source of no known kind, with the nearest that there is."""
    from jaxdiff.data import prepared

    kind, colon, name = source.partition(":")
    if source and (name.startswith("//") or epath.Path(source).expanduser().is_dir()):
        near = f"folder:{source}"
    else:
        near = difflib.get_close_matches(kind or "digits", [*KINDS, *prepared.names()], 1, cutoff=0.0)[0]
        near = (near if near in KINDS else f"tfds:{near}") + colon + name
    return ValueError(f"unknown source {source!r}: did you mean {near!r}? (one of {', '.join(KINDS.values())})")
