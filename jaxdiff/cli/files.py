"""Files that commands read and write: never over one that is there, unless that is asked for."""

import os
import tempfile
from typing import Annotated

import tyro
from etils import epath

from jaxdiff import disk

File = Annotated[str | None, tyro.conf.arg(metavar="PATH")]  # also gs://bucket/file, which pathlib would not keep


def located(path: str) -> epath.Path:
    """The path of a flag, with ~ expanded, which no shell does behind an equals sign.

    Raises:
      ValueError: an address of an unknown kind, or a home directory that does not exist.
    """
    try:
        found = epath.Path(path).expanduser()
    except KeyError:
        raise ValueError(f"{path} is an address of an unknown kind: gs:// and s3:// are known") from None
    if os.fspath(found).startswith("~"):
        raise ValueError(f"there is no home directory for {path}")
    return found


def unused(path: epath.Path, overwrite: bool, beside: tuple[str, ...] = ()) -> epath.Path:
    """The path, or with a number behind it the first that is not there yet, and nothing of its name with such ends."""
    free, again = path, 1
    while not overwrite and any(free.with_stem(free.stem + end).exists() for end in ("", *beside)):
        again += 1
        free = path.with_stem(f"{path.stem}_{again}")
    return free


def writable(path: epath.Path, endings: tuple[str, ...] | None, overwrite: bool) -> epath.Path:
    """The path, if it may be written.

    Raises:
      FileExistsError: something is there already and is not to be overwritten.
      FileNotFoundError: its directory is missing.
      ValueError: it has none of the endings.
    """
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{path} must end in {' or '.join(endings)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent}: make it first")
    if path.is_dir() and path.suffix:
        raise IsADirectoryError(f"{path} is a directory: choose another name")
    if not disk.is_remote(path):
        _try_to_write(path.parent)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already: add --overwrite to replace it, or choose another name")
    return path


def _try_to_write(directory):
    """Writes a temporary file, because permissions do not show a disk that is mounted for reading.

    Raises:
      PermissionError: it cannot be written.
    """
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise PermissionError(
            f"{directory} cannot be written to ({error.strerror}): choose another directory"
        ) from None
