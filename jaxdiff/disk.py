"""Disks: whether a path is on one, and a full one, noticed before it is written to and explained in one line."""

import contextlib
import errno
import shutil
from collections.abc import Callable

from etils import epath

FULL = (errno.ENOSPC, errno.EDQUOT)
TEXTS = ("No space left", "Disk quota exceeded")  # of libraries that pass no errno on


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is in a bucket, such as gs://bucket/run, which never fills up and has neither locks nor appending."""
    return "://" in str(path)


def check_room(directory: epath.PathLike, need: int) -> None:
    """Raises OSError unless a local directory has room for so many more bytes."""
    if not is_remote(directory) and (free := shutil.disk_usage(directory).free) < need:
        raise OSError(errno.ENOSPC, f"{need / 2**20:.1f} MiB are needed and {free / 2**20:.1f} are left")


@contextlib.contextmanager
def explained(directory: epath.PathLike, kept: Callable[[], str]):
    """Turns errors of a full disk into one line that says what is kept and what to do; other errors pass.

    Args:
      directory: directory that is written to.
      kept: returns a clause such as "the checkpoint of step 5 is kept".

    Raises:
      OSError: no space is left.
    """
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) not in FULL and not any(text in str(error) for text in TEXTS):
            raise
        text = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())[:200]
        raise OSError(
            errno.ENOSPC, f"no space is left for {directory} ({text}); {kept()}: make room, then go on with `resume`"
        ) from error
