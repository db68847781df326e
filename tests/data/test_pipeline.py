"""The order of examples: a function of seed and step, whatever the processes."""

import functools
import itertools
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff import data
from jaxdiff.data import derived


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


def test_batches_of_one():
    one = data.batches(Source(), 1)
    assert [next(one)["index"].tolist() for _ in range(2)] == [[[0]], [[1]]]


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


def pictures(batches):
    return np.concatenate([b["image"].reshape(-1, *b["image"].shape[2:]) for b in batches])


class Arrows:
    """Forty examples that are not their own mirror images."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return {"image": np.array([[[i], [100], [i + 200]]], np.uint8)}


def flipped(n, **options):
    """Which examples came mirrored, in the order of the whole; checks that each is itself or its mirror image."""
    found = list(itertools.islice(data.batches(Arrows(), 8, flip=True, **options), n))
    image, example = pictures(found)[:, 0, :, 0], np.concatenate([b["example"].ravel() for b in found])
    mirrored = image[:, 0] >= 200
    upright = np.where(mirrored[:, None], image[:, ::-1], image)
    np.testing.assert_array_equal(upright, np.stack([example, np.full(len(example), 100), example + 200], 1))
    order = np.argsort(np.concatenate([b["index"].ravel() for b in found]))
    return mirrored[order]


def test_flips_half_anew_in_each_epoch():
    mirrored = flipped(500)  # 100 epochs: 4000 throws of a coin, whose standard deviation is 0.8%
    assert abs(mirrored.mean() - 0.5) < 0.04
    epochs = mirrored.reshape(100, 40)
    assert len({tuple(epoch) for epoch in epochs}) == 100
    found = list(itertools.islice(data.batches(Arrows(), 8, flip=True), 500))
    image, example = pictures(found)[:, 0, 0, 0], np.concatenate([b["example"].ravel() for b in found])
    share = np.array([(image[example == i] >= 200).mean() for i in range(40)])  # of each example, over the epochs
    assert 0.25 < share.min() and share.max() < 0.75


@pytest.mark.parametrize("processes", [2, 4])
def test_flips_do_not_depend_on_the_number_of_processes(processes):
    parts = [flipped(10, process_index=p, process_count=processes) for p in range(processes)]
    together = np.stack(parts, 1).ravel()  # position n P + p is the n-th of process p
    np.testing.assert_array_equal(together, flipped(10))


def test_flips_do_not_depend_on_the_start_the_threads_or_the_calls():
    expected = flipped(12)
    np.testing.assert_array_equal(flipped(5, start_step=7), expected[56:])
    np.testing.assert_array_equal(flipped(12, num_threads=7), expected)
    np.testing.assert_array_equal(flipped(4, steps_per_call=3), expected)
    assert (flipped(12, seed=1) != expected).any()


def test_flips_leave_the_order_alone():
    np.testing.assert_array_equal(
        np.stack([b["example"] for b in take(4, flip=True)]), np.stack([b["example"] for b in take(4)])
    )


def test_example_says_which_it_is():
    for batch in take(4, steps_per_call=2):
        np.testing.assert_array_equal(batch["example"], batch["image"][..., 0, 0, 0])
        assert batch["example"].dtype == np.uint32 and batch["example"].shape == (2, 5)


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_threads_change_nothing(threads):
    np.testing.assert_array_equal(numbers(take(6, num_threads=threads)), numbers(take(6)))


class Broken(Source):
    """Ten examples, of which the fourth cannot be read."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, i):
        if i == 3:
            raise self.error
        return super().__getitem__(i)


@pytest.mark.parametrize("error", [ValueError("a.png is broken"), FileNotFoundError("a.png is gone")])
def test_what_a_reader_raises_reaches_the_consumer(error):
    stream = data.batches(Broken(error), 5, num_threads=3)
    step = next(i for i, batch in enumerate(data.batches(Source(), 5)) if 3 in batch["example"])
    good = [next(stream) for _ in range(step)]
    assert len(good) == step
    with pytest.raises(type(error)) as caught:
        next(stream)
    assert str(caught.value) == str(error)


def test_missing_labels_are_refused_at_once():
    with pytest.raises(ValueError, match="the examples have no labels"):
        data.batches([{"image": np.zeros([1, 1, 1], np.uint8)}], 1, labels=True)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="there are no examples"):
        data.batches([], 1)


def test_further_arrays_of_a_source_come_along():
    """A ControlNet's picture becomes a condition, others keep their names, beside the example that they are of."""
    source = derived.with_prior(*(data.Source(functools.partial(pixel, first), 3, (1, 1, 1)) for first in (0, 100)))
    batch = next(data.batches(source, 6, seed=1))
    np.testing.assert_array_equal(batch["prior"][0], batch["image"].reshape(-1) >= 100)
    assert "cond" not in batch
    told = derived.with_control(data.Source(functools.partial(pixel, 0), 3, (1, 1, 1)), "thumbnail")
    batch = next(data.batches(told, 3))
    np.testing.assert_array_equal(batch["cond"].control[..., 0].reshape(-1), batch["image"].reshape(-1))
    assert batch["cond"].control.shape == (1, 3, 1, 1, 3) and batch["cond"].context is None


def pixel(first, i):
    return {"image": np.full((1, 1, 1), first + i, np.uint8)}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"start_step": -1}, "`start_step`=-1 must be from 0"),
        ({"start_step": 10**15}, "`start_step`=1000000000000000 must be from 0"),
        ({"process_index": 5, "process_count": 2}, "`process_index`=5 must be from 0 to 1"),
        ({"process_index": -1, "process_count": 2}, "`process_index`=-1 must be from 0 to 1"),
        ({"process_count": 0}, "`process_count`=0"),
        ({"batch_size": 0}, "`batch_size`=0"),
        ({"steps_per_call": 0}, "`steps_per_call`=0"),
    ],
)
def test_positions_that_are_none_are_refused(options, message):
    source = [{"image": np.zeros([2, 2, 1], np.uint8)}] * 6
    with pytest.raises(ValueError, match=message):
        next(data.batches(source, **{"batch_size": 2} | options))


def test_worker_processes_give_the_same_batches(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(tmp_path / f"{i:02}.png")
    source = data.sized(data.load(f"folder:{tmp_path}", (8, 8, 3)), random_crop=True)
    found = []
    for workers in (0, 2):
        stream = data.batches(source, 4, steps_per_call=2, start_step=2, flip=True, num_workers=workers)
        found.append([next(stream) for _ in range(3)])
        stream.close()
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_sources_that_workers_cannot_be_sent_are_refused():
    lock = threading.Lock()
    source = data.Source(lambda i: lock and {}, 3, (2, 2, 1))
    with pytest.raises(ValueError, match=r"`num_workers` \(in training `data.workers`\) is not for this source"):
        data.batches(source, 1, num_workers=1)
    with pytest.raises(ValueError, match="`num_workers`"):
        data.batches(source, 1, num_workers=-1)
