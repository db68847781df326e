"""Data sets in the files of tensorflow-datasets: prepared, found and read without TensorFlow."""

import contextlib
import difflib
import functools
import io
import re
import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from jaxdiff import progress
from jaxdiff.data import captions, image_decode, listing
from jaxdiff.data.base import Source
from jaxdiff.data.captions import Captions
from jaxdiff.data.paths import data_dir, index_file
from jaxdiff.data.texts import Texts
from jaxdiff.errors import unknown

COMMAND = "where 'pip install tensorflow apache-beam mlcroissant' has been done, run"  # all three, for `tfds` to start
# NAME[/CONFIG][:VERSION][:SPLIT], all but the last as tensorflow-datasets writes it; a split may hold colons.
NAME = re.compile(r"(?P<name>[A-Za-z]\w*(/[\w+.-]+)?)(:(?P<version>(\d+|\*)(\.(\d+|\*)){2}))?(:(?P<split>.*))?")


def prepare(
    name: str,
    features: Mapping[str, tfds.features.FeatureConnector],
    splits: Mapping[str, Callable[[], Iterable[tuple[int, dict]]]],
    description: str,
) -> tfds.core.DatasetBuilder:
    """Writes a data set into `paths.data_dir()`, unless it is there; several processes may do so at once.

    Args:
      name: by which it is found again.
      features: of an example.
      splits: for each split a function that yields keys and examples, images being uint8 arrays.
      description: of the data set, for its metadata.

    Returns:
      A builder of the prepared data set.
    """

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features_dict = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, description=description, features=features_dict)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {split: map(_with_files, examples()) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError("each split has its own generator, see _split_generators")

    Builder.name = name
    tfds.disable_progress_bar()
    builder = Builder(file_format="array_record", data_dir=data_dir())
    try:
        builder.download_and_prepare()
    except OSError:  # another process was faster
        builder = Builder(file_format="array_record", data_dir=data_dir())
        if not builder.info.splits:
            raise
    return builder


def _with_files(keyed):
    """The example with its image as an open PNG file, which is stored as it is; TensorFlow would encode an array."""
    key, example = keyed
    file, image = io.BytesIO(), example["image"]
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    file.seek(0)
    return key, example | {"image": file}


def parse(name: str) -> tuple[str, str, str]:
    """Splits NAME[/CONFIG][:VERSION][:SPLIT] into NAME[/CONFIG], version and split.

    Raises:
      ValueError: the text has another form.

    Example::

        >>> from jaxdiff.data import prepared
        >>> prepared.parse("imagenet_resized/64x64:0.1.0:train[:80%]"), prepared.parse("cifar10")
        (('imagenet_resized/64x64', '0.1.0', 'train[:80%]'), ('cifar10', '*.*.*', 'train'))
    """
    parts = NAME.fullmatch(name)
    if not parts:
        raise ValueError(f"tfds:{name} must be tfds:NAME[:SPLIT], such as tfds:cifar10 or tfds:cifar10:train[:80%]")
    return parts["name"], parts["version"] or "*.*.*", parts["split"] or "train"


def find(name: str, version: str) -> tfds.core.DatasetBuilder:
    """Finds the newest prepared data set of a name and version.

    Args:
      name: NAME[/CONFIG]; the config may be left out if only one is prepared.
      version: with "*" for any number.

    Raises:
      ValueError: unknown name, or several configs.
      FileNotFoundError: the data set is not prepared, or in another format.
    """
    base, _, config = name.partition("/")
    available = prepared(base)
    fits = [(c, v) for c, v in available if c == (config or c) and tfds.core.Version(v).match(version)]
    if not fits:
        raise _not_prepared(name if version == "*.*.*" else f"{name}:{version}", available)
    configs = sorted({c for c, _ in fits})
    if len(configs) > 1:
        choices = " or ".join(f"tfds:{base}/{c}" for c in configs)
        raise ValueError(f"{base} is prepared in {len(configs)} configs: choose {choices}")
    _, newest = max(fits, key=lambda fit: tfds.core.Version(fit[1]))
    builder = tfds.builder_from_directory(data_dir() / base / configs[0] / newest)
    formats, folder = builder.info.available_file_formats(), builder.data_dir
    if tfds.core.FileFormat.ARRAY_RECORD not in formats:
        raise FileNotFoundError(
            f"{name} is prepared in {folder} as {', '.join(sorted(f.value for f in formats))}, which cannot be read at "
            f"random: {COMMAND} 'tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record'"
        )
    return builder


def prepared(base: str) -> list[tuple[str, str]]:
    """Prepared configs ("" without configs) and versions of a data set."""
    folder = data_dir() / base
    found = [*folder.glob("*/features.json"), *folder.glob("*/*/features.json")]
    parts = [path.parent.relative_to(folder).parts for path in found]
    return sorted(("/".join(above), version) for *above, version in parts if tfds.core.Version.is_valid(version))


def open_split(
    builder: tfds.core.DatasetBuilder,
    name: str,
    split: str,
    image_shape: tuple[int, int, int] | None,
    resize: bool,
    extra_labels: tuple[str, ...] = (),
) -> Source:
    """Opens a split of a prepared data set.

    Args:
      builder: of the data set.
      name: of the data set, for error messages.
      split: in the notation of tensorflow-datasets.
      image_shape: height, width and channels of the images; None for those of the data set.
      resize: crop and resize the images to `image_shape`.
      extra_labels: names of further class labels that examples have.

    Raises:
      ValueError: unknown split, no image feature, or images that do not fit `image_shape`.
    """
    check_split(builder.info.splits, name, split)
    features = builder.info.features
    image, label, caption = image_feature(features, name), label_feature(features), caption_feature(features)
    labels = {name: name for name in extra_labels} | ({"label": label} if label else {})
    image_shape = resolve_shape(features[image].shape, name, image_shape, resize)
    skip = {key: tfds.decode.SkipDecoding() for key in features if isinstance(features[key], tfds.features.Image)}
    place = f"{split} of {name} in {builder.data_dir}"
    try:
        records = builder.as_data_source(split, decoders=skip, file_format="array_record")
        size = len(records)
    except RuntimeError as error:  # of the reader of the file format
        raise ValueError(f"{place} cannot be opened ({error}): remove it and prepare it anew") from error
    fitted = functools.partial(_read, records, image, labels, caption, place)
    return Source(
        lambda i: fitted(i, image_shape, exact=not resize),
        size,
        image_shape,
        classes=tuple(features[label].names) if label else (),
        identity=zlib.crc32(f"{builder.info.full_name} {split}".encode()),
        caption=_captions(builder, split, records, caption, place) if caption else None,
        no_captions_reason=f"{name} has no captions (its features are {', '.join(sorted(features))})",
        no_labels_reason=f"{name} has no labels (its features are {', '.join(sorted(features))})",
        encoded=functools.partial(_file, records, image, place),
        fitted=fitted,
    )


def _read(records, image, labels, caption, place, i, image_shape, *centre, exact=False):
    with _reading([i], place):
        record = records[i]
        # Without profiles of colours, as published readers of these data sets.
        example = {"image": image_decode.decode(record[image], image_shape, exact, False, *centre)}
        example |= {"caption": record[caption].decode()} if caption else {}
    return example | {name: int(record[feature]) for name, feature in labels.items()}


def _file(records, image, place, i):
    with _reading([i], place):
        return records[i][image]


def _captions(builder, split, records, caption, place):
    """All captions of a split, stored between starts."""

    def texts(some):
        with _reading(some, place):
            return [record[caption].decode() for record in records.__getitems__(some)]

    def in_turn(advance):
        for i in range(0, len(records), captions.CHUNK):  # many at a time are read faster than one after the other
            some = texts(range(i, min(i + captions.CHUNK, len(records))))
            yield from some
            advance(len(some))

    def read_all():
        with progress.bar("reading the captions", len(records), delay=2.0) as advance:
            return Texts.of(in_turn(advance))

    def stored():
        folder = epath.Path(builder.data_dir)
        digest = f"{listing.list_files(folder).digest()} {split}"
        return captions.stored(index_file(folder / split), digest, read_all)

    return Captions(lambda i: texts([i])[0], len(records), stored)


@contextlib.contextmanager
def _reading(some, place):
    """Says of which records an error is."""
    try:
        yield
    except (ValueError, RuntimeError, IndexError) as error:
        which = f"record {some[0]}" if len(some) == 1 else f"one of the records {some[0]} to {some[-1]}"
        raise ValueError(f"{which} of {place} cannot be read ({error}): remove it and prepare it anew") from error


def check_split(splits: tfds.core.SplitDict, name: str, split: str) -> None:
    """Checks that a split exists and has examples.

    Raises:
      ValueError: unknown split, another notation, or no examples.
    """
    for part in split.split("+"):
        if (part := part.split("[")[0].strip()) not in [*splits, "all"]:
            raise unknown(f"split of {name}", part, splits)
    try:
        size = splits[split].num_examples if split != "all" else splits.total_num_examples
    except (ValueError, NotImplementedError, AssertionError):
        raise ValueError(f"{split} is no split of {name}: write such as train, train[:80%] or train+test") from None
    if not size:
        raise ValueError(f"{split} of {name} holds no examples")


def image_feature(features: tfds.features.FeaturesDict, name: str) -> str:
    """Name of the image feature: "image", or that of the only image.

    Raises:
      ValueError: no image, several, or one that is not of 8 bits.
    """
    images = [key for key in features if type(features[key]) is tfds.features.Image]
    if "image" in images:
        images = ["image"]
    if len(images) != 1:
        raise ValueError(
            f"{name} has {len(images)} images in each example, not one, nor one that is called image: its features are "
            f"{', '.join(sorted(features))}"
        )
    if np.dtype(features[images[0]].np_dtype) != np.uint8 or len(features[images[0]].shape) != 3:
        raise ValueError(f"the images of {name} are not single images of 8 bits, and no others can be read")
    return images[0]


def label_feature(features: tfds.features.FeaturesDict) -> str | None:
    """Name of the class label: "label", or that of the only class label."""
    labels = [key for key in features if isinstance(features[key], tfds.features.ClassLabel) and features[key].names]
    return "label" if "label" in labels else labels[0] if len(labels) == 1 else None


def caption_feature(features: tfds.features.FeaturesDict) -> str | None:
    """Name of the caption, "caption" or "text"; other texts may be names of files, or numbers."""
    texts = [key for key in ("caption", "text") if key in features and isinstance(features[key], tfds.features.Text)]
    return texts[0] if texts else None


def resolve_shape(
    own: tuple[int | None, int | None, int], name: str, image_shape: tuple[int, int, int] | None, resize: bool
) -> tuple[int, int, int]:
    """Shape of the decoded images.

    Args:
      own: shape of the stored images, None for sides that vary.
      name: of the data set, for error messages.
      image_shape: wanted shape; None for `own`.
      resize: whether images may be cropped and resized.

    Raises:
      ValueError: images have to be resized and `resize` is False, or sides vary and `image_shape` is None.
    """
    if image_shape is None:
        if None in own:
            raise ValueError(f"the images of {name} vary in size: set `image_shape` and `resize`")
        return image_decode.check_shape(own)
    if own != image_shape and not resize:
        stored = "vary in size" if None in own else f"are {image_decode.format_shape(own)}"
        raise ValueError(
            f"the images of {name} {stored}, and `image_shape` is {image_decode.format_shape(image_shape)}: "
            "`resize` crops and resizes them"
        )
    return image_shape


def names() -> list[str]:
    """Names of the data sets that tensorflow-datasets has code for."""
    return tfds.list_builders(with_community_datasets=False)


def _not_prepared(full, available):
    base = re.split("[/:]", full)[0]
    if base not in names() and not available:
        near = difflib.get_close_matches(base.lower(), names(), 3)
        hint = f": did you mean {' or '.join(map(repr, near))}?" if near else ""
        return ValueError(f"tensorflow-datasets does not know {base!r}, nor is it prepared in {data_dir()}{hint}")
    versions = [f"{base}/{c}:{v}" if c else f"{base}:{v}" for c, v in available]
    only = f" (only {', '.join(versions)})" if versions else ""
    return FileNotFoundError(
        f"{full} is not prepared in {data_dir()}{only}: {COMMAND} 'tfds build {full} --file_format=array_record'"
    )
