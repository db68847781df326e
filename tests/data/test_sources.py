"""Which source a name means, and what every source offers."""

import numpy as np
import pytest

from jaxdiff import data


@pytest.mark.parametrize(
    "name, meant",
    [
        ("digit", "digits"),
        ("digts:judge", "digits:judge"),
        ("cifar10", "tfds:cifar10"),
        ("cifar10:3.0.2:test[:5]", "tfds:cifar10:3.0.2:test[:5]"),
        ("tdfs:cifar10", "tfds:cifar10"),
        ("flder:photos", "folder:photos"),
        ("photos", "folder:photos"),
        ("./photos/", "folder:./photos/"),
        ("gs://bucket/photos", "folder:gs://bucket/photos"),
        ("", "digits"),
    ],
)
def test_unknown_sources_say_what_was_meant(name, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError) as error:
        data.load(name)
    known = "(one of digits[:SPLIT], outlined[:SPLIT], captioned[:SPLIT], tfds:NAME[:SPLIT], folder:PATH)"
    assert str(error.value) == f"unknown source {name!r}: did you mean {meant!r}? {known}"


def test_a_source_is_a_sequence():
    source = data.Source(lambda i: {"image": np.full([1, 1, 1], i, np.uint8)}, 3, (1, 1, 1))
    assert len(source) == 3 and [example["image"].item() for example in source] == [0, 1, 2]
    for i in (-1, 3):
        with pytest.raises(IndexError, match=f"no example {i} among 3"):
            source[i]


def test_a_source_without_classes_has_no_labels():
    source = data.Source(lambda i: {"image": np.zeros([1, 1, 1], np.uint8)}, 3, (1, 1, 1))
    with pytest.raises(ValueError, match="the data set has no labels"):
        data.batches(source, 3, labels=True)


def test_digits_of_another_shape():
    assert data.load("digits").image_shape == data.load("digits", (28, 28, 1)).image_shape == (28, 28, 1)
    with pytest.raises(ValueError) as error:
        data.load("digits", (32, 32, 1))
    assert str(error.value) == (
        "the images of digits are 28x28x1, and --data.image-shape says 32x32x1: --data.resize would fit them"
    )
    small, whole = data.load("digits", (14, 14, 3), resize=True), data.load("digits")
    assert small.image_shape == (14, 14, 3) and small[0]["image"].shape == (14, 14, 3)
    averages = whole[0]["image"].reshape(14, 2, 14, 2).mean((1, 3))
    assert np.abs(small[0]["image"] - averages[..., None]).mean() < 8


def test_shapes_that_no_image_has_are_refused():
    with pytest.raises(ValueError, match="image_shape=28x28x2 must be"):
        data.load("digits", (28, 28, 2), resize=True)
