"""Progress bars."""

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(title: str, total: int | None, unit: str = "", delay: float = 0.0) -> Iterator[Callable[[int], None]]:
    """Progress bar on standard error.

    Args:
      title: label in front of the bar, such as "sampling".
      total: number of units until it is full; None if it is unknown.
      unit: plural name of what is counted, such as "steps".
      delay: seconds before it is shown; work that takes less shows none.

    Yields:
      advance(count), which adds to the units done.

    Example::

        >>> from jaxdiff import progress
        >>> with progress.bar("sampling", 10, "steps", delay=2.0) as advance:
        ...     advance(10)
    """
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    widgets = None if importlib.util.find_spec("ipywidgets") else False  # without them Rich warns in notebooks
    shown, start = Progress(*columns, console=Console(stderr=True, force_jupyter=widgets)), time.monotonic()
    task = shown.add_task(title, total=total)
    with (
        shown.console.capture()
    ):  # Rich imports as it draws, which its thread must not do while TFDS changes how imports work
        shown.console.print(shown.get_renderable())

    def advance(count):
        shown.advance(task, count)
        if time.monotonic() - start > delay:
            shown.start()  # no effect once started

    try:
        if not delay:
            shown.start()
        yield advance
    finally:
        if shown.live.is_started:
            shown.stop()  # a bar that was never shown would print an empty line
