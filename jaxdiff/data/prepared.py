"""Data sets that tensorflow-datasets has prepared, read without TensorFlow."""

import difflib
import functools
import re
import zlib

import numpy as np
import tensorflow_datasets as tfds

from jaxdiff.data import image_decode
from jaxdiff.data.base import Source
from jaxdiff.data.paths import data_dir
from jaxdiff.errors import unknown

COMMAND = "where 'pip install tensorflow apache-beam mlcroissant' has been done, run"  # all three, for `tfds` to start
# NAME[/CONFIG][:VERSION][:SPLIT], all but the last as tensorflow-datasets writes it; a split may hold colons.
NAME = re.compile(r"(?P<name>[A-Za-z]\w*(/[\w+.-]+)?)(:(?P<version>(\d+|\*)(\.(\d+|\*)){2}))?(:(?P<split>.*))?")


def parse(source: str) -> tuple[str, str, str]:
    """Takes NAME[/CONFIG][:VERSION][:SPLIT] apart into NAME[/CONFIG], version and split.

    Raises:
      ValueError: it is not of that form.

    Example::

        >>> from jaxdiff.data import prepared
        >>> prepared.parse("imagenet_resized/64x64:0.1.0:train[:80%]"), prepared.parse("cifar10")
        (('imagenet_resized/64x64', '0.1.0', 'train[:80%]'), ('cifar10', '*.*.*', 'train'))
    """
    parts = NAME.fullmatch(source)
    if not parts:
        raise ValueError(f"tfds:{source} must be tfds:NAME[:SPLIT], such as tfds:cifar10 or tfds:cifar10:train[:80%]")
    return parts["name"], parts["version"] or "*.*.*", parts["split"] or "train"


def find(name: str, version: str) -> tfds.core.DatasetBuilder:
    """The newest prepared data set of that name and version; a config may be left out where only one is prepared.

    Raises:
      ValueError: nothing of that name is known, or a config must be chosen.
      FileNotFoundError: it is not prepared, or in another format.
    """
    base, _, config = name.partition("/")
    there = prepared(base)
    fits = [(c, v) for c, v in there if c == (config or c) and tfds.core.Version(v).match(version)]
    if not fits:
        raise _not_there(name if version == "*.*.*" else f"{name}:{version}", there)
    configs = sorted({c for c, _ in fits})
    if len(configs) > 1:
        choices = " or ".join(f"tfds:{base}/{c}" for c in configs)
        raise ValueError(f"{base} is prepared in {len(configs)} configs: choose {choices}")
    _, newest = max(fits, key=lambda found: tfds.core.Version(found[1]))
    builder = tfds.builder_from_directory(data_dir() / base / configs[0] / newest)
    formats, where = builder.info.available_file_formats(), builder.data_dir
    if tfds.core.FileFormat.ARRAY_RECORD not in formats:
        raise FileNotFoundError(
            f"{name} is prepared in {where} as {', '.join(sorted(f.value for f in formats))}, which cannot be read at "
            f"random: {COMMAND} 'tfds convert_format --dataset_version_dir={where} --out_file_format=array_record'"
        )
    return builder


def prepared(base: str) -> list[tuple[str, str]]:
    """Configs ("" if there are none) and versions in which a data set is prepared."""
    folder = data_dir() / base
    found = [*folder.glob("*/features.json"), *folder.glob("*/*/features.json")]
    parts = [path.parent.relative_to(folder).parts for path in found]
    return sorted(("/".join(above), version) for *above, version in parts if tfds.core.Version.is_valid(version))


def open_split(
    builder,
    name: str,
    split: str,
    image_shape: tuple[int, int, int] | None,
    resize: bool,
    extra_labels: tuple[str, ...] = (),
) -> Source:
    """A split of a prepared data set, its images fitted to `image_shape` if `resize` says so.

    What is in `extra_labels` are class labels that examples have, too.

    Raises:
      ValueError: the split, an image feature or the shape is not there.
    """
    check_split(builder.info.splits, name, split)
    features = builder.info.features
    image, label, caption = image_feature(features, name), label_feature(features), caption_feature(features)
    labels = {name: name for name in extra_labels} | ({"label": label} if label else {})
    image_shape = resolve_shape(features[image].shape, name, image_shape, resize)
    skip = {key: tfds.decode.SkipDecoding() for key in features if isinstance(features[key], tfds.features.Image)}
    where = f"{split} of {name} in {builder.data_dir}"
    try:
        records = builder.as_data_source(split, decoders=skip, file_format="array_record")
        size = len(records)
    except RuntimeError as error:  # of the file format's reader
        raise ValueError(f"{where} cannot be opened ({error}): remove it and prepare it anew") from error
    return Source(
        functools.partial(_read, records, image, labels, caption, image_shape, not resize, where),
        size,
        image_shape,
        classes=tuple(features[label].names) if label else (),
        identity=zlib.crc32(f"{builder.info.full_name} {split}".encode()),
        caption=functools.partial(_caption, records, caption, where) if caption else None,
        no_captions_reason=f"{name} has no captions (its features are {', '.join(sorted(features))})",
        no_labels_reason=f"{name} has no labels (its features are {', '.join(sorted(features))})",
    )


