"""A failure in one process alone, which ends all of them after the same call."""

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
AHEAD = 2  # calls that a process still makes after it has failed: one to tell of it, one while the others hear


class FailureSync:
    """Keeps what fails in this process until all processes can end together.

    A process that just ended would leave the others in the middle of a collective, with nothing saved. So after each call
    they tell one another whether something has failed, by a collective of one number, of which the answer is looked at one
    call later, when it is there: nobody waits for it. A process that failed makes up to `AHEAD` more calls, for which it
    has read its data before. Inside of `with`, a failure that is not what ends the run is at least said.

    Attributes:
      error: the first failure here, or None.
    """

    def __init__(self):
        self.error, self._told, several = None, collections.deque(), jax.process_count() > 1
        any_of = jax.pmap(lambda failed: jax.lax.pmax(failed, parallel.AXIS), parallel.AXIS)
        self._any, self._first = (any_of, parallel.first) if several else (np.any, bool)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self.error and error is not self.error:
            log.warning("besides, this failed: %s", self.error)

    def attempt(self, act: Callable, *arguments) -> Any:
        """What `act` gives, or None where it fails, which it may do here and not in another process."""
        try:
            return act(*arguments)
        except Exception as error:
            self.error = self.error or error
            return None

    def read(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, each read `AHEAD` calls before it is given; where reading fails, those that are left."""
        batches, ahead = iter(batches), collections.deque()
        more = lambda count: self.attempt(lambda: ahead.extend(itertools.islice(batches, count)))
        more(AHEAD)
        while True:
            more(1)
            if not ahead:
                return
            yield ahead.popleft()

    def share(self) -> None:
        """Tells the other processes how it is here; to be called by all after every call."""
        self._told.append(self._any(np.full(jax.local_device_count(), self.error is not None)))

    def any_failed(self) -> bool:
        """Whether one has failed, as they told after the last call but one: all hear of it after the same call."""
        return len(self._told) == AHEAD and bool(self._first(self._told.popleft()))

    def raise_together(self, name: str) -> None:
        """Ends all processes if something has failed in one; to be called by all.

        Args:
          name: what is done by then, for the log.

        Raises:
          Exception: what failed here first.
          ValueError: it only failed elsewhere; what that process said.
        """
        hosts.together(self._raise, name)

    def _raise(self):
        if self.error:
            raise self.error
