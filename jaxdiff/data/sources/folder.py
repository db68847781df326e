"""Image files below a folder, with captions beside them."""

import functools
import logging
import os
import zlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from jaxdiff.data import broken, caption_tables
from jaxdiff.data.base import SOURCES, Once, Source
from jaxdiff.data.caption_files import IMAGE_ENDINGS, captions_of
from jaxdiff.data.listing import Listing, list_files
from jaxdiff.files import read_regular
from jaxdiff.paths import as_path

log = logging.getLogger("jaxdiff")

SPLITS = {"test", "validation", "valid", "val", "dev"}  # beside train
LOOKED_INTO = 32  # images, by which a folder is known
COMPANIONS = (".caption", ".csv", ".json", ".jsonl", ".md", ".npz", ".safetensors", ".txt", ".yaml", ".yml")


@SOURCES.register("folder")
def load(
    image_shape: tuple[int, int, int] | None, path: str = "", skip_broken: bool = False, to_srgb: bool = True
) -> Source:
    """The PNG, JPEG, WebP, AVIF, GIF, BMP and TIFF files below a folder, cropped and resized to one shape.

    Labels are the names of the folders at the first level, if all images lie in one. A caption is the text of the .txt or
    .caption file beside the image, or "caption", "text", "prompt" or "captions" of the .json file; or "text" or "caption"
    of the line of the nearest `metadata.jsonl` or `metadata.csv` above it whose "file_name" is the image's path from there.

    Args:
      image_shape: height, width and channels of the images.
      path: the folder, on a disk or on gs://.
      skip_broken: look through all files and leave out those that cannot be read, lines of metadata that are none, and
        images that no line names; the log has their names.
      to_srgb: convert colours by the profile in each file, such as the Display P3 of phones, see `jaxdiff.data.colours`.

    Raises:
      ValueError: no `image_shape`, or no image of these formats.
      OSError: the folder is not there.
    """
    if not path:
        raise ValueError("folder: must be folder:PATH, such as folder:photos")
    if image_shape is None:
        raise ValueError(f"the images of folder:{path} have no shape of their own: set `image_shape`")
    root = as_path(path)
    files = listed(root)
    images, left_out = image_files(files, root), {}
    if skip_broken:
        decoded = functools.partial(_decoded, root, images.names, to_srgb)
        left_out = broken.find(lambda i: decoded(i, image_shape), len(images.names))
        broken.warn(left_out, len(images.names), os.fspath(root))
        left_out = {images.names[i]: error for i, error in left_out.items()}
        images = images.take(np.array([i for i, name in enumerate(images.names) if name not in left_out]))
        images, without = with_lines(images, files, root)
        left_out |= without
    warn_of_splits(images.names, root)
    classes, no_labels_reason = classes_of(images.names, root)
    caption, no_captions_reason = captions_of(images, files, root, skip_broken)
    fingerprint, fitted = images.digest(), functools.partial(_read, root, images.names, classes, to_srgb)
    return Source(
        lambda i: fitted(i, image_shape),
        len(images.names),
        image_shape,
        classes,
        no_labels_reason,
        skipped=tuple(os.fspath(root / name) for name in left_out),
        identity=zlib.crc32("\n".join(images.names).encode("utf-8", "surrogatepass")),
        contents=Once(functools.partial(contents_of, root, images)),
        caption=caption,
        no_captions_reason=no_captions_reason,
        fingerprint=lambda: fingerprint,
        encoded=lambda i: read_regular(root / images.names[i]),
        where=lambda i: images.names[i],
        label=functools.partial(_label, images.names, classes) if classes else None,
        fitted=fitted,
    )


def with_lines(images: Listing, files: Listing, root: epath.Path) -> tuple[Listing, dict[str, str]]:
    """The images that a readable line of metadata names, and what is wrong with the others, by their names; logs a warning.

    Raises:
      ValueError: no image is left.
    """
    tables, bad = caption_tables.tables(files.names), []
    if not tables or (caption_tables.beneath(images.names, tables) < 0).any():
        return images, {}
    texts = caption_tables.read(root, tables, images.names, files.names, bad)
    sizes = np.diff(np.frombuffer(texts.ends, np.int64), prepend=0)
    if bad:
        more = "; ..." if len(bad) > 3 else ""
        log.warning("%d lines or images of %s are left out: %s%s", len(bad), root, "; ".join(bad[:3]), more)
    if not sizes.any():
        raise ValueError(f"no image in {root} has a caption: {'; '.join(bad[:3])}")
    lost = {images.names[int(i)]: "no line of metadata names it" for i in np.flatnonzero(sizes == 0)}
    return images.take(np.flatnonzero(sizes)), lost


