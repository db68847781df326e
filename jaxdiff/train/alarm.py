"""A failure in one process alone, which ends all of them after the same call."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from jaxdiff.train import hosts, parallel

T = TypeVar("T")
AHEAD = 2  # calls that a process makes, at most, between its failure and the end


class Alarm:
    """Keeps what fails in this process until all processes can end together.

    A process that just ended would leave the others in the middle of a collective, with nothing saved. So after each call
    they tell one another whether something has failed, by a collective of one number, of which the answer is looked at one
    call later, when it is there: nobody waits for it. A process that failed makes up to `AHEAD` more calls, for which it
    has read its data before.

    Attributes:
      error: the first failure here, or None.
    """

    def __init__(self):
        self.error, self._told = None, collections.deque()
        self._any = jax.pmap(lambda failed: jax.lax.pmax(failed, parallel.AXIS), parallel.AXIS)

    def attempt(self, act: Callable, *arguments) -> Any:
        """What `act` gives, or None where it fails; for what the other processes do not do, or with another success."""
        try:
            return act(*arguments)
        except Exception as error:
            self.error = self.error or error
            return None

    def read(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, each read `AHEAD` calls before it is given; where reading fails, those that are left."""
        batches, ahead = iter(batches), collections.deque()
        for _ in range(AHEAD):
            self.attempt(lambda: ahead.append(next(batches)))
        while True:
            self.attempt(lambda: ahead.append(next(batches)))
            if not ahead:
                return
            yield ahead.popleft()

    def tell(self) -> None:
        """Tells the other processes how it is here; to be called by all after every call."""
        failed = np.full(jax.local_device_count(), self.error is not None)
        self._told.append(self._any(failed) if jax.process_count() > 1 else failed)

    def rung(self) -> bool:
        """Whether one has failed, as they told after the last call but one: all hear of it after the same call."""
        if len(self._told) < AHEAD:
            return False
        told = self._told.popleft()
        return bool(parallel.first(told) if jax.process_count() > 1 else told[0])

    def settle(self) -> None:
        """Ends all processes if something has failed in one; to be called by all.

        Raises:
          Exception: what failed here first.
          ValueError: it only failed elsewhere; what that process said.
        """
        hosts.together(self._raise)

    def _raise(self):
        if self.error:
            raise self.error
