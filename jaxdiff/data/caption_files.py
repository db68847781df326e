"""Captions of image files: a text file beside each, found by its name."""

import functools
import json
import os
import time
from typing import Any

import numpy as np
from etils import epath

from jaxdiff.data import caption_tables, captions
from jaxdiff.data.captions import Captions
from jaxdiff.data.listing import Listing
from jaxdiff.data.paths import index_file
from jaxdiff.data.texts import Texts, position, positions

IMAGE_ENDINGS = (  # in capitals too; what is in a file is seen by its contents
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".pjpeg", ".apng",
    ".dib",
)  # fmt: skip
ENDINGS = (".txt", ".caption", ".json")  # of captions; the first two are the same, and .json counts where neither is
STORE_FROM = 1000  # captions; fewer are read quickly enough at each start
FRESH = 2 * 10**9  # nanoseconds; file systems with coarse times may give two changes within them the same time


def captions_of(
    images: Listing, files: Listing, root: epath.Path, skip_broken: bool = False
) -> tuple[Captions | None, str]:
    """Captions of the images of a folder, read when they are first used.

    Args:
      images: the image files.
      files: all files of the folder.
      root: the folder.
      skip_broken: leave out lines of tables that are none.

    Returns:
      The captions and ""; or None and the reason, if an image has none.

    Raises:
      ValueError: two tables of captions in one folder.
    """
    names, tables = images.names, caption_tables.tables(files.names)
    if tables:
        return _of_tables(images, files, root, tables, skip_broken)
    texts = [text_files(names, files.names, ending) for ending in ENDINGS]
    has = sum((found >= 0).astype(np.uint8) << bit for bit, found in enumerate(texts))
    missing = np.flatnonzero(has == 0)
    beside = "neither a .txt, .caption or .json beside each image, nor a metadata.jsonl or metadata.csv"
    if len(missing) == len(names):
        return None, f"there are no captions in {root}: {beside}"
    if len(missing):
        return None, (
            f"{len(missing)} of the {len(names)} images in {root} have no .txt, .caption or .json beside them, such as "
            f"{names[missing[0]]}"
        )
    read = functools.partial(_read_text, os.fspath(root), names, has)
    if (has == 1 << ENDINGS.index(".json")).all():  # files of another purpose, unless the first has a caption
        try:
            read(0)
        except ValueError as error:
            return None, f"there are no captions in {root}: {error}"
    first = np.argmax([found >= 0 for found in texts], axis=0)
    kinds = {ending: int((first == n).sum()) for n, ending in enumerate(ENDINGS) if (first == n).any()}
    used = np.concatenate([found[found >= 0] for found in texts])
    files = files.take(used)
    return _stored(root, files, files.digest(), Captions(read, len(names), kinds=kinds)), ""


def _of_tables(images, files, root, tables, skip_broken):
    """Captions in tables; or None and the reason, if there is none for an image."""
    used = files.take(np.array([position(files.names, name) for name in tables.values()]))
    digest = used.digest() + images.digest()
    beneath = caption_tables.beneath(images.names, tables)
    if len(outside := np.flatnonzero(beneath < 0)):
        return None, (
            f"captions are in {', '.join(tables.values())} in {root}, and {len(outside)} of its {len(beneath)} images lie "
            f"neither beside nor below, such as {images.names[int(outside[0])]}"
        )

    def read_all():
        return caption_tables.read(root, tables, images.names, files.names, [] if skip_broken else None)

    counts = {name: int((beneath == n).sum()) for n, name in enumerate(tables.values())}
    counts = {name: count for name, count in counts.items() if count}
    return _stored(root, used, digest, Captions(None, len(beneath), read_all, counts)), ""


def _stored(root, files, digest, unstored):
    """The same captions, stored between starts, unless there are few, or a later change of a file might go unnoticed."""
    fresh = np.abs(time.time_ns() - files.times) < FRESH
    if unstored.size < STORE_FROM or fresh.any():
        return unstored
    read_all = functools.partial(captions.stored, index_file(root), digest, unstored.read_all)
    return Captions(unstored.read, unstored.size, read_all, unstored.kinds)


def text_files(names: Texts, files: Texts, ending: str = ".txt") -> np.ndarray:
    """Indices of the captions' files of one ending among all files, int64 [N]; -1 for images without one.

    Args:
      names: of the images, N of them, sorted.
      files: names of all files, sorted.
      ending: of the captions' files.
    """
    texts = np.flatnonzero(files.end_with(ending))
    if not len(texts):
        return np.full(len(names), -1)
    drop = sum(len(each) * names.end_with(each, any_case=True) for each in IMAGE_ENDINGS)
    stems, text_stems = names.take(np.arange(len(names)), drop), files.take(texts, len(ending))
    if stems.buffer == text_stems.buffer and stems.ends == text_stems.ends:  # by far the fastest
        return texts
    return positions(files, (text_name(name, ending) for name in names))


def text_name(image_name: str, ending: str = ".txt") -> str:
    """Name of the caption's file: "cats/a.png" -> "cats/a.txt"."""
    return image_name[: image_name.rindex(".")] + ending


def json_captions(content: bytes) -> list[str]:
    """Captions in JSON: in the field "caption", or else "text", "prompt" or "captions", each a text or a list of texts.

    Args:
      content: UTF-8 of an object.

    Returns:
      At least one text; [] of what has none of these fields, or is no JSON.

    Example::

        >>> from jaxdiff.data.caption_files import json_captions
        >>> json_captions(b'{"caption": null, "text": "a cat"}'), json_captions(b'{"captions": ["a cat", "a pet"]}')
        (['a cat'], ['a cat', 'a pet'])
        >>> json_captions(b'{"width": 4}'), json_captions(b"{")
        ([], [])
    """
    try:
        fields = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []
    return caption_tables.texts_of(fields, ("caption", "text", "prompt", "captions"))


def _read_text(root: str, names: Texts, has: Any, i: int) -> str:
    """The caption, or several joined, of the files beside image i, whose endings are the bits of has[i]."""
    here = [ending for bit, ending in enumerate(ENDINGS) if has[i] >> bit & 1]
    paths = [f"{root}/{text_name(names[i], ending)}" for ending in here]
    if here[0] == ".json":
        texts = json_captions(_bytes(paths[0]))
        if not texts:
            raise ValueError(f'{paths[0]} is not JSON with a text in "caption", "text", "prompt" or "captions"')
        return captions.joined(texts)
    texts = [_decoded(path) for path in paths if not path.endswith(".json")]
    if len(set(texts)) > 1:
        raise ValueError(f"{paths[0]} and {paths[1]} differ, and are captions of one image: remove one of them")
    return captions.joined(texts[:1])


def _decoded(path):
    try:
        return _bytes(path).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as UTF-8 ({error})") from error


def _bytes(path):
    try:
        with open(path, "rb", buffering=0) if "://" not in path else epath.Path(path).open("rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read as UTF-8 ({error})") from error
