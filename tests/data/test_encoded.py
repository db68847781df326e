"""Encoded examples: what is written is read again, and what is not whole is not taken for it."""

import numpy as np
import pytest

from jaxdiff import data
from jaxdiff.data import Source, encoded


def made(i):
    rng = np.random.default_rng(i)
    return {
        "image": rng.normal(size=(2, 3, 4)).astype(np.float16),
        "context": rng.normal(size=(5, 6)).astype(np.float16),
        "label": np.int32(i),
    }


@pytest.fixture
def source():
    return Source(lambda i: {"image": np.zeros([8, 12, 3], np.uint8)}, 5, (8, 12, 3), classes=tuple("abcde"))


def written(folder, count, size=3):
    """Examples, in files of three."""
    for part in encoded.shards(count, size):
        encoded.write_shard(folder, part, map(made, part.examples))
    encoded.mark_complete(folder, count)


def test_parts_are_read_in_order(tmp_path, source):
    first, second = encoded.shards(5, 3)  # as two processes write them
    for part in (second, first):
        assert not encoded.has_shard(tmp_path, part) and not encoded.is_complete(tmp_path)
        encoded.write_shard(tmp_path, part, map(made, part.examples))
        assert encoded.has_shard(tmp_path, part)
    encoded.mark_complete(tmp_path, 5)
    assert encoded.is_complete(tmp_path) and not list(tmp_path.glob("*.tmp"))
    again = encoded.load(tmp_path, source)
    assert (len(again), again.image_shape, again.classes) == (5, (2, 3, 4), source.classes)
    for i in range(5):
        for name, value in made(i).items():
            np.testing.assert_array_equal(again[i][name], value)
        assert again[i]["image"].dtype == again[i]["context"].dtype == np.float32 and again[i]["label"].shape == ()


def test_what_fails_leaves_nothing(tmp_path):
    def failing():
        yield made(0)
        raise OSError("no disk")

    (part,) = encoded.shards(5)
    with pytest.raises(OSError, match="no disk"):
        encoded.write_shard(tmp_path, part, failing())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_lacks_a_file_is_not_whole(tmp_path):
    first, _ = encoded.shards(encoded.SHARD_SIZE + 1)
    encoded.write_shard(tmp_path, first, map(made, range(2)))
    with pytest.raises(FileNotFoundError, match=r"000001\.array_record was not written: set TFDS_DATA_DIR"):
        encoded.mark_complete(tmp_path, encoded.SHARD_SIZE + 1)
    assert not encoded.is_complete(tmp_path)


def test_they_reach_the_batches(tmp_path, source):
    written(tmp_path, 5)
    batch = next(data.batches(encoded.load(tmp_path, source), 5, labels=True, contexts=True))
    order = batch["example"][0]
    np.testing.assert_array_equal(batch["image"][0], np.stack([made(i)["image"] for i in order]))
    np.testing.assert_array_equal(batch["cond"].context[0], np.stack([made(i)["context"] for i in order]))
    np.testing.assert_array_equal(batch["cond"].label[0], order)


def test_other_numbers_of_examples_are_refused(tmp_path, source):
    written(tmp_path, 4)
    with pytest.raises(ValueError, match="holds 4 examples, and the data has 5: remove it"):
        encoded.load(tmp_path, source)
