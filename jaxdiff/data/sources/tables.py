"""Tables of images: Parquet files, and data sets that Hugging Face's `datasets` has saved on a disk."""

import functools
import zlib

import numpy as np
from etils import epath

from jaxdiff.data import broken
from jaxdiff.data.base import SOURCES, Once, Source
from jaxdiff.data.captions import Captions
from jaxdiff.data.listing import Listing
from jaxdiff.data.sources.folder import contents_of
from jaxdiff.data.sources.shards import matched
from jaxdiff.data.tars import CLASSES
from jaxdiff.data.texts import Texts
from jaxdiff.files import read_json
from jaxdiff.paths import as_path


@SOURCES.register("parquet")
def parquet(
    image_shape: tuple[int, int, int] | None, pattern: str = "", skip_broken: bool = False, to_srgb: bool = True
) -> Source:
    """The images of Parquet files, cropped and resized to one shape.

    The columns are called image (bytes, or a struct with them, as Hugging Face has it), text or caption, and label. Rows
    are read with their group, and 1 GiB of images is kept: of larger data sets each example costs its group.

    Args:
      image_shape: height, width and channels of the images.
      pattern: of the files, such as data/train-*.parquet; a folder is all .parquet below it.
      skip_broken: look through all images, and leave out those that cannot be read; the log has their names.
      to_srgb: convert colours by the profile in each file, see `jaxdiff.data.colours`.

    Raises:
      ValueError: no `image_shape`, no file, files of other columns, or one that is cut or damaged.
      OSError: the folder is not there.
    """
    return _source("parquet", ".parquet", image_shape, pattern, skip_broken, to_srgb)


@SOURCES.register("arrow")
def arrow(
    image_shape: tuple[int, int, int] | None, pattern: str = "", skip_broken: bool = False, to_srgb: bool = True
) -> Source:
    """The images of a data set that `datasets.Dataset.save_to_disk` has written, cropped and resized to one shape.

    Its files are mapped into memory and read at random. Columns are as of `parquet`.

    Args:
      image_shape: height, width and channels of the images.
      pattern: the folder of the data set, or of one of its splits; or a pattern of .arrow files. On a disk. Files cache-*
        that `datasets` keeps beside are left out, unless the pattern begins so.
      skip_broken: look through all images, and leave out those that cannot be read; the log has their names.
      to_srgb: convert colours by the profile in each file, see `jaxdiff.data.colours`.

    Raises:
      ValueError: no `image_shape`, no file, files of other columns, or one that is cut or damaged.
      OSError: the folder is not there.
    """
    return _source("arrow", ".arrow", image_shape, pattern, skip_broken, to_srgb)


def _source(kind, ending, image_shape, pattern, skip_broken, to_srgb):
    from jaxdiff.data import tables  # imports pyarrow

    if not pattern:
        raise ValueError(f"{kind}: must be {kind}:PATTERN, such as {kind}:data/*{ending}")
    if image_shape is None:
        raise ValueError(f"the images of {kind}:{pattern} have no shape of their own: set `image_shape`")
    root, files = saved(pattern) if kind == "arrow" else matched(pattern, ending)
    rows = {"parquet": tables.of_parquet, "arrow": tables.of_arrow}[kind](root, list(files.names))
    if not rows.ends or not rows.ends[-1]:
        raise ValueError(f"there is no row in the {len(files.names)} files {pattern}")
    found = tables.columns(rows.schema, rows.names[0])
    chosen, skipped = np.arange(rows.ends[-1]), ()
    if skip_broken:
        left_out = broken.find(lambda i: _decoded(rows, found, to_srgb, i, image_shape), len(chosen))
        broken.warn(left_out, len(chosen), pattern)
        chosen, skipped = np.setdiff1d(chosen, [*left_out]).astype(int), tuple(map(rows.place, left_out))
    labels = _labels(rows, found, chosen)
    classes, no_labels_reason = _classes(rows, found, pattern, chosen, labels)
    caption, no_captions_reason = _captions(rows, found, chosen, pattern)
    label = (lambda i: int(labels[i])) if classes else None
    digest = files.digest()

    def fitted(i, *shape_and_centre):
        image = _read(rows, found, to_srgb, int(chosen[i]), *shape_and_centre)
        return image | ({"label": label(i)} if label else {})

    return Source(
        lambda i: fitted(i, image_shape),
        len(chosen),
        image_shape,
        classes,
        no_labels_reason,
        skipped=skipped,
        identity=zlib.crc32(chosen.tobytes(), zlib.crc32(files.names.buffer)),
        contents=Once(functools.partial(contents_of, root, files)),
        caption=caption,
        no_captions_reason=no_captions_reason,
        fingerprint=lambda: digest,
        encoded=lambda i: _file(rows, found, int(chosen[i])),
        where=lambda i: rows.place(int(chosen[i])),
        label=label,
        fitted=fitted,
    )


