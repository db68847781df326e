"""The order of examples in an endless training: a function of the seed and the position alone."""

import grain
import numpy as np

from jaxdiff.data.base import Buckets

ENDLESS = 2**48  # examples


def shuffled(size: int, seed: int) -> grain.MapDataset:
    """Indices of examples, shuffled anew in every epoch.

    Args:
      size: number of examples.
      seed: of the order.
    """
    epochs = max(1, ENDLESS // size)  # without a number grain cannot make batches of one
    return grain.MapDataset.range(size).seed(seed).shuffle().repeat(epochs)


def in_buckets(buckets: Buckets, seed: int, call: int) -> grain.MapDataset:
    """Indices of examples, of which each `call` in a row are of one bucket.

    Each bucket has an endless order of its own, shuffled anew whenever all of it was seen. An epoch has those calls that
    end within its pass over their buckets, in a shuffled order; what is left of a bucket opens the next epoch, so that of
    no example is more than one pass ahead of another one of its bucket.

    Args:
      buckets: of the examples.
      seed: of the orders.
      call: number of examples, B K of K steps in one call.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import order
        >>> from jaxdiff.data.base import Buckets
        >>> of = np.array([0, 1, 0, 1, 1, 1])
        >>> seen = order.in_buckets(Buckets(((8, 8, 3), (4, 16, 3)), of), seed=0, call=2)
        >>> epoch = np.array([seen[p] for p in range(6)])
        >>> sorted(epoch.tolist()), bool((of[epoch[::2]] == of[epoch[1::2]]).all())
        ([0, 1, 2, 3, 4, 5], True)
    """
    members = [np.flatnonzero(buckets.of == b) for b in range(len(buckets.shapes))]
    # Each of a seed of its own, or buckets of one size would be in the same order.
    orders = [len(m) and shuffled(len(m), (seed + 0x9E3779B9 * (b + 1)) % 2**32) for b, m in enumerate(members)]
    place = _Calls([len(m) for m in members], seed, call)

    def example(position):
        bucket, number = place(position // call)
        return int(members[bucket][orders[bucket][number * call + position % call]])

    return grain.MapDataset.range(ENDLESS).seed(seed).map(example)


class _Calls:
    """The bucket of each call, and how many calls of that bucket were before it: (n) -> (bucket, number)."""

    def __init__(self, sizes: list[int], seed: int, call: int):
        self.sizes, self.seed, self.call, self.last = sizes, seed, call, (-1, None, None)

    def before(self, epoch: int) -> list[int]:
        """Number of calls of each bucket before an epoch."""
        return [epoch * size // self.call for size in self.sizes]

    def within(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Buckets of the calls of an epoch, and their numbers."""
        known, which, number = self.last  # replaced as a whole, for several threads ask
        if known == epoch:
            return which, number
        starts, ends = self.before(epoch), self.before(epoch + 1)
        which = np.repeat(np.arange(len(self.sizes)), np.subtract(ends, starts))
        which = np.random.default_rng([self.seed, epoch]).permutation(which)
        number = np.empty_like(which)
        for bucket, start in enumerate(starts):
            number[which == bucket] = start + np.arange((which == bucket).sum())
        self.last = epoch, which, number
        return which, number

    def __call__(self, n: int) -> tuple[int, int]:
        epoch = n * self.call // sum(self.sizes)  # not too late: of e epochs there are at most e total / call calls
        while sum(self.before(epoch + 1)) <= n:
            epoch += 1
        which, number = self.within(epoch)
        at = n - sum(self.before(epoch))
        return int(which[at]), int(number[at])
