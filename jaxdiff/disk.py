"""Disks: which paths are on one, and one that is full, noticed before it is written to and said in one line."""

import contextlib
import errno
import shutil
from collections.abc import Callable

from etils import epath

FULL = (errno.ENOSPC, errno.EDQUOT)
SAYINGS = ("No space left", "Disk quota exceeded")  # of those who pass no errno on


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is in a bucket, such as gs://bucket/run, which has no room to end, no locks, and no appending."""
    return "://" in str(path)


def check_room(directory: epath.PathLike, need: int) -> None:
    """Makes sure that a local directory can take so many bytes more.

    Raises:
      OSError: it cannot.
    """
    if not is_remote(directory) and (free := shutil.disk_usage(directory).free) < need:
        raise OSError(errno.ENOSPC, f"{need / 2**20:.1f} MiB are needed and {free / 2**20:.1f} are left")


@contextlib.contextmanager
def told(directory: epath.PathLike, kept: Callable[[], str]):
    """Says of an error that it came from a full disk, where it did, and what is there.

    Args:
      directory: that is written to.
      kept: says what was there before and still is.

    Raises:
      OSError: no space is left.
    """
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) not in FULL and not any(saying in str(error) for saying in SAYINGS):
            raise
        said = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())[:200]
        raise OSError(
            errno.ENOSPC, f"no space is left for {directory} ({said}); {kept()}: make room, then go on with --resume"
        ) from error
