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


def test_parts_are_read_in_order(tmp_path, source):
    for part, numbers in enumerate([range(2), range(2, 5)]):  # as two processes write them
        fields = encoded.write_part(tmp_path, part, map(made, numbers))
        assert not encoded.is_complete(tmp_path)
    encoded.complete(tmp_path, fields, std=1.5)
    assert encoded.is_complete(tmp_path) and encoded.about(tmp_path)["std"] == 1.5
    again = encoded.load(tmp_path, source)
    assert (len(again), again.image_shape, again.classes) == (5, (2, 3, 4), source.classes)
    for i in range(5):
        for name, value in made(i).items():
            np.testing.assert_array_equal(again[i][name], value)
        assert again[i]["image"].dtype == again[i]["context"].dtype == np.float32 and again[i]["label"].shape == ()


def test_they_reach_the_batches(tmp_path, source):
    encoded.complete(tmp_path, encoded.write_part(tmp_path, 0, map(made, range(5))))
    batch = next(data.batches(encoded.load(tmp_path, source), 5, labels=True, contexts=True))
    order = batch["example"][0]
    np.testing.assert_array_equal(batch["image"][0], np.stack([made(i)["image"] for i in order]))
    np.testing.assert_array_equal(batch["cond"].context[0], np.stack([made(i)["context"] for i in order]))
    np.testing.assert_array_equal(batch["cond"].label[0], order)


def test_other_numbers_of_examples_are_refused(tmp_path, source):
    encoded.complete(tmp_path, encoded.write_part(tmp_path, 0, map(made, range(4))))
    with pytest.raises(ValueError, match="holds 4 examples, and there are 5: remove it"):
        encoded.load(tmp_path, source)


def test_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no examples"):
        encoded.write_part(tmp_path, 0, [])
