"""Files that are there whole or not at all, on a disk or in a bucket such as gs://bucket."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from etils import epath

from jaxdiff.disk import is_remote

OUTPUT_MARK = ".jaxdiff"  # hidden file in directories of output, so that nobody trains on them by mistake


def as_path(name: str, path: str | bytes | os.PathLike) -> str | os.PathLike:
    """A path as given; one of bytes, as of `os.listdir(b".")`, as text.

    Args:
      name: of the argument, for the error.
      path: what was given.

    Raises:
      ValueError: it is no path, or empty, or holds a null byte.

    Example::

        >>> from jaxdiff.files import as_path
        >>> as_path("`path`", b"a.safetensors"), as_path("`path`", 5)
        Traceback (most recent call last):
        ValueError: `path` must be a name or a path, not 5
    """
    if not isinstance(path, str | bytes | os.PathLike) or not os.fspath(path):
        raise ValueError(f"{name} must be a name or a path, not {path!r}")
    if "\0" in os.fsdecode(path):
        raise ValueError(f"{name} must be a name or a path, and {path!r} holds a null byte")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be a name or a path, and {path!r} holds half of a character") from None
    return os.fsdecode(path) if isinstance(path, bytes) else path


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
    path = epath.Path(path)
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
    check_regular(path)
    return epath.Path(path).read_bytes()


def read_text(path: epath.PathLike) -> str:
    """Reads a file of UTF-8, see `read_regular`.

    Raises:
      OSError: it cannot be read, or is no regular file.
      ValueError: it is not UTF-8.
    """
    return read_regular(path).decode()


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
    path = epath.Path(path)
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
