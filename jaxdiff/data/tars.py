"""Files of webdataset shards, tar archives whose neighbours of one name are an example, by their places in the archives."""

import array
import logging
import os
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from etils import epath

from jaxdiff import files, progress
from jaxdiff.data.caption_files import IMAGE_ENDINGS
from jaxdiff.data.texts import Texts

log = logging.getLogger("jaxdiff")
IMAGES = tuple(ending.removeprefix(".") for ending in IMAGE_ENDINGS)
TEXTS = ("txt", "caption", "text", "json")  # endings of captions, the first that is there counts
BLOCK = tarfile.BLOCKSIZE


class Index(NamedTuple):
    """Examples of shards, one row each: about 40 bytes and the key.

    Attributes:
      keys: name of the example in its shard, without its endings.
      shard: int32 [N], position among the shards.
      image: int64 [N, 2], begin and size of the image in the shard.
      text: int64 [N, 2], of the caption; sizes are -1 where there is none.
      is_json: bool [N], whether the caption is a field of JSON.
      label: int32 [N], from `.cls`; -1 where there is none.
      without_image: number of examples of each shard that were left out, for they have no image.
    """

    keys: Texts
    shard: np.ndarray
    image: np.ndarray
    text: np.ndarray
    is_json: np.ndarray
    label: np.ndarray
    without_image: np.ndarray

    def take(self, chosen: np.ndarray) -> "Index":
        """Some of the examples, by their indices."""
        rows = (getattr(self, name)[chosen] for name in ARRAYS)
        return Index(self.keys.take(chosen), *rows, self.without_image)


ARRAYS = ("shard", "image", "text", "is_json", "label")


def members(path: epath.Path) -> Iterator[tuple[str, int, int]]:
    """Name, begin and size of each regular file of an archive, in their order.

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
      skip_broken: leave out shards from where they are cut or damaged, and what has a label that is no number; the log has
        their names.

    Raises:
      ValueError: a shard is cut or no tar archive, or a label is no number.
      OSError: a shard cannot be read.
    """
    threads = ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
    keys, rows, without = [], [], []
    with threads as pool, progress.bar("looking through the shards", len(names), delay=2.0) as advance:
        one = lambda name: _of_shard(root / name, skip_broken)
        for shard, (its_keys, its_rows, its_without) in enumerate(pool.map(one, names)):
            keys += its_keys
            rows.append(np.concatenate([np.full((len(its_rows), 1), shard), its_rows], axis=1))
            without.append(its_without)
            advance(1)
    table = np.concatenate(rows) if rows else np.zeros((0, 7), np.int64)
    return Index(
        Texts.of(keys),
        table[:, 0].astype(np.int32),
        table[:, 1:3],
        table[:, 3:5],
        table[:, 5].astype(bool),
        table[:, 6].astype(np.int32),
        np.array(without, np.int64),
    )


def _of_shard(path, skip_broken):
    """Keys, rows (begin and size of image and text, whether it is JSON, label) and how many examples have no image."""
    keys, rows, without = [], [], 0
    labels = path.open("rb")
    with labels:
        try:
            for key, parts in examples(members(path)):
                image = next((parts[ending] for ending in IMAGES if ending in parts), None)
                if image is None:
                    without += 1
                    continue
                ending = next((ending for ending in TEXTS if ending in parts), None)
                label = _label(labels, path, key, parts["cls"]) if "cls" in parts else -1
                keys.append(key)
                rows.append((*image, *parts.get(ending, (0, -1)), ending == "json", label))
        except ValueError as error:
            if not skip_broken:
                raise ValueError(f"{error}: write it again, or use what comes before by `skip_broken`") from None
            log.warning("%s: the %d examples before are used", error, len(keys))
    return keys, np.array(rows, np.int64).reshape(-1, 6), without


def _label(file, path, key, place):
    file.seek(place[0])
    text = file.read(place[1]).decode("utf-8", "replace").strip()
    if not re.fullmatch(r"\d{1,9}", text):
        raise ValueError(f"{path}: the label {key}.cls is {text[:40]!r}, and must be a number from 0")
    return int(text)


def stored_index(path: epath.Path, digest: str, make) -> Index:
    """Returns an index from a file, or makes it anew and writes the file; see `captions.stored`."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # zipfile verifies checksums
            if arrays["digest"] == digest:
                keys = Texts(arrays["buffer"].tobytes(), array.array("q", arrays["ends"].tobytes()))
                return Index(keys, *(arrays[name] for name in Index._fields[1:]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent or damaged
        pass
    found = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as file:
            arrays = {name: getattr(found, name) for name in Index._fields[1:]}
            ends = np.frombuffer(found.keys.ends, np.int64)
            np.savez(file, digest=digest, buffer=np.frombuffer(found.keys.buffer, np.uint8), ends=ends, **arrays)
    except OSError as error:
        log.warning("the index of the shards is not stored, and the next start makes it again (%s)", error)
    return found


def read(path: epath.Path, place: np.ndarray) -> bytes:
    """Bytes of a file in a shard.

    Raises:
      OSError: it cannot be read.
      ValueError: the shard is shorter than it was.
    """
    begin, size = map(int, place)
    with path.open("rb") as file:
        file.seek(begin)
        found = file.read(size)
    if len(found) != size:
        raise ValueError(f"{path} ends before byte {begin + size}")
    return found
