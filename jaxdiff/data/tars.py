"""Files of webdataset shards, tar archives whose neighbours of one name are an example, by their places in the archives."""

import logging
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from etils import epath

from jaxdiff import progress
from jaxdiff.data.caption_files import IMAGE_ENDINGS, json_captions
from jaxdiff.data.captions import stored_arrays
from jaxdiff.data.texts import Texts

log = logging.getLogger("jaxdiff")
IMAGES = tuple(ending.removeprefix(".") for ending in IMAGE_ENDINGS)
TEXTS = ("txt", "caption", "text", "json")  # endings of captions, the first that is there counts
BLOCK = tarfile.BLOCKSIZE
CLASSES = 10**5  # labels are below it: what has larger numbers is no class


class Index(NamedTuple):
    """Examples of shards, one row each: about 40 bytes and the key.

    Attributes:
      keys: name of the example in its shard, without its endings.
      shard: int32 [N], position among the shards.
      image: int64 [N, 2], begin and size of the image in the shard.
      text: int64 [N, 2], of the caption; sizes are -1 where there is none, nor JSON with one in it.
      is_json: bool [N], whether the caption is a field of JSON.
      label: int32 [N], from `.cls`; -1 where there is none.
      without_image: number of examples of each shard that were left out, for they have no image.
      links: number of hard and symbolic links in each shard, which are not followed.
      skipped: lines on what else was left out, which cannot be read.
    """

    keys: Texts
    shard: np.ndarray
    image: np.ndarray
    text: np.ndarray
    is_json: np.ndarray
    label: np.ndarray
    without_image: np.ndarray
    links: np.ndarray
    skipped: Texts

    def take(self, chosen: np.ndarray) -> "Index":
        """Some of the examples, by their indices."""
        rows = (getattr(self, name)[chosen] for name in ARRAYS)
        return Index(self.keys.take(chosen), *rows, self.without_image, self.links, self.skipped)


ARRAYS = ("shard", "image", "text", "is_json", "label")


class _Shard(NamedTuple):
    """Contents of one shard: keys and rows (begin and size of image and text, whether it is JSON, label) of examples."""

    keys: list[str]
    rows: list[tuple[int, ...]]
    without_image: list[str]
    links: list[str]
    skipped: list[str]


def members(path: epath.Path, links: list[str] | None = None) -> Iterator[tuple[str, int, int]]:
    """Name, begin and size of each regular file of an archive, in their order.

    Args:
      path: the archive.
      links: a list to which the names of links are added, which hold no file of their own.

    Raises:
      ValueError: it is no uncompressed tar archive, or is cut; what comes before has been delivered.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # or it would keep them all
                    if member.isfile():
                        yield member.name, member.offset_data, member.size
                    elif links is not None and (member.islnk() or member.issym()):
                        links.append(member.name)
                end = archive.offset
        except tarfile.TarError as error:
            raise ValueError(f"{path} is no whole tar archive without compression ({error})") from None
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):
            raise ValueError(f"{path} is cut or damaged at byte {end}: it has no mark of its end")


def examples(found: Iterable[tuple[str, int, int]]) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key and files of each example: neighbours whose names are the same up to the first dot behind the last slash.

    Example::

        >>> from jaxdiff.data.tars import examples
        >>> list(examples([("a/1.jpg", 512, 9), ("a/1.txt", 1536, 3), ("a/2.jpg", 2560, 8)]))
        [('a/1', {'jpg': (512, 9), 'txt': (1536, 3)}), ('a/2', {'jpg': (2560, 8)})]
    """
    key, parts = None, {}
    for name, begin, size in found:
        folder, slash, base = name.rpartition("/")
        stem, dot, ending = base.partition(".")
        if not (stem and dot):  # hidden, or without an ending
            continue
        if (its := folder + slash + stem) != key:
            if parts:
                yield key, parts
            key, parts = its, {}
        parts[ending.lower()] = begin, size
    if parts:
        yield key, parts