def warn_of_splits(names: Sequence[str], root: epath.Path) -> None:
    """Logs a warning of a folder of splits, all of whose images are used."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    held_out = sorted(folders & SPLITS)
    if "train" in folders and held_out and folders <= {"train", *SPLITS}:
        log.warning(
            "%s has the splits train and %s, and all of their images are used: folder:%s/train is of train alone",
            root,
            " and ".join(held_out),
            root,
        )


def listed(root: epath.Path) -> Listing:
    """Lists the files of a folder.

    Raises:
      ValueError: the package that reads gs:// is not installed.
      OSError: the folder is not there.
    """
    try:
        if not root.is_dir():
            what = "is a file, not a folder" if root.exists() else "is not there"
            raise FileNotFoundError(f"the folder {root} {what}")
        return list_files(root)
    except ImportError as error:
        raise ValueError(f"{root} cannot be opened: {error}") from error


def image_files(files: Listing, root: epath.Path) -> Listing:
    """The image files of a folder; logs a warning of files of other kinds.

    Raises:
      ValueError: no image.
    """
    images, others = (
        np.flatnonzero(np.any([files.names.end_with(ending, any_case=True) for ending in endings], axis=0))
        for endings in (IMAGE_ENDINGS, COMPANIONS)
    )
    others = np.setdiff1d(np.arange(len(files.names)), np.concatenate([images, others]))
    read = f"only files that end in {', '.join(IMAGE_ENDINGS)} are read, in capitals or not"
    if not len(images):
        found = f" (it has {len(files.names)} such as {files.names[0]})" if len(files.names) else ""
        raise ValueError(f"there is no image in {root}{found}: {read}")
    if len(others):
        first = files.names[others[0]]
        log.warning("%d files in %s are not used, such as %s: %s", len(others), root, first, read)
    return files.take(images)


def classes_of(names: Sequence[str], root: epath.Path) -> tuple[tuple[str, ...], str]:
    """Names of the folders at the first level, numbers in their order; or (), and the reason, if an image lies outside."""
    folders, outside = set(), []
    for name in names:
        folder, slash, _ = name.partition("/")
        folders.add(folder) if slash else outside.append(name)
    if not outside:
        numbers = all(name.isdecimal() for name in folders)
        return tuple(sorted(folders, key=lambda name: (int(name), name) if numbers else name)), ""
    return (), (
        f"labels are the names of the folders in {root}, and {len(outside)} of its {len(names)} images are in none of "
        f"them, such as {outside[0]}"
    )


def contents_of(root: epath.Path, images: Listing) -> int:
    """Checksum of the names and sizes of images, and of the beginnings of some of them, which takes no long reading."""
    found = zlib.crc32(images.sizes.tobytes(), zlib.crc32(images.names.buffer))
    for i in range(0, len(images.names), max(1, len(images.names) // LOOKED_INTO)):
        if images.sizes[i] > 0:
            with (root / images.names[i]).open("rb") as file:
                found = zlib.crc32(file.read(2**16), found)
    return found


def _decoded(root, names, to_srgb, i, image_shape, *centre):
    from jaxdiff.data import image_decode

    try:
        return image_decode.read_image(root / names[i], image_shape, to_srgb, *centre)
    except ValueError as error:
        if isinstance(error.__cause__, OSError) and not broken.lasts(error.__cause__):
            raise error.__cause__ from None
        raise


def _read(root, names, classes, to_srgb, i, image_shape, *centre):
    try:
        image = _decoded(root, names, to_srgb, i, image_shape, *centre)
    except ValueError as error:
        raise ValueError(
            f"{error}: put a sound file in its place; a new run can also do without it, or leave out all such files by "
            "`skip_broken`"
        ) from error
    return {"image": image} | ({"label": _label(names, classes, i)} if classes else {})


def _label(names, classes, i):
    return classes.index(names[i].split("/")[0])
