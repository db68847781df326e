"""Stub."""

from jaxdiff.registry import Registry

SOURCES = Registry("data source")


def _load(kind, rest, image_shape, **o):
    from jaxdiff.data import sources

    return sources.load(f"{kind}:{rest}" if rest else kind, image_shape, **o)


@SOURCES.register("digits")
def digits(image_shape, split: str = "", resize: bool = False):
    """Digits.

    Args:
      split: split.
      resize: resize.
    """
    return _load("digits", split, image_shape, resize=resize)


@SOURCES.register("outlined")
def outlined(image_shape, split: str = "", resize: bool = False):
    """Outlined."""
    return _load("outlined", split, image_shape, resize=resize)


@SOURCES.register("captioned")
def captioned(image_shape, split: str = "", resize: bool = False):
    """Captioned."""
    return _load("captioned", split, image_shape, resize=resize)


@SOURCES.register("tfds")
def tfds(image_shape, name: str = "", resize: bool = False):
    """TFDS."""
    return _load("tfds", name, image_shape, resize=resize)


@SOURCES.register("folder")
def folder(image_shape, path: str = "", skip_broken: bool = False):
    """Folder."""
    return _load("folder", path, image_shape, skip_broken=skip_broken)


parse = SOURCES.parse
