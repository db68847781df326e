"""What every source of examples offers."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples at random access: `len(source)` of them, `source[i]` being {"image": uint8 [H, W, C], "label": int}.

    There is a "label", a position in `classes`, only where there are classes.

    Attributes:
      read: gives example i; it is called from several threads at once.
      size: number of examples.
      image_shape: H, W and C.
      classes: names of the labels; () where there are none.
      unlabelled: why there are none, for the error that says so.
      skipped: files that were left out because they cannot be read.

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
    unlabelled: str = dataclasses.field(default="the data set has no labels", repr=False)
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict:
        if not 0 <= i < self.size:
            raise IndexError(f"there is no example {i} among {self.size}")
        return self.read(i)
