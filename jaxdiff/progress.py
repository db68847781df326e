"""Progress bars."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(title: str, total: int, unit: str = "", delay: float = 0.0) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, once it has taken more than `delay` seconds; gives the function that moves it on.

    Args:
      title: what is being done.
      total: how many there are to do.
      unit: of what.
      delay: seconds that need no bar.

    Example::

        >>> from jaxdiff import progress
        >>> with progress.bar("sampling", 10, "steps", delay=2.0) as advance:
        ...     advance(10)
    """
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    shown, start = Progress(*columns, console=Console(stderr=True)), time.monotonic()
    task = shown.add_task(title, total=total)

    def advance(count):
        shown.advance(task, count)
        if time.monotonic() - start > delay:
            shown.start()  # which does nothing when it has started

    try:
        if not delay:
            shown.start()
        yield advance
    finally:
        if shown.live.is_started:
            shown.stop()  # which would print an empty line otherwise
