"""Directories of data sets."""

import os

from etils import epath


def data_dir() -> epath.Path:
    """Directory of prepared data sets: the environment variable TFDS_DATA_DIR, or else ~/tensorflow_datasets."""
    return epath.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
