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
      source: random-access data set of {"image": uint8 [H, W, C], "label": int}.
      batch_size: B, over all processes.
      seed: of the order.
      start_step: first step to deliver.
      steps_per_call: K, how many steps are delivered at a time.
      labels: deliver `cond` = Cond(label).
      process_index: p.
      process_count: P; must divide B.
      num_threads: that read and decode.

    Yields:
      {"image": uint8 [K, B / P, H, W, C], "index": uint32 [K, B / P], the position in the global order, and with `labels`
      "cond"}, as NumPy arrays.

    Raises:
      ValueError: B does not divide by P.
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
