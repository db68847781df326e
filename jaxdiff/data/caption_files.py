"""Captions of image files: a .txt file beside each, or the lines of one `metadata.jsonl`."""

import array
import bisect
import functools
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from jaxdiff.data import captions
from jaxdiff.data.captions import Captions
from jaxdiff.data.listing import Listing
from jaxdiff.data.paths import index_file
from jaxdiff.data.texts import Texts

IMAGE_ENDINGS = (  # in capitals too; what is in a file is seen by its contents
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".pjpeg", ".apng",
    ".dib",
)  # fmt: skip
TABLE = "metadata.jsonl"
STORE_FROM = 1000  # captions; fewer are read quickly enough at each start
FRESH = 2 * 10**9  # nanoseconds; file systems with coarse times may give two changes within them the same time


def captions_of(images: Listing, files: Listing, root: epath.Path) -> tuple[Captions | None, str]:
    """Captions of the images of a folder, read when they are first used.

    Args:
      images: the image files.
      files: all files of the folder.
      root: the folder.

    Returns:
      The captions and ""; or None and the reason, if an image has none.
    """
    names, table = images.names, position(files.names, TABLE)
    if table is not None:
        files = files.take(np.array([table]))
        read_all = functools.partial(read_table, root / TABLE, names)
        return _stored(root, files, files.digest() + images.digest(), Captions(None, len(names), read_all)), ""
    texts = text_files(names, files.names)
    missing = np.flatnonzero(texts < 0)
    if len(missing) == len(names):
        return None, f"there are no captions in {root}: neither a .txt beside each image, nor a {TABLE}"
    if len(missing):
        first = names[missing[0]]
        return None, f"{len(missing)} of the {len(names)} images in {root} have no .txt beside them, such as {first}"
    files = files.take(texts)
    read = functools.partial(_read_text, os.fspath(root), names)
    return _stored(root, files, files.digest(), Captions(read, len(names))), ""


def _stored(root, files, digest, unstored):
    """The same captions, stored between starts, unless there are few, or a later change of a file might go unnoticed."""
    fresh = np.abs(time.time_ns() - files.times) < FRESH
    if unstored.size < STORE_FROM or fresh.any():
        return unstored
    read_all = functools.partial(captions.stored, index_file(root), digest, unstored.read_all)
    return Captions(unstored.read, unstored.size, read_all)


def text_files(names: Texts, files: Texts) -> np.ndarray:
    """Indices of the captions' files among all files, int64 [N]; -1 for images without one.

    Args:
      names: of the images, N of them, sorted.
      files: names of all files, sorted.
    """
    texts = np.flatnonzero(files.end_with(".txt"))
    drop = sum(len(ending) * names.end_with(ending, any_case=True) for ending in IMAGE_ENDINGS)
    stems, text_stems = names.take(np.arange(len(names)), drop), files.take(texts, len(".txt"))
    if stems.buffer == text_stems.buffer and stems.ends == text_stems.ends:  # by far the fastest
        return texts
    return positions(files, map(text_name, names))


def positions(names: Sequence[str], some: Iterable[str]) -> np.ndarray:
    """Indices of some names among sorted names, int64; -1 for those that are not there; fast for sorted ones.

    Example::

        >>> from jaxdiff.data import caption_files
        >>> caption_files.positions(["a.png", "a.txt", "b.png", "b.txt"], ["a.txt", "b.txt", "c.txt", "a.png"]).tolist()
        [1, 3, -1, 0]
    """
    found, i = array.array("q"), 0
    for name in some:
        near = next((j for j in range(i, min(i + 4, len(names))) if names[j] == name), None)
        place = position(names, name) if near is None else near
        found.append(-1 if place is None else place)
        i = i if place is None else place + 1
    return np.array(found, np.int64)


def position(names: Sequence[str], name: str) -> int | None:
    """Index of a name among sorted names; None if it is not there."""
    i = bisect.bisect_left(names, name)
    return i if i < len(names) and names[i] == name else None


def text_name(image_name: str) -> str:
    """Name of the caption's file: "cats/a.png" -> "cats/a.txt"."""
    return image_name[: image_name.rindex(".")] + ".txt"


def _read_text(root, names, i):
    path = f"{root}/{text_name(names[i])}"
    try:
        with open(path, "rb", buffering=0) if "://" not in path else epath.Path(path).open("rb") as file:
            return file.read().decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 ({error})") from error


def read_table(path: epath.Path, names: Sequence[str]) -> Texts:
    """Captions of images from a file with lines of {"file_name": ..., "text": ...}; of several lines, the last counts.

    Args:
      path: the file.
      names: file names of the images, sorted.

    Raises:
      ValueError: the file is not UTF-8 or has other lines, or an image has no line.
    """
    both = Texts.of(part for line in _lines(path) for part in line)  # file name, caption, file name, ...
    images = positions(names, (both[i] for i in range(0, len(both), 2)))
    lines = np.full(len(names), -1)
    lines[images[images >= 0]] = np.flatnonzero(images >= 0)
    if (missing := np.flatnonzero(lines < 0)).size:
        raise ValueError(f"{path} has no line for {names[missing[0]]}")
    return Texts.of(both[2 * line + 1] for line in lines)


def _lines(path) -> Iterator[tuple[str, str]]:
    """Yields file name and caption of each line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):  # ends at "\n" alone; other ends of lines may stand within JSON
            if line.strip():
                yield _parse(path, number, line)


def _parse(path, number, line):
    try:
        fields = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        text = fields["text"] if "text" in fields else fields["caption"]
        return fields["file_name"] + "", text + ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as UTF-8 ({error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'line {number} of {path} is not {{"file_name": "...", "text": "..."}} ({error or "it is something else"})'
        ) from error
