"""Data sources by name; each file of this package registers one."""

import dataclasses

from etils import epath

from jaxdiff.arguments import check_count, check_own_types
from jaxdiff.data.base import MEMORY, SOURCES, Source, cached
from jaxdiff.data.caption_files import IMAGE_ENDINGS
from jaxdiff.errors import nearest
from jaxdiff.paths import as_path
from jaxdiff.registry import Choice, import_all

FILES = {".tar": "shards", ".parquet": "parquet", ".arrow": "arrow"}  # kinds of sources that are files
PACKED = (".zip", ".tar.gz", ".tgz", ".7z", ".rar")

import_all(__name__, __path__)  # a new file needs no entry in a list


def load(
    source: str | Choice, image_shape: tuple[int, int, int] | None = None, *, memory: int = MEMORY, **options
) -> Source:
    """Opens a source of examples.

    Args:
      source: "KIND:TEXT", such as "digits:test" or "folder:photos", or what `parse` makes of it. The kinds are those of
        `data.SOURCES`; TEXT is the first option of the kind, and ":TEXT" may be left out where that has a default.
      image_shape: height, width and channels of the images; None for those of the data set.
      memory: bytes of decoded images up to which all are kept in memory once they were read; else none is.
      **options: options of the kind, such as `resize` or `skip_broken`, in place of those in `source`.

    Returns:
      The examples, in the same order on every machine.

    Raises:
      ValueError: unknown kind, or options that do not fit the data.
      TypeError: an option that the kind does not have, or a source that is no text.
      OSError: the data is not there; the message says how to get it.

    Example::

        >>> from jaxdiff import data
        >>> digits = data.load("digits:test")
        >>> len(digits), digits.image_shape, digits[0]["label"], digits.classes[:3]
        (500, (28, 28, 1), 0, ('0', '1', '2'))
        >>> data.load("digits", (32, 32, 3), resize=True)[0]["image"].shape
        (32, 32, 3)
    """
    from jaxdiff.data import image_decode  # imports Pillow

    choice = dataclasses.replace(parse(source) if isinstance(source, str) else SOURCES.choice(source), **options)
    check_own_types(choice)
    shape = None if image_shape is None else image_decode.check_shape(image_shape)
    return cached(choice(shape), check_count("memory", memory, least=0))


def parse(source: str, like: object = None) -> Choice:
    """Makes a choice of "KIND:TEXT", with TEXT as its first option.

    Args:
      source: name of the source, see `load`.
      like: object with attributes for the other options, such as another choice; None for their defaults.

    Raises:
      ValueError: unknown kind, with the nearest known one; or TEXT behind a kind without options.

    Example::

        >>> from jaxdiff import data
        >>> choice = data.parse("folder:photos")
        >>> choice, str(choice)
        (folder(path='photos', skip_broken=False, to_srgb=True), 'folder:photos')
    """
    choice = SOURCES.parse(source)
    others = [option.name for option in dataclasses.fields(choice)][1:]
    return dataclasses.replace(choice, **{name: getattr(like, name) for name in others if hasattr(like, name)})


def unknown(source: str) -> ValueError:
    """Returns the error for a source of no known kind, with the nearest known one."""
    from jaxdiff.data import prepared  # imports tensorflow-datasets

    kind, colon, text = source.partition(":")
    if kind == "hf":
        return ValueError(f"{source}: data of the Hub is not fetched: download it first, such as for parquet:PATTERN")
    if source.lower().endswith(PACKED):
        return ValueError(f"{source} is packed: unpack it first, and give folder:PATH or shards:PATTERN")
    as_path(source)  # refuses addresses of the web
    file, folder = epath.Path(source), source and (text.startswith("//") or as_path(source).is_dir())
    if file.suffix.lower() in FILES:
        near = f"{FILES[file.suffix.lower()]}:{source}"
    elif folder or "/" in kind:
        near = f"folder:{source}"
    elif file.suffix.lower() in IMAGE_ENDINGS:
        near = f"folder:{file.parent}"
    elif near := nearest(kind or "digits", SOURCES) or nearest(kind, prepared.names(), cutoff=0.7):
        near = (near if near in SOURCES else f"tfds:{near}") + colon + text
    forms = ", ".join(_form(kind) for kind, choice in SOURCES.items() if choice.traits.get("named", True))
    hint = f": did you mean {near!r}?" if near else ""
    return ValueError(f"unknown source {source!r}{hint} (one of {forms})")


def _form(kind):
    """Form of the names of a kind, such as "digits[:SPLIT]"."""
    for first in dataclasses.fields(SOURCES[kind])[:1]:
        return f"{kind}[:{first.name.upper()}]" if first.default else f"{kind}:{first.name.upper()}"
    return kind
