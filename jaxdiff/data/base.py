"""Sources of examples, and the registry of those that are chosen by name."""

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.arguments import check_count, plain
from jaxdiff.data import captions
from jaxdiff.registry import Choice, Registry

MEMORY = 2**31  # bytes of decoded images that are kept


class Once:
    """A function without arguments that is called once, and whose result is kept; other processes can be sent it."""

    def __init__(self, function: Callable[[], Any]):
        self.function = function

    def __call__(self):
        if self.function is not None:
            self.result, self.function = self.function(), None
        return self.result


class Buckets(NamedTuple):
    """Shapes of the images of a source whose batches are of one shape each.

    Attributes:
      shapes: H, W and C of each.
      of: index of the shape of each example, uint8 [N].
    """

    shapes: tuple[tuple[int, int, int], ...]
    of: np.ndarray


class _Sources(Registry):
    """The registry of data sources, whose error for an unknown name proposes folders and data sets, too."""

    def parse(self, text: str) -> Choice:
        self._check_name(text)
        if text.partition(":")[0] not in self:
            from jaxdiff.data.sources import unknown

            raise unknown(text)
        return super().parse(text)


SOURCES = _Sources("data source")
"""Functions (image_shape, **options) -> `Source` by kind; the first option is the text behind the colon of "KIND:TEXT".

Traits: judge, the classifier that ships for its images, which learned from a split that no generator has seen; named, False
for a kind that no name opens.
"""


