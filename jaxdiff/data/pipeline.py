"""Batches in an order that is a function of the seed and the step alone."""

from collections.abc import Iterator

import grain
import numpy as np

from jaxdiff.types import Cond


def batches(
    source,
    batch_size: int,
    *,
    seed: int = 0,
    start_step: int = 0,
    steps_per_call: int = 1,
    labels: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
) -> Iterator[dict]:
    """Endless shuffled batches, reshuffled every epoch, read ahead in the background.

    The examples of step n are those at positions n B .. (n + 1) B - 1 of one global order, whatever the number of
    processes; process p of P reads positions p, p + P, ... of them.

    Args:
      source: random-access data set of {"image": uint8 [H, W, C], "label": int}, with `len` and `[i]`; "label" is read
        only with `labels`.
      batch_size: B, over all processes.
      seed: of the order.
      start_step: first step to deliver.
      steps_per_call: K, how many steps are delivered at a time.
      labels: deliver "cond" = Cond(label), int32 [K, B / P].
      process_index: p, in 0..P - 1.
      process_count: P; must divide B.
      num_threads: that read and decode.

    Yields:
      {"image": uint8 [K, B / P, H, W, C], "index": uint32 [K, B / P], the position in the global order (modulo 2^32), and
      with `labels` "cond"}, as NumPy arrays.

    Raises:
      ValueError: B does not divide by P.

    Example::

        >>> import numpy as np
        >>> from jaxdiff import data
        >>> source = [{"image": np.full([2, 2, 1], i, np.uint8), "label": i} for i in range(6)]
        >>> epoch = next(data.batches(source, 3, steps_per_call=2))  # two batches of three: every example once
        >>> sorted(epoch["image"][..., 0, 0, 0].ravel().tolist())
        [0, 1, 2, 3, 4, 5]
        >>> second = next(data.batches(source, 3, start_step=1))  # the same as the second of the two
        >>> second["index"].tolist(), bool((second["image"][0] == epoch["image"][1]).all())
        ([[3, 4, 5]], True)
    """
    if batch_size % process_count:
        raise ValueError(f"batch_size={batch_size} does not divide by {process_count} processes")

    def select(index, example):
        chosen = {"image": example["image"], "index": np.uint32(index % 2**32)}
        return chosen | ({"cond": Cond(label=np.int32(example["label"]))} if labels else {})

    order = grain.MapDataset.source(source).seed(seed).shuffle().repeat().map_with_index(select)
    mine = order[start_step * batch_size + process_index :: process_count]
    stacked = mine.batch(batch_size // process_count).batch(steps_per_call)
    return iter(stacked.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4)))
