"""Sources by name, and the interface that all sources share."""

import dataclasses
import subprocess
import sys
import threading

import numpy as np
import pytest

from jaxdiff import data
from jaxdiff.data.captions import Captions
from jaxdiff.data.control_inputs import CONTROL_INPUTS


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
    known = "(one of digits[:SPLIT], captioned[:SPLIT], folder:PATH, outlined[:SPLIT], records:PATH, "
    known += "shards:PATTERN, parquet:PATTERN, arrow:PATTERN, tfds:NAME)"
    assert str(error.value) == f"unknown source {name!r}: did you mean {meant!r}? {known}"


@pytest.mark.parametrize(
    "name, options",
    [
        ("digits", {"split": "train"}),
        ("digits:test", {"split": "test"}),
        ("captioned:unseen", {"split": "unseen"}),
        ("outlined:train[:80%]", {"split": "train[:80%]"}),
        ("tfds:cifar10:3.0.2:test[:5]", {"name": "cifar10:3.0.2:test[:5]"}),
        ("folder:a:b", {"path": "a:b"}),
        ("folder:gs://bucket/photos", {"path": "gs://bucket/photos"}),
        ("folder", {"path": ""}),
    ],
)
def test_names_and_choices_are_inverse(name, options):
    choice = data.parse(name)
    assert {key: getattr(choice, key) for key in options} == options
    assert str(choice) == name and data.parse(str(choice)) == choice


def test_each_kind_has_its_own_options_alone():
    assert {kind: [option.name for option in dataclasses.fields(choice)] for kind, choice in data.SOURCES.items()} == {
        "digits": ["split", "resize"],
        "outlined": ["split", "resize"],
        "captioned": ["split", "resize"],
        "tfds": ["name", "resize"],
        "folder": ["path", "skip_broken", "to_srgb"],
        **{kind: ["pattern", "skip_broken", "to_srgb"] for kind in ("shards", "parquet", "arrow")},
        "records": ["path", "verify"],
        "own": [],
    }


def test_options_are_overridden_and_unknown_ones_refused():
    choice = data.SOURCES["digits"]("test", resize=True)
    assert data.load(choice, (14, 14, 1)).image_shape == (14, 14, 1) and len(data.load(choice, split="judge")) == 2000
    assert data.parse("digits:judge", like=choice) == data.SOURCES["digits"]("judge", resize=True)
    assert data.parse("folder:x", like=choice) == data.SOURCES["folder"]("x", skip_broken=False)
    with pytest.raises(TypeError, match="unexpected keyword argument 'skip_broken'"):
        data.load("digits", skip_broken=True)
    with pytest.raises(ValueError, match="is a control input, not a data source"):
        data.load(CONTROL_INPUTS.choice("edges"))


def test_choices_are_known_without_their_readers_and_a_source_from_outside_works_by_name():
    program = """
import sys
from jaxdiff import data
from jaxdiff.data import augment, control_inputs, derived
assert {"digits", "folder", "tfds"} <= set(data.SOURCES) and "edges" in control_inputs.CONTROL_INPUTS
assert str(data.parse("captioned:test")) == "captioned:test"
heavy = {"PIL", "array_record", "fsspec", "grain", "scipy", "tensorflow_datasets"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)

import numpy as np

@data.SOURCES.register("toy")
def toy(image_shape, num: str = "2", shade: int = 7):
    image = np.full(image_shape or (2, 2, 1), shade, np.uint8)
    return data.Source(lambda i: {"image": image}, int(num), image.shape)

@data.SOURCES.register("bare")
def bare(image_shape):
    return data.Source(lambda i: {"image": np.zeros([1, 1, 1], np.uint8)}, 1, (1, 1, 1))

assert [len(data.load(name)) for name in ("toy", "toy:3", "bare")] == [2, 3, 1]
assert data.load("toy:3", (4, 4, 3), shade=9)[2]["image"].tolist() == np.full([4, 4, 3], 9).tolist()
assert str(data.parse("bare")) == "bare"
for name, message in {"toi:3": "mean 'toy:3'? (one of ", "bare:3": "bare has no options: leave out '3'"}.items():
    try:
        data.load(name)
    except ValueError as error:
        assert message in str(error), error
        assert "toy[:NUM]" in str(error) or name == "bare:3"
    else:
        raise AssertionError(name)
assert data.batches and "grain" in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


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
        "the images of digits are 28x28x1, and `image_shape` is 32x32x1: `resize` crops and resizes them"
    )
    small, whole = data.load("digits", (14, 14, 3), resize=True), data.load("digits")
    assert small.image_shape == (14, 14, 3) and small[0]["image"].shape == (14, 14, 3)
    averages = whole[0]["image"].reshape(14, 2, 14, 2).mean((1, 3))
    assert np.abs(small[0]["image"] - averages[..., None]).mean() < 8


def test_shapes_that_no_image_has_are_refused():
    with pytest.raises(ValueError, match="`image_shape` 28x28x2 must be"):
        data.load("digits", (28, 28, 2), resize=True)


def source_of(caption, size=1000):
    return data.Source(lambda i: {"image": np.zeros([1, 1, 1], np.uint8)}, size, (1, 1, 1), caption=caption)


def test_captions_are_read_by_several_threads():
    """Each of the first two chunks waits for the other one."""
    barrier = threading.Barrier(2, timeout=20)

    def caption(i):
        if i in (0, 256):
            barrier.wait()
        return f"image {i}"

    assert list(source_of(caption).captions()) == [f"image {i}" for i in range(1000)]


def test_captions_are_read_once_and_then_kept():
    reads = []
    source = source_of(Captions(lambda i: reads.append(i) or f"image {i}", 1000))
    assert source[7]["caption"] == "image 7" and reads == [7]
    assert source.captions() is source.captions() and len(source.captions()) == 1000
    assert source[8]["caption"] == source.captions()[8] == "image 8" and sorted(reads) == sorted([7, *range(1000)])


def test_captions_made_of_other_captions_are_read_without_waiting_for_themselves():
    inner = Captions(None, 1000, lambda: [f"image {i}" for i in range(1000)])
    reader = threading.Thread(target=lambda: source_of(lambda i: inner(i).upper()).captions(), daemon=True)
    reader.start()
    reader.join(20)
    assert not reader.is_alive(), "it hangs"


def test_captions_that_are_not_there():
    def caption(i):
        if i == 600:
            raise ValueError("600.txt cannot be read")
        return ""

    with pytest.raises(ValueError, match=r"600\.txt cannot be read"):
        source_of(caption).captions()
    with pytest.raises(ValueError, match="the data set has no captions"):
        source_of(None).captions()
