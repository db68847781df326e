"""Examples that cannot be read: found before a training, named, and left out where that was asked for."""

import errno
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from jaxdiff import progress

log = logging.getLogger("jaxdiff")


LASTING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENOTDIR)


def lasts(error: OSError) -> bool:
    """True for an error of the file, such as a link to nowhere; False for one of a disk or network, which may pass.

    Example::

        >>> from jaxdiff.data import broken
        >>> broken.lasts(FileNotFoundError(2, "No such file or directory")), broken.lasts(TimeoutError(110, "timed out"))
        (True, False)
    """
    return error.errno in LASTING


def find(read: Callable[[int], object], count: int) -> dict[int, str]:
    """Reads all examples as training will; returns the errors of those that fail, by their indices.

    Errors other than ValueError, such as of a network that does not answer, are no broken examples: they are raised.

    Example::

        >>> from jaxdiff.data import broken
        >>> broken.find(lambda i: int("12x4"[i]), 4)
        {2: "invalid literal for int() with base 10: 'x'"}
    """

    def failed(start):
        errors = {}
        for i in range(start, min(start + 32, count)):
            try:
                read(i)
            except ValueError as error:
                errors[i] = str(error)
        return errors

    found, threads = {}, ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
    with threads as pool, progress.bar("looking through the images", count, delay=2.0) as advance:
        for errors in pool.map(failed, range(0, count, 32)):
            found |= errors
            advance(32)
    return found


def warn(broken: Mapping[int, str], count: int, where: str) -> None:
    """Logs a warning of the examples that are left out.

    Raises:
      ValueError: no example is left.
    """
    if not broken:
        return
    first = "; ".join([*broken.values()][:3]) + ("; ..." if len(broken) > 3 else "")
    if len(broken) == count:
        raise ValueError(f"none of the {count} images in {where} can be read: {first}")
    log.warning("left out %d of the %d images in %s: %s", len(broken), count, where, first)
