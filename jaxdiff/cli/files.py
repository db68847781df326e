"""Files that commands read and write: never over one that is there, unless that is asked for."""

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import tyro
from etils import epath

from jaxdiff import disk
from jaxdiff.files import make_output_dir, unfinished
from jaxdiff.model import runs
from jaxdiff.paths import as_path

# Files of a run that are read of it, beside its checkpoints.
RUN_FILES = ("config.json", "tokenizer.json", "prompts.json", "base.safetensors",
             *(f"{name}.safetensors" for name in runs.SUBMODELS.values()))  # fmt: skip

File = Annotated[str | None, tyro.conf.arg(metavar="PATH")]  # also gs://bucket/file, which pathlib would not keep


def located(path: str, flag: str) -> epath.Path:
    """The path of a flag, with ~ expanded, which no shell does behind an equals sign.

    Args:
      path: as it was given.
      flag: its name as a field, such as "run_dir"; or the words that stand for an argument without one.

    Raises:
      ValueError: an empty path, or one that `jaxdiff.paths.as_path` refuses.
    """
    if not path:
        shown = flag if flag.isupper() else f"`{flag}`"
        raise ValueError(f"{shown} is empty (''): give a path, or leave it out")
    return as_path(path)


def unused(path: epath.Path, overwrite: bool, beside: tuple[str, ...] = ()) -> epath.Path:
    """The path, or with a number behind it the first that is not there yet, and nothing of its name with such ends."""
    free, again = path, 1
    while not overwrite and any(free.with_stem(free.stem + end).exists() for end in ("", *beside)):
        again += 1
        free = path.with_stem(f"{path.stem}_{again}")
    return free


def writable(path: epath.Path, endings: tuple[str, ...] | None, overwrite: bool) -> epath.Path:
    """The path of a file, if it may be written.

    Raises:
      FileExistsError: something is there already and is not to be overwritten.
      FileNotFoundError: its directory is missing.
      IsADirectoryError: it is a directory.
      ValueError: it has none of the endings, or too long a name.
    """
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{path} must end in {' or '.join(endings)}")
    _check_place(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: choose another name")
    if not disk.is_remote(path):
        _try_to_write(path.parent)
    _check_unused(path, overwrite)
    return path


def writable_dir(path: epath.Path, overwrite: bool) -> epath.Path:
    """The path of a directory of files, if they may be written.

    Raises:
      FileExistsError: it is there already and is not to be written to.
      FileNotFoundError: the directory that it is to be in is missing.
      NotADirectoryError: it is a file.
      ValueError: it has too long a name.
    """
    _check_place(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, and is to be a directory: choose another name")
    if not disk.is_remote(path):
        _try_to_write(path if path.is_dir() else path.parent)
    _check_unused(path, overwrite)
    return path


def output_dir(path: epath.Path) -> epath.Path:
    """The directory of what is written without --out, which is made where it is missing.

    Raises:
      OSError: it cannot be made.
    """
    try:
        make_output_dir(path)
    except OSError as error:
        reason = "it is a file" if path.exists() and not path.is_dir() else error.strerror
        raise OSError(f"the directory {path} cannot be made ({reason}): name the file to write by --out") from None
    return path


def check_no_input(outputs: Iterable[epath.Path], inputs: Iterable[str | None]) -> None:
    """Raises ValueError where a file to write is one of those to read, which --overwrite is not to cost anybody.

    Args:
      outputs: files to write.
      inputs: files, and names of models and adapters, among which are folders; None and "" are none.
    """
    read = {os.path.realpath(file) for path in inputs if path for file in _files_of(os.path.expanduser(path))}
    for path in outputs:
        if not disk.is_remote(path) and os.path.realpath(path) in read:
            raise ValueError(f"{path} is to be read, and would be overwritten: choose another name")


def _files_of(path):
    """The files that are read of a path: itself, or those of a run or of a published folder."""
    if disk.is_remote(path) or not os.path.isdir(path):
        return [path]
    if runs.holds_run(path):  # whose other files may be written again, such as one that was exported into it
        return [f"{path}/{name}" for name in RUN_FILES]
    patterns = ("*.safetensors", "*.json", "*/*.safetensors", "*/*.json")  # no deeper, for it may be any folder
    return [file for pattern in patterns for file in Path(path).glob(pattern)]


def _check_place(path):
    """Raises OSError or ValueError for a path without a directory, or with too long a name."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent}: make it first")
    if disk.is_remote(path):
        return
    try:
        os.lstat(unfinished(path))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"the name {path.name[:40]}... is too long for this disk: choose a shorter one") from None


def _check_unused(path, overwrite):
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already: add --overwrite to replace it, or choose another name")


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
