"""Data sources by name: random access to {"image", "label"}."""

import logging

from jaxdiff.errors import unknown

SOURCES = ("digits", "cifar10")


def load(name: str, split: str = "train"):
    """Opens a data set, preparing it first where that needs no download.

    Args:
      name: "digits" (embedded, prepared on first use) or "cifar10" (must have been prepared by tensorflow-datasets).
      split: a split of it, in tensorflow-datasets' notation.

    Returns:
      Random-access source of {"image": uint8 [H, W, C], "label": int}.

    Raises:
      ValueError: unknown name or split.
      FileNotFoundError: the data is not there.
    """
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    logging.getLogger("absl").setLevel(logging.ERROR)  # it recommends OpenCV at every start
    builder = _digits() if name == "digits" else _prepared(name)
    if split.split("[")[0] not in builder.info.splits:
        raise unknown(f"split of {name}", split, builder.info.splits)
    return builder.as_data_source(split=split)


def _digits():
    import tensorflow_datasets as tfds

    from jaxdiff.data.digits import Digits

    tfds.disable_progress_bar()
    builder = Digits(file_format="array_record")
    builder.download_and_prepare()
    return builder


def _prepared(name):
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise FileNotFoundError(f"tensorflow-datasets does not know {name}") from error
    if not builder.info.splits:
        raise FileNotFoundError(
            f"{name} is not prepared in {builder.data_dir}: on a machine with TensorFlow run "
            f"'tfds build {name} --file_format=array_record'"
        )
    return builder
