"""What every source of examples offers."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples at random access: `len(source)` of them, `source[i]` being {"image": uint8 [H, W, C], "label": int}.

    There is a "label", a position in `classes`, only where there are classes, and a "caption" only where `captioned`.
    `read` alone gives no caption, where that takes more reading.

    Attributes:
      read: gives example i; it is called from several threads at once.
      size: number of examples.
      image_shape: H, W and C.
      classes: names of the labels; () where there are none.
      no_labels_reason: why there are none, for the error that says so.
      skipped: files that were left out because they cannot be read.
      identity: a number that another set or order of examples would not have, such as a checksum of their names.
      caption: gives the caption of example i, and raises ValueError where it has none; None where there are no captions.
      files: what is read, where that may be changed under the same name: paths.
      no_captions_reason: why they have none, for the error that says so.
      hard_negative: (example, NumPy generator) -> a wrong caption that differs in one word; None if the source makes none.
      extra_arrays: names of further arrays of each example that batches carry: "control", the control image, becomes
        `Cond.control`; others, such as the "prior" of DreamBooth, keep their names.

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
    caption: Callable[[int], str] | None = dataclasses.field(default=None, repr=False)
    files: tuple = dataclasses.field(default=(), repr=False)
    no_captions_reason: str = dataclasses.field(default="the data set has no captions", repr=False)
    hard_negative: Callable[[dict, np.random.Generator], str] | None = dataclasses.field(default=None, repr=False)
    extra_arrays: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict:
        if not 0 <= i < self.size:
            raise IndexError(f"there is no example {i} among {self.size}")
        example = self.read(i)
        return example if self.caption is None or "caption" in example else example | {"caption": self.caption(i)}

    @property
    def captioned(self) -> bool:
        """Whether each example has a "caption", a text."""
        return self.caption is not None


def cached(source: Source, limit: int = 2**31) -> Source:
    """The same examples, each read and decoded once and then kept, if the images of all of them fit into `limit` bytes.

    Args:
      source: any source.
      limit: bytes of decoded images.

    Returns:
      A source of the same examples, whose images cannot be written to; or `source` itself where that is too large.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data.base import Source, cached
        >>> reads = []
        >>> grey = Source(lambda i: reads.append(i) or {"image": np.zeros([2, 2, 1], np.uint8)}, 3, (2, 2, 1))
        >>> kept = cached(grey)
        >>> [kept[i]["image"].shape for i in (0, 2, 0, 0)] == [(2, 2, 1)] * 4, reads
        (True, [0, 2])
        >>> cached(grey, limit=11) is grey  # they take 12
        True
    """
    if source.size * math.prod(source.image_shape) > limit:
        return source
    kept = [None] * source.size

    def read(i):
        if kept[i] is None:  # two threads may both read it, which does no harm
            example = source.read(i)
            example["image"].flags.writeable = False
            kept[i] = example
        return kept[i]

    return dataclasses.replace(source, read=read)
