"""Paths of data that is prepared once and used at each start."""

import hashlib
import os

from etils import epath


def data_dir() -> epath.Path:
    """Directory of prepared data sets: the environment variable TFDS_DATA_DIR, or else ~/tensorflow_datasets."""
    return epath.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def index_file(folder: epath.PathLike) -> epath.Path:
    """File in `data_dir()` that stores captions of a folder between starts."""
    folder = os.fspath(folder)
    folder = folder if "://" in folder else os.path.realpath(folder)
    return data_dir() / "index" / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.npz"
