"""Many short texts in little memory."""

import array
import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

CODEC = "utf-8", "surrogatepass"  # file names may hold lone surrogates
CHUNK = 2**12  # texts that `take` copies at a time
LOWER = np.arange(256, dtype=np.uint8)
LOWER[ord("A") : ord("Z") + 1] += 32


class Texts(Sequence):
    """Immutable sequence of strings in one UTF-8 buffer; each takes 8 bytes more than its text.

    Attributes:
      buffer: the texts, one after the other.
      ends: for each text the position behind it in `buffer`.

    Example::

        >>> from jaxdiff.data.texts import Texts
        >>> colours = Texts.of(["red", "grün", ""])
        >>> colours[1], list(colours), colours[:2], len(colours.buffer)
        ('grün', ['red', 'grün', ''], ['red', 'grün'], 8)
    """

    def __init__(self, buffer: bytes, ends: array.array):
        self.buffer, self.ends = buffer, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Stores texts, of which an iterator may deliver one at a time."""
        buffer, ends = bytearray(), array.array("q")
        for text in texts:
            buffer += text.encode(*CODEC)
            ends.append(len(buffer))
        return cls(bytes(buffer), ends)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> "Texts":
        """Texts of what `arrays` has returned."""
        return cls(arrays[f"{prefix}buffer"].tobytes(), array.array("q", arrays[f"{prefix}ends"].tobytes()))

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """The texts as two arrays, such as for `numpy.savez`.

        Example::

            >>> from jaxdiff.data.texts import Texts
            >>> list(Texts.from_arrays(Texts.of(["a", "bc"]).arrays("name_"), "name_"))
            ['a', 'bc']
        """
        return {
            f"{prefix}buffer": np.frombuffer(self.buffer, np.uint8),
            f"{prefix}ends": np.frombuffer(self.ends, np.int64),
        }

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"there is no text {i} among {len(self)}")
        i %= len(self)
        return self.buffer[self.ends[i - 1] if i else 0 : self.ends[i]].decode(*CODEC)

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self.ends:
            yield self.buffer[start:end].decode(*CODEC)
            start = end

    def _bounds(self):
        """Positions before and behind each text, int64 [N]."""
        ends = np.frombuffer(self.ends, np.int64)
        return np.concatenate([[0], ends[:-1]]), ends

    def end_with(self, ending: str, any_case: bool = False) -> np.ndarray:
        """Whether each text ends with `ending`, bool [N].

        Args:
          ending: in ASCII.
          any_case: take capital letters of the texts as small ones.

        Example::

            >>> from jaxdiff.data.texts import Texts
            >>> Texts.of(["a.PNG", "b.jpg", "png"]).end_with(".png", any_case=True).tolist()
            [True, False, False]
        """
        characters, (starts, ends) = np.frombuffer(self.buffer, np.uint8), self._bounds()
        found = ends - starts >= len(ending)
        for i, wanted in enumerate(ending.encode()):
            last = characters[ends[found] - len(ending) + i]
            found[found] = (LOWER[last] if any_case else last) == wanted
        return found

    def take(self, chosen: np.ndarray, drop: np.ndarray | int = 0) -> "Texts":
        """Some of the texts, without the last `drop` bytes of each.

        Example::

            >>> import numpy as np
            >>> from jaxdiff.data.texts import Texts
            >>> list(Texts.of(["a.png", "b.jpg", "c.webp"]).take(np.array([2, 0]), np.array([5, 4])))
            ['c', 'a']
        """
        characters, (starts, ends) = np.frombuffer(self.buffer, np.uint8), self._bounds()
        starts, ends = starts[chosen], ends[chosen] - drop
        buffer = bytearray()
        for part in range(0, len(starts), CHUNK):
            first, last = starts[part : part + CHUNK], ends[part : part + CHUNK]
            before = np.cumsum(last - first) - (last - first)
            buffer += characters[np.arange((last - first).sum()) + np.repeat(first - before, last - first)].tobytes()
        return Texts(bytes(buffer), array.array("q", np.cumsum(ends - starts).tobytes()))


def positions(names: Sequence[str], some: Iterable[str]) -> np.ndarray:
    """Indices of some names among sorted names, int64; -1 for those that are not there; fast for sorted ones.

    Example::

        >>> from jaxdiff.data import texts
        >>> texts.positions(["a.png", "a.txt", "b.png", "b.txt"], ["a.txt", "b.txt", "c.txt", "a.png"]).tolist()
        [1, 3, -1, 0]
    """
    found, i = array.array("q"), 0
    for name in some:
        place = position(names, name, i)
        found.append(-1 if place is None else place)
        i = i if place is None else place + 1
    return np.array(found, np.int64)


def position(names: Sequence[str], name: str, near: int = 0) -> int | None:
    """Index of a name among sorted names; None if it is not there; fast where it is `near` or one of the next three."""
    for i in range(near, min(near + 4, len(names))):
        if names[i] == name:
            return i
    i = bisect.bisect_left(names, name)
    return i if i < len(names) and names[i] == name else None
