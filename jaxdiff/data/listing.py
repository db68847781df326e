"""Files below a folder with their sizes and times, listed in one pass."""

import array
import hashlib
import logging
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from jaxdiff import progress
from jaxdiff.data.texts import Texts
from jaxdiff.files import OUTPUT_MARK

log = logging.getLogger("jaxdiff")
RUN = {"config.json", "checkpoints/"}  # what is in the directory of a run


class Listing(NamedTuple):
    """Files below a folder, sorted by name.

    Attributes:
      names: paths below the folder, "/" between their parts.
      sizes: int64 [N], in bytes; -1 for files that are not there, such as the targets of broken links.
      times: int64 [N], of the last modification, in nanoseconds; for buckets, checksums of times.
    """

    names: Texts
    sizes: np.ndarray
    times: np.ndarray

    def take(self, chosen: np.ndarray) -> "Listing":
        """Some of the files, by their indices."""
        return Listing(self.names.take(chosen), self.sizes[chosen], self.times[chosen])

    def digest(self) -> str:
        """Digest of names, sizes and times, in hexadecimal digits."""
        parts = self.names.buffer, self.names.ends, self.sizes.tobytes(), self.times.tobytes()
        return hashlib.sha256(b"".join(parts)).hexdigest()


def list_files(root: epath.Path) -> Listing:
    """Lists all files below a folder, except hidden ones, and except what jaxdiff has written in folders below it.

    The latter are runs, and the directories of `files.make_output_dir`; the log has their names. Pipes, sockets and devices
    are left out, too, with a warning: to read a pipe is to wait for whoever writes into it.

    Args:
      root: the folder, on a disk or in a bucket. Links are followed, but not back up.

    Raises:
      OSError: a folder cannot be read.
      ImportError: the package that reads the bucket is not installed.

    Example::

        >>> import tempfile
        >>> from etils import epath
        >>> from jaxdiff.data import listing
        >>> root = epath.Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.png", ".hidden"):
        ...     _ = (root / name).write_text("12")
        >>> found = listing.list_files(root)
        >>> list(found.names), found.sizes.tolist()
        (['a.png', 'b.png'], [2, 2])
    """
    left_out, special = [], []
    if "://" in os.fspath(root):
        listing = _list_bucket(os.fspath(root), left_out)
    else:
        listing = _list_disk(root, left_out, special)
    if left_out:
        log.info("left out of %s what jaxdiff has written there: %s", root, ", ".join(left_out))
    if special:
        log.warning("left out of %s %d pipes, sockets or devices, such as %s", root, len(special), special[0])
    return listing


def _list_disk(root, left_out, special):
    sizes, times = array.array("q"), array.array("q")

    def names_of_files(advance):
        for name, size, time in _scan(os.fspath(root), left_out, special):
            sizes.append(size)
            times.append(time)
            if len(sizes) % 1000 == 0:
                advance(1000)
            yield name

    with progress.bar("listing the files", None, delay=2.0) as advance:
        names = Texts.of(names_of_files(advance))
    return Listing(names, np.array(sizes, np.int64), np.array(times, np.int64))


def list_paths(paths: Iterable[epath.Path]) -> Listing:
    """Listing of files that are given one by one.

    Raises:
      OSError: one of them is not there.
    """
    names = [os.fspath(path) for path in paths]
    found = [epath.Path(name).stat() for name in names]
    sizes, times = [each.length for each in found], [each.mtime for each in found]
    return Listing(Texts.of(names), np.array(sizes, np.int64), np.array(times, np.int64) * 10**9)


def _scan(folder, left_out, special, prefix="", above=()) -> Iterator[tuple[str, int, int]]:
    """Yields name, size and time of the files below a folder, sorted by name; appends to `left_out` and `special`."""
    here = os.path.realpath(folder)
    if here in above:  # a link that leads back up
        return
    names, sizes, times = [], array.array("q"), array.array("q")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == OUTPUT_MARK and prefix:
                left_out.append(prefix[:-1])
                return
            if entry.name.startswith("."):
                continue
            is_dir, size, time = _about(entry)
            if size is None:
                special.append(prefix + entry.name)
                continue
            names.append(entry.name + "/" * is_dir)
            sizes.append(size)
            times.append(time)
    if prefix and RUN <= set(names):
        left_out.append(prefix[:-1])
        return
    for i in sorted(range(len(names)), key=names.__getitem__):  # the "/" makes this the order of whole paths
        if names[i].endswith("/"):
            yield from _scan(f"{folder}/{names[i][:-1]}", left_out, special, prefix + names[i], (*above, here))
        else:
            yield prefix + names[i], sizes[i], times[i]


def _about(entry):
    """Kind of an entry (True for a folder), its size, None of what is neither folder nor file, and its time."""
    try:
        if entry.is_dir():
            return True, 0, 0
        found = entry.stat()
    except OSError:  # a link that is broken, or leads to itself, which is an error when it is read
        return False, -1, 0
    return False, found.st_size if stat.S_ISREG(found.st_mode) else None, found.st_mtime_ns


def _list_bucket(uri, left_out):
    """Lists with few requests; `epath.Path.stat` makes one for each file."""
    import fsspec

    protocol = uri.split("://")[0]
    files = fsspec.filesystem("gcs" if protocol == "gs" else protocol)  # the one that epath reads from
    start = len(files.info(uri)["name"].rstrip("/")) + 1
    found = {name[start:]: about for name, about in files.find(uri, detail=True).items()}
    names = sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))
    below = {f"/{name}".split("/checkpoints/")[0][1:] + "/" for name in names if "/checkpoints/" in name}
    marked = [name.removesuffix(OUTPUT_MARK)[:-1] for name in found if name.endswith(f"/{OUTPUT_MARK}")]
    left_out += [folder[:-1] for folder in sorted(below) if f"{folder}config.json" in found] + sorted(marked)
    names = [name for name in names if not name.startswith(tuple(f"{folder}/" for folder in left_out))]
    sizes = np.array([found[name]["size"] for name in names], np.int64)
    times = [[found[name].get(key) for key in ("mtime", "updated", "LastModified", "created")] for name in names]
    return Listing(Texts.of(names), sizes, np.array([zlib.crc32(repr(time).encode()) for time in times], np.int64))
