"""Synchronised failure: an error in one process alone ends all of them after the same call."""

import collections
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from jaxdiff import hosts
from jaxdiff.train import parallel

T = TypeVar("T")
log = logging.getLogger("jaxdiff")
AHEAD = 2  # calls that a process still makes after a failure: one to share it, one until all have read that


class FailureSync:
    """Keeps the first error of this process until all processes can end together.

    A process that ended at once would leave the others in the middle of a collective, with nothing saved. Therefore all
    share after each call whether one has failed, by a collective of one number, whose result is read one call later, when
    it is there: no process waits for it. A process that failed makes up to `AHEAD` more calls, with batches that it has
    read before. Leaving `with` by another error logs the first.

    Attributes:
      error: the first error in this process, or None.
    """

    def __init__(self):
        self.error, self._shared, several = None, collections.deque(), jax.process_count() > 1
        any_of = jax.pmap(lambda failed: jax.lax.pmax(failed, parallel.AXIS), parallel.AXIS)
        self._any, self._first = (any_of, parallel.first) if several else (np.any, bool)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self.error and error is not self.error:
            log.warning("besides, this failed: %s", self.error)

    def attempt(self, act: Callable, *arguments) -> Any:
        """Returns the result of a function that may fail in this process alone, or None if it fails."""
        try:
            return act(*arguments)
        except Exception as error:
            self.error = self.error or error
            return None

    def read(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields the same batches, each read `AHEAD` calls earlier; after a failure of reading those that were read."""
        batches, ahead = iter(batches), collections.deque()
        more = lambda count: self.attempt(lambda: ahead.extend(itertools.islice(batches, count)))
        more(AHEAD)
        while True:
            more(1)
            if not ahead:
                return
            yield ahead.popleft()

    def share(self) -> None:
        """Shares with the other processes whether this one has failed; called by all after every call."""
        self._shared.append(self._any(np.full(jax.local_device_count(), self.error is not None)))

    def any_failed(self) -> bool:
        """Whether a process has failed before the last call but one; the same in all processes."""
        return len(self._shared) == AHEAD and bool(self._first(self._shared.popleft()))

    def raise_together(self, name: str) -> None:
        """Raises in all processes if one of them has failed; called by all.

        Args:
          name: name of the barrier, for the log.

        Raises:
          Exception: the first error in this process.
          ValueError: another process alone has failed; with the text of its error.
        """
        hosts.together(self._raise, name)

    def _raise(self):
        if self.error:
            raise self.error
