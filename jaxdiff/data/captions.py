"""Captions of many examples: read in one pass by several threads, and stored between starts."""

import functools
import logging
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files, progress
from jaxdiff.data.texts import Texts

log = logging.getLogger("jaxdiff")
CHUNK = 256  # captions that a thread reads at a time
BETWEEN = "\0"  # several captions of one example, where they are stored as one text


def joined(texts: Iterable[str]) -> str:
    """Several captions of one example as the one text that `Captions` stores.

    Example::

        >>> from jaxdiff.data import captions
        >>> captions.joined(["a cat ", "a grey cat"]).split(captions.BETWEEN)
        ['a cat', 'a grey cat']
    """
    return BETWEEN.join(text.replace(BETWEEN, " ").strip() for text in texts)


class Captions:
    """Captions of a source: `captions(i)` reads one, `captions.texts` reads all of them, once, and keeps them in memory.

    Where an example has several captions, both give the first of them, and `captions.several(i)` all.

    Args:
      read: returns caption i, or several of them `joined`, or raises ValueError; None if one alone cannot be read.
      size: number of examples.
      read_all: returns all of them; None calls `read` for each, in several threads.
      kinds: number of examples by the kind of file that their captions come from, such as ".txt".

    Example::

        >>> from jaxdiff.data.captions import Captions
        >>> reads = []
        >>> captions = Captions(lambda i: reads.append(i) or f"image {i}", 3)
        >>> captions(1), list(captions.texts), captions(1), reads
        ('image 1', ['image 0', 'image 1', 'image 2'], 'image 1', [1, 0, 1, 2])
    """

    def __init__(
        self,
        read: Callable[[int], str] | None,
        size: int,
        read_all: Callable[[], Texts] | None = None,
        kinds: Mapping[str, int] | None = None,
    ):
        self.read, self.size, self.read_all = read, size, read_all or functools.partial(read_in_threads, read, size)
        self.kinds = dict(kinds or {})
        self._texts, self._firsts = None, None
        self._lock = threading.Lock()  # of its own: one source may read another one's captions

    def __getstate__(self):
        """All but the lock, which no other process can take."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state):
        vars(self).update(state, _lock=threading.Lock())

    def __call__(self, i: int) -> str:
        return self.several(i)[0]

    def several(self, i: int) -> list[str]:
        """All captions of example i, at least one."""
        text = self.read(i) if self.read and self._texts is None else self.stored[i]
        return text.split(BETWEEN)

    @property
    def stored(self) -> Texts:
        """Captions of all examples, several of one example `joined`; errors as of `texts`."""
        with self._lock:
            if self._texts is None:
                self._texts = self.read_all()
        return self._texts

    @property
    def texts(self) -> Texts:
        """All captions, of several the first.

        Raises:
          ValueError: one of them is missing or cannot be read.
        """
        texts = self.stored
        with self._lock:
            if self._firsts is None:
                several = BETWEEN.encode() in texts.buffer
                self._firsts = Texts.of(text.split(BETWEEN)[0] for text in texts) if several else texts
        return self._firsts

    def count_several(self) -> int:
        """Number of examples with several captions; reads all of them."""
        texts = self.stored
        return sum(BETWEEN in text for text in texts) if BETWEEN.encode() in texts.buffer else 0


def of(source: Any) -> Captions:
    """The captions of a `Source`, which must have some."""
    return source.caption if isinstance(source.caption, Captions) else Captions(source.caption, len(source))


def several(caption: Callable[[int], str], i: int) -> list[str]:
    """All captions of example i, of a `Source.caption`."""
    return caption.several(i) if isinstance(caption, Captions) else [caption(i)]


def read_in_threads(read: Callable[[int], str], size: int) -> Texts:
    """Calls read(0), ..., read(size - 1) in several threads, with a progress bar after 2 seconds."""

    def chunk(start):
        return [read(i) for i in range(start, min(start + CHUNK, size))]

    def texts(pool, advance) -> Iterator[str]:
        for some in pool.map(chunk, range(0, size, CHUNK)):
            yield from some
            advance(len(some))

    threads = ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1)))
    with threads as pool, progress.bar("reading the captions", size, delay=2.0) as advance:
        return Texts.of(texts(pool, advance))


def stored(path: epath.Path, digest: str, read_all: Callable[[], Texts], size: int | None = None) -> Texts:
    """Returns texts from a file, or reads them anew and writes the file.

    Args:
      path: the file. It is replaced as a whole if it is damaged or of another digest or size; a warning is logged if it
        cannot be.
      digest: of the files that the texts come from, and of which of them are used.
      read_all: returns the texts.
      size: number of texts; None of any number.
    """
    found = stored_arrays(path, digest, lambda: read_all().arrays(), "captions", size and {"ends": size})
    return Texts.from_arrays(found)


def stored_arrays(
    path: epath.Path, digest: str, make: Callable[[], dict], what: str, sizes: dict[str, int] | None = None
) -> dict:
    """Returns arrays from a file, or makes them anew and writes the file.

    Args:
      path: the file, see `stored`.
      digest: of all that they are made of.
      make: returns the arrays by name.
      what: plural name of what they are, for the log.
      sizes: lengths that some of them must have; None of any.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # zipfile verifies checksums
            if arrays["digest"] == digest and all(len(arrays[name]) == size for name, size in (sizes or {}).items()):
                return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent or damaged
        pass
    found = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as file:
            np.savez(file, digest=digest, **found)
    except OSError as error:
        log.warning("the %s are not stored, and the next start reads them again (%s)", what, error)
    return found
