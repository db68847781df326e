"""The order of examples: a function of seed and step, whatever the processes."""

import itertools

import numpy as np
import pytest

from jaxdiff import data


class Source:
    """Ten examples whose single pixel is their number."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return {"image": np.full((1, 1, 1), i, np.uint8), "label": i % 3}


def take(n, **options):
    return list(itertools.islice(data.batches(Source(), 5, **options), n))


def numbers(batches):
    return np.concatenate([b["image"].reshape(-1) for b in batches])


def test_every_epoch_sees_everything_once_in_another_order():
    seen = numbers(take(6)).reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in seen.tolist())
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 3


def test_seed_decides_the_order():
    np.testing.assert_array_equal(numbers(take(4)), numbers(take(4)))
    assert numbers(take(4)).tolist() != numbers(take(4, seed=1)).tolist()


def test_index_is_the_position():
    np.testing.assert_array_equal(np.concatenate([b["index"].ravel() for b in take(4)]), np.arange(20))


def test_starts_at_any_step():
    np.testing.assert_array_equal(numbers(take(2, start_step=3)), numbers(take(5))[15:])


def test_steps_per_call_changes_the_shape_only():
    stacked = take(2, steps_per_call=2)
    assert stacked[0]["image"].shape == (2, 5, 1, 1, 1) and stacked[0]["index"].shape == (2, 5)
    np.testing.assert_array_equal(numbers(stacked), numbers(take(4)))


def test_processes_share_out_each_batch():
    alone = take(4)
    parts = [take(4, process_index=p, process_count=5) for p in range(5)]
    for step in range(4):
        indices = np.concatenate([part[step]["index"].ravel() for part in parts])
        images = np.concatenate([part[step]["image"].ravel() for part in parts])
        np.testing.assert_array_equal(images[np.argsort(indices)], alone[step]["image"].ravel())
        assert sorted(indices) == list(range(5 * step, 5 * step + 5))


def test_labels_on_request():
    batch = take(1, labels=True)[0]
    np.testing.assert_array_equal(batch["cond"].label, batch["image"].reshape(1, 5) % 3)
    assert "cond" not in take(1)[0]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide by 2 processes"):
        take(1, process_count=2)