def _read(records, image, labels, caption, image_shape, exact, where, i):
    try:
        record = records[i]
        example = {"image": image_decode.decode(record[image], image_shape, exact=exact)}
        example |= {"caption": record[caption].decode()} if caption else {}
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"record {i} of {where} cannot be read ({error}): remove it and prepare it anew") from error
    return example | {to: int(record[of]) for to, of in labels.items()}


def _caption(records, caption, where, i):
    try:
        return records[i][caption].decode()
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"record {i} of {where} cannot be read ({error}): remove it and prepare it anew") from error


def check_split(splits, name: str, split: str) -> None:
    """Refuses a split that there is not, is not in the notation, or is empty.

    Raises:
      ValueError: one line that says which there are.
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


def image_feature(features, name: str) -> str:
    """The feature that is the picture: the one called "image", or the only image that there is.

    Raises:
      ValueError: there is none, several, or one that is not of 8 bits.
    """
    pictures = [key for key in features if type(features[key]) is tfds.features.Image]
    if "image" in pictures:
        pictures = ["image"]
    if len(pictures) != 1:
        raise ValueError(
            f"{name} has {len(pictures)} images in each example, not one, nor one that is called image: its features are "
            f"{', '.join(sorted(features))}"
        )
    if np.dtype(features[pictures[0]].np_dtype) != np.uint8 or len(features[pictures[0]].shape) != 3:
        raise ValueError(f"the images of {name} are not single pictures of 8 bits, and no others can be read")
    return pictures[0]


def label_feature(features) -> str | None:
    """The class label called "label", or the only class label that there is."""
    labels = [key for key in features if isinstance(features[key], tfds.features.ClassLabel) and features[key].names]
    return "label" if "label" in labels else labels[0] if len(labels) == 1 else None


def caption_feature(features) -> str | None:
    """The text called "caption" or "text"; others may be names of files, or numbers."""
    texts = [key for key in ("caption", "text") if key in features and isinstance(features[key], tfds.features.Text)]
    return texts[0] if texts else None


def resolve_shape(own, name: str, image_shape: tuple[int, int, int] | None, resize: bool) -> tuple[int, int, int]:
    """The shape that the images will have, theirs being `own`, with None for sides that vary.

    Raises:
      ValueError: they would have to be resized and are not to be, or to a shape that is not given.
    """
    if image_shape is None:
        if None in own:
            raise ValueError(f"the images of {name} vary in size: give an image_shape and resize=True")
        return image_decode.check_shape(own)
    if own != image_shape and not resize:
        are = "vary in size" if None in own else f"are {image_decode.format_shape(own)}"
        raise ValueError(
            f"the images of {name} {are}, and --data.image-shape says {image_decode.format_shape(image_shape)}: "
            "--data.resize would fit them"
        )
    return image_shape


def names() -> list[str]:
    """The data sets that tensorflow-datasets has code for."""
    return tfds.list_builders(with_community_datasets=False)


def _not_there(full, there):
    base = re.split("[/:]", full)[0]
    if base not in names() and not there:
        near = difflib.get_close_matches(base.lower(), names(), 3)
        hint = f": did you mean {' or '.join(map(repr, near))}?" if near else ""
        return ValueError(f"tensorflow-datasets does not know {base!r}, nor is it prepared in {data_dir()}{hint}")
    only = f" (only {', '.join(f'{base}/{c}:{v}' if c else f'{base}:{v}' for c, v in there)})" if there else ""
    return FileNotFoundError(
        f"{full} is not prepared in {data_dir()}{only}: {COMMAND} 'tfds build {full} --file_format=array_record'"
    )