CALLED = "caption", "contents", "fingerprint", "hard_negative", "encoded", "where", "label"  # functions of a `Source`


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples with random access: `len(source)` of them, `source[i]` is a dict of arrays.

    An example has an "image", uint8 [H, W, C], a "label", int, if there are `classes`, and a "caption", str, if the source
    is `captioned`.

    Attributes:
      read: returns example i, with or without its caption; called from several threads at once.
      size: number of examples.
      image_shape: H, W and C.
      classes: names of the labels 0, 1, ...; () without labels.
      no_labels_reason: reason for having no labels, for error messages.
      skipped: paths of the files that were left out because they cannot be read.
      identity: checksum of the examples and their order, such as of their names.
      caption: returns the caption of example i, or raises ValueError if it has none; None without captions. A `Captions`
        also reads all of them at once, and may have several of an example, of which this is the first.
      no_captions_reason: reason for having no captions, for error messages.
      contents: returns a checksum of the files that are read, by which they are known where they have moved; 0 of none.
      fingerprint: returns a digest of the names, sizes and times of the files that are read; "" if the examples of one
        identity never change.
      hard_negative: (example, NumPy generator) -> a wrong caption that differs from the right one in one word; None if the
        source makes none.
      encoded: returns the image file of example i, as it lies in the data; None where there is none.
      where: returns the name of the file of example i, or its place in one; None where examples have numbers alone.
      encoded_by: digests of the models that encoded the images and captions, by what they encode; {} of records of images
        as they are, None of other sources.
      label: returns the label of example i without reading its image; None where that is not known before.
      fitted: (i, image_shape, centre) -> example i with its image cropped and resized to another shape, around a place in
        it, see `image_decode.decode`; None where images have one size.
      buckets: shapes of the images, where they are of several.
      crops: whether `read` takes the centre of a crop as a second argument, too.
      extra_arrays: names of further arrays of each example that batches carry. "control", the image that a ControlNet is
        conditioned on, becomes `Cond.control`; others, such as the "prior" of DreamBooth, keep their names.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import data
        >>> grey = data.Source(lambda i: {"image": np.full([2, 2, 1], i, np.uint8)}, size=3, image_shape=(2, 2, 1))
        >>> len(grey), grey.classes, [int(example["image"].max()) for example in grey]
        (3, (), [0, 1, 2])
    """

    read: Callable[[int], dict] = dataclasses.field(repr=False)
    size: int
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ()
    no_labels_reason: str = dataclasses.field(default="the data set has no labels", repr=False)
    skipped: tuple[str, ...] = ()
    identity: int = 0
    contents: Callable[[], int] = dataclasses.field(default=int, repr=False)
    caption: Callable[[int], str] | None = dataclasses.field(default=None, repr=False)
    no_captions_reason: str = dataclasses.field(default="the data set has no captions", repr=False)
    fingerprint: Callable[[], str] = dataclasses.field(default=str, repr=False)
    hard_negative: Callable[[dict, np.random.Generator], str] | None = dataclasses.field(default=None, repr=False)
    extra_arrays: tuple[str, ...] = ()
    encoded: Callable[[int], bytes] | None = dataclasses.field(default=None, repr=False)
    where: Callable[[int], str] | None = dataclasses.field(default=None, repr=False)
    label: Callable[[int], int] | None = dataclasses.field(default=None, repr=False)
    encoded_by: dict[str, str] | None = dataclasses.field(default=None, repr=False)
    fitted: Callable[..., dict] | None = dataclasses.field(default=None, repr=False)
    buckets: Buckets | None = dataclasses.field(default=None, repr=False)
    crops: bool = False

    def __len__(self) -> int:
        return self.size

    def __post_init__(self):
        check_count("size", self.size, least=0)
        for name in ("read", *CALLED):
            given = getattr(self, name)
            if not callable(given) and (name == "read" or given is not None):
                raise TypeError(f"`{name}` must be a function, not {type(given).__name__}")
        shape = plain(self.image_shape)
        if not isinstance(shape, tuple) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(
                f"`image_shape`={self.image_shape!r} must be height, width and channels, such as (28, 28, 1)"
            )
        if isinstance(self.classes, str):
            raise ValueError(f"`classes`={self.classes!r} must be a sequence of names, not one text")

    def __getitem__(self, i: int) -> dict:
        if not hasattr(i, "__index__"):
            raise TypeError(
                f"a source has examples by number, not by {type(i).__name__}: [source[i] for i in range(2)]"
            )
        i = operator.index(i)
        if not 0 <= i < self.size:
            raise IndexError(f"there is no example {i} among {self.size}")
        example = self.read(i)
        return example if self.caption is None or "caption" in example else example | {"caption": self.caption(i)}

    def shape_of(self, i: int) -> tuple[int, int, int]:
        """H, W and C of the image of example i."""
        return self.image_shape if self.buckets is None else self.buckets.shapes[self.buckets.of[i]]

    @property
    def captioned(self) -> bool:
        """Whether examples have captions."""
        return self.caption is not None

    def captions(self) -> Sequence[str]:
        """All captions, in the order of the examples, read by several threads; a `Captions` reads them only once.

        Raises:
          ValueError: an example has no caption, or none has.

        Example::

            >>> import numpy as np
            >>> from jaxdiff import data
            >>> black = {"image": np.zeros([2, 2, 1], np.uint8)}
            >>> list(data.Source(lambda i: black, 2, (2, 2, 1), caption=lambda i: f"image {i}").captions())
            ['image 0', 'image 1']
        """
        if self.caption is None:
            raise ValueError(self.no_captions_reason)
        return captions.of(self).texts


def cached(source: Source, limit: int = MEMORY) -> Source:
    """The same examples, each read and decoded once and kept in memory, if all images fit into `limit` bytes.

    Args:
      source: any source.
      limit: bytes of decoded images.

    Returns:
      A source of the same examples with read-only images, or `source` itself if they are larger than `limit` or cropped
      anew each time.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data.base import Source, cached
        >>> reads = []
        >>> grey = Source(lambda i: reads.append(i) or {"image": np.zeros([2, 2, 1], np.uint8)}, 3, (2, 2, 1))
        >>> in_memory = cached(grey)
        >>> [in_memory[i]["image"].shape for i in (0, 2, 0, 0)] == [(2, 2, 1)] * 4, reads
        (True, [0, 2])
        >>> cached(grey, limit=11) is grey  # the images take 12 bytes
        True
    """
    largest = max(source.buckets.shapes if source.buckets else [source.image_shape], key=math.prod)
    if source.crops or source.size * math.prod(largest) > limit:
        return source
    examples = [None] * source.size

    def read(i):
        if examples[i] is None:  # two threads may both read it, which does no harm
            example = source.read(i)
            example["image"].flags.writeable = False
            examples[i] = example
        return examples[i]

    return dataclasses.replace(source, read=read)
