"""Data sets that tensorflow-datasets has prepared."""

from jaxdiff.data.base import SOURCES, Source


@SOURCES.register("tfds")
def load(image_shape: tuple[int, int, int] | None, name: str = "", resize: bool = False) -> Source:
    """A data set that tensorflow-datasets has prepared as array_record, read without TensorFlow.

    Args:
      image_shape: height, width and channels of the images; None for those of the data set.
      name: NAME[/CONFIG][:VERSION][:SPLIT] in the notation of tensorflow-datasets, such as "cifar10:test" or
        "imagenet_resized/64x64:0.1.0:train[:80%]"; the split is "train" if it is left out.
      resize: crop and resize the images to `image_shape`.

    Raises:
      ValueError: unknown name or split, or images that do not fit `image_shape`.
      FileNotFoundError: the data set is not prepared; the message has the command that prepares it.
    """
    from jaxdiff.data import prepared  # imports tensorflow-datasets

    name, version, split = prepared.parse(name)
    return prepared.open_split(prepared.find(name, version), name, split, image_shape, resize)