def saved(pattern: str) -> tuple[epath.Path, Listing]:
    """The folder and the .arrow files of a data set, those that its state.json names, in that order; see `shards.matched`.

    Raises:
      ValueError: no file, several splits, or a state.json that is none or names what is not there.
      OSError: the folder is not there.
    """
    folder = as_path(pattern)
    is_saved = folder.is_dir() and (folder / "state.json").exists()
    if folder.is_dir() and not is_saved:
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        if splits or (folder / "dataset_dict.json").exists():
            each = ", ".join(f"arrow:{pattern.rstrip('/')}/{split}" for split in splits or ["SPLIT"])
            raise ValueError(f"{pattern} holds several splits: choose one of {each}")
    root, found = matched(pattern, ".arrow")
    if is_saved:
        return root, found.take(_named(folder / "state.json", {name: i for i, name in enumerate(found.names)}))
    bases = [name.rpartition("/")[2] for name in found.names]
    kept = [i for i, base in enumerate(bases) if not base.startswith("cache-")]
    if folder.name.startswith("cache-") and not folder.is_dir():  # asked for
        return root, found
    if not kept:
        raise ValueError(
            f"there is no .arrow file {pattern} but {', '.join(bases[:3])}, which `datasets` keeps for itself"
        )
    return root, found.take(np.array(kept))


def _named(path, names):
    """Indices of the files that a state.json names, in its order."""
    try:
        named = [file["filename"] for file in read_json(path)["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not name the files of a data set ({error!r}): save it again") from None
    if missing := [name for name in named if name not in names]:
        raise ValueError(f"{path} names {missing[0]}, which is not there: save the data set again")
    return np.array([names[name] for name in named], np.int64)


def _labels(rows, found, chosen):
    """Labels of the rows that are used, int64; -1 where there is none."""
    if found.label is None:
        return None
    number = lambda value: -1 if value is None or value < 0 else min(value, 2**62)
    values = (number(value) for part in rows.column(found.label) for value in part.to_pylist())
    return np.fromiter(values, np.int64)[chosen]


def _classes(rows, found, pattern, chosen, labels):
    """Names of the labels; or () and the reason."""
    if found.label is None:
        columns = ", ".join(rows.schema.names)
        return (), f"{pattern} has no labels, which are numbers in a column label (its columns are {columns})"
    without = np.flatnonzero(labels < 0)
    if len(without):
        return (), f"{pattern} has {len(without)} rows without a label, such as {rows.place(int(chosen[without[0]]))}"
    largest = int(chosen[labels.argmax()])
    if labels.max() >= (len(found.classes) or CLASSES):
        value = f"{rows.place(largest)} has the label {rows.value(largest, found.label)}"
        if found.classes:
            raise ValueError(f"{value}, and there are names for {len(found.classes)} alone")
        raise ValueError(f"{value}, which is no class: they must be below {CLASSES:,}; give the column another name")
    return found.classes or tuple(map(str, range(labels.max() + 1))), ""


def _captions(rows, found, chosen, pattern):
    """Captions; or None and the reason."""
    if not found.text:
        columns = ", ".join(rows.schema.names)
        return None, f"{pattern} has no captions, which are in a column text or caption (its columns are {columns})"
    is_null = [part.is_null().to_numpy(zero_copy_only=False) for part in rows.column(found.text)]
    without = np.flatnonzero(np.concatenate(is_null)[chosen])
    if len(without):
        first = rows.place(int(chosen[without[0]]))
        return None, f"{pattern} has {len(without)} of {len(chosen)} rows without a caption, such as {first}"

    def read_all():
        texts = (text for part in rows.column(found.text) for text in part.to_pylist())
        is_chosen = np.zeros(rows.ends[-1], bool)
        is_chosen[chosen] = True
        return Texts.of(" ".join(text.split()) for text, used in zip(texts, is_chosen) if used)

    return Captions(None, len(chosen), read_all), ""


def _file(rows, found, i):
    from jaxdiff.data import tables

    return tables.file_of(rows.value(i, found.image), lambda: rows.place(i))


def _decoded(rows, found, to_srgb, i, image_shape, *centre):
    from jaxdiff.data import image_decode

    content = _file(rows, found, i)
    try:
        return image_decode.decode(content, image_shape, False, to_srgb, *centre)
    except ValueError as error:
        raise ValueError(f"{rows.place(i)} cannot be read ({error})") from error


def _read(rows, found, to_srgb, i, image_shape, *centre):
    try:
        return {"image": _decoded(rows, found, to_srgb, i, image_shape, *centre)}
    except ValueError as error:
        raise ValueError(f"{error}: mend it; a new run can leave out such rows by `skip_broken`") from error
