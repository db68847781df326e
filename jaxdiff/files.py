"""Files that are there whole or not at all, on a disk or in a bucket such as gs://bucket."""

import codecs
import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

from etils import epath

from jaxdiff.disk import is_remote
from jaxdiff.paths import as_path

OUTPUT_MARK = ".jaxdiff"  # hidden file in directories of output, so that nobody trains on them by mistake


def make_output_dir(path: epath.PathLike) -> None:
    """Makes a directory of output, and marks it where it was not there or empty; folders of data leave such ones out.

    Example::

        >>> import pathlib, tempfile
        >>> from jaxdiff import files
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "samples"
        >>> files.make_output_dir(path)
        >>> [file.name for file in path.iterdir()]
        ['.jaxdiff']
    """
    path = as_path(path)
    if path.is_dir() and any(path.iterdir()):
        return
    path.mkdir(parents=True, exist_ok=True)
    (path / OUTPUT_MARK).write_text("written by jaxdiff: not data\n")


def check_regular(path: epath.PathLike) -> None:
    """Raises OSError for a pipe, a socket or a device, whose opening may wait for ever; not for what is missing."""
    if not is_remote(path) and os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        reason = "it is a pipe, a socket or a device: save it as a file first"
        raise OSError(errno.EINVAL, reason, os.fspath(path))


def read_regular(path: epath.PathLike) -> bytes:
    """Reads a file that is no pipe or device: from those nothing may ever come.

    Raises:
      OSError: it cannot be read, or is no regular file.
    """
    path = as_path(path)
    check_regular(path)
    return path.read_bytes()


def read_text(path: epath.PathLike) -> str:
    """Reads a file of UTF-8, also with a byte-order mark, see `read_regular`.

    Raises:
      OSError: it cannot be read, or is no regular file.
      ValueError: it is not UTF-8; the message names it.
    """
    content = read_regular(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        begins = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        kind = "UTF-16" if begins else f"not UTF-8 (byte {error.start})"
        raise ValueError(f"{os.fspath(path)} is {kind}: save it as UTF-8") from None


def read_json(path: epath.PathLike) -> Any:
    """Reads a file of JSON, see `read_text`.

    Raises:
      OSError: it cannot be read, or is no regular file.
      ValueError: it is not UTF-8, or not JSON; the message names it.

    Example::

        >>> import pathlib, tempfile
        >>> from jaxdiff import files
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = path.write_text('{"steps": 5}', encoding="utf-8-sig")
        >>> files.read_json(path)
        {'steps': 5}
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)} is not JSON ({error})") from None


@contextlib.contextmanager
def whole(path: epath.PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file that takes the place of `path` once it is written to its end.

    It is written beside `path`, under a name of its own that ends in .tmp, and then renamed. Where anything fails on the
    way, a file that was at `path` before stays as it was; only a killed process leaves its .tmp behind.

    Args:
      path: file to write, in a directory that is there.

    Raises:
      OSError: it cannot be written, as on a full disk.

    Example::

        >>> import pathlib, tempfile
        >>> from jaxdiff import files
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> files.write_whole(path, "old")
        >>> with files.whole(path) as file:
        ...     _ = file.write(b"half of the new")
        ...     raise OSError("no space is left")
        Traceback (most recent call last):
        OSError: no space is left
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('old', 1)
    """
    path = as_path(path)
    if not is_remote(path) and not path.parent.is_dir():  # a bucket has no directories
        raise FileNotFoundError(f"there is no directory {path.parent}: make it first")
    beside = unfinished(path)
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and not error.filename:  # as of a full disk
            error.filename = os.fspath(path)
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def unfinished(path: epath.Path) -> epath.Path:
    """A name beside `path` for a file that is being written, for another process may write the same."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def write_whole(path: epath.PathLike, content: bytes | str) -> None:
    """Writes a file, whole or not at all, see `whole`; text as UTF-8."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