def index_of(root: epath.Path, names: Texts, skip_broken: bool = False) -> Index:
    """Looks through shards, several at a time.

    Args:
      root: folder of the shards.
      names: their paths below it.
      skip_broken: leave out shards from where they are cut or damaged, and examples with a label that is no number; see
        `Index.skipped`.

    Raises:
      ValueError: a shard is cut or no tar archive, or a label is no number.
      OSError: a shard cannot be read.
    """
    threads = ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
    found = []
    with threads as pool, progress.bar("looking through the shards", len(names), delay=2.0) as advance:
        for shard in pool.map(lambda name: _of_shard(root / name, name, skip_broken), names):
            found.append(shard._replace(rows=np.array(shard.rows, np.int64).reshape(-1, 6)))
            advance(1)
    table = np.concatenate([np.zeros((0, 6), np.int64), *(shard.rows for shard in found)])
    return Index(
        Texts.of(key for shard in found for key in shard.keys),
        np.repeat(np.arange(len(found), dtype=np.int32), [len(shard.keys) for shard in found]),
        table[:, 0:2],
        table[:, 2:4],
        table[:, 4].astype(bool),
        table[:, 5].astype(np.int32),
        np.array([len(shard.without_image) for shard in found], np.int64),
        np.array([len(shard.links) for shard in found], np.int64),
        Texts.of(line for shard in found for line in shard.skipped),
    )


def _of_shard(path, name, skip_broken):
    found = _Shard([], [], [], [], [])
    with path.open("rb") as file:
        try:
            for key, parts in examples(members(path, found.links)):
                _add(found, file, key, parts, name, skip_broken)
        except _Label as error:
            raise ValueError(f"{path}: {error}: mend it, or leave out such examples by `skip_broken`") from None
        except ValueError as error:
            if not skip_broken:
                raise ValueError(f"{error}: write it again, or use what comes before by `skip_broken`") from None
            found.skipped.append(f"{name}: all but its first {len(found.keys)} examples ({error})")
    return found


def _add(found, file, key, parts, name, skip_broken):
    """Adds an example, if it has an image and no label that is none."""
    image = next((parts[ending] for ending in IMAGES if ending in parts), None)
    if image is None:
        found.without_image.append(key)
        return
    try:
        label = _label(file, key, parts["cls"]) if "cls" in parts else -1
    except _Label as error:
        if not skip_broken:
            raise
        found.skipped.append(f"{name}: {key} ({error})")
        return
    ending = next((ending for ending in TEXTS if ending in parts), None)
    text = parts.get(ending, (0, -1))
    if ending == "json":
        file.seek(text[0])
        text = text if json_captions(file.read(text[1])) else (0, -1)
    found.keys.append(key)
    found.rows.append((*image, *text, ending == "json", label))


class _Label(Exception):
    """A label that is none."""


def _label(file, key, place):
    file.seek(place[0])
    text = file.read(min(place[1], 100)).decode("utf-8", "replace").strip()
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise _Label(f"the label {key}.cls is {text[:40]!r}, and must be a number from 0")
    if int(text) >= CLASSES:
        raise _Label(f"the label {key}.cls is {text[:40]}, which is no class: they must be below {CLASSES:,}")
    return int(text)


def stored_index(path: epath.Path, digest: str, make: Callable[[], Index]) -> Index:
    """Returns an index from a file, or makes it anew and writes the file; see `captions.stored_arrays`."""

    def arrays():
        found = {}
        for name, value in make()._asdict().items():
            found |= value.arrays(f"{name}_") if isinstance(value, Texts) else {name: value}
        return found

    found = stored_arrays(path, digest, arrays, "places of examples in the shards")
    part = lambda name: found[name] if name in found else Texts.from_arrays(found, f"{name}_")
    return Index(*map(part, Index._fields))


def read(path: epath.Path, place: np.ndarray) -> bytes:
    """Bytes of a file in a shard.

    Raises:
      OSError: it cannot be read.
      ValueError: the shard is shorter than it was.
    """
    begin, size = map(int, place)
    try:
        with path.open("rb") as file:
            file.seek(begin)
            found = file.read(size)
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise
    if len(found) != size:
        raise ValueError(f"{path} ends before byte {begin + size}")
    return found
