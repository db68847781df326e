"""Paths of data that is prepared once and used at each start."""

import hashlib
import os

from etils import epath

from jaxdiff.paths import as_path


def data_dir() -> epath.Path:
    """Directory of prepared data sets: the environment variable TFDS_DATA_DIR, or else ~/tensorflow_datasets.

    Raises:
      FileNotFoundError: there is neither.
      ValueError: the variable is an address that is no path.
    """
    if asked := os.environ.get("TFDS_DATA_DIR"):
        return as_path(asked)
    found = epath.Path("~/tensorflow_datasets").expanduser()
    if os.fspath(found).startswith("~"):
        raise FileNotFoundError(
            "there is no home directory for prepared data: set the environment variable TFDS_DATA_DIR"
        )
    return found


def index_file(folder: epath.PathLike) -> epath.Path:
    """File in `data_dir()` that stores captions of a folder between starts."""
    folder = os.fspath(folder)
    folder = folder if "://" in folder else os.path.realpath(folder)
    return data_dir() / "index" / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.npz"
