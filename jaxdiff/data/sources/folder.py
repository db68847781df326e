"""A person's own images: the files below a folder."""

import functools
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from jaxdiff import progress
from jaxdiff.data import image_decode
from jaxdiff.data.base import Source

log = logging.getLogger("jaxdiff")

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")  # in capitals too
OTHERS = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jxl", ".tif", ".tiff")  # images too, which are not read


def load(path: str, image_shape: tuple[int, int, int] | None, skip_broken: bool) -> Source:
    """Opens the images of a folder, see `jaxdiff.data.load`.

    Raises:
      ValueError: no `image_shape`, or no image of those that are read.
      OSError: there is no such folder.
    """
    if not path:
        raise ValueError("folder: must be folder:PATH, such as folder:photos")
    if image_shape is None:
        raise ValueError(f"the images of folder:{path} have no shape of their own: give an image_shape")
    root = epath.Path(path).expanduser()
    names, others = list_images(root)
    caption, no_captions_reason = captions_of(names, others, root)
    classes, no_labels_reason = classes_of(names, root)
    broken = find_broken(root, names, image_shape) if skip_broken else {}
    report(broken, len(names), root)
    names = [name for name in names if name not in broken]
    return Source(
        functools.partial(_read, root, names, classes, image_shape),
        len(names),
        image_shape,
        classes,
        no_labels_reason,
        skipped=tuple(os.fspath(root / name) for name in broken),
        identity=zlib.crc32("\n".join(names).encode()),
        caption=caption,
        files=tuple(root / name for name in names),
        no_captions_reason=no_captions_reason,
    )


def list_images(root: epath.Path) -> tuple[list[str], list[str]]:
    """Paths of images below a folder, and of other files, "/" between their parts, in an order that is always the same.

    Raises:
      ValueError: there is none.
      OSError: there is no such folder.
    """
    try:
        if not root.is_dir():
            what = "is a file, not a folder" if root.exists() else "is not there"
            raise FileNotFoundError(f"the folder {root} {what}")
        files = sorted(walk(root))
    except ImportError as error:  # what reads gs:// is not installed
        raise ValueError(f"{root} cannot be opened: {error}") from error
    names = [name for name in files if name.lower().endswith(ENDINGS)]
    others = [name for name in files if not name.lower().endswith(ENDINGS)]
    read = f"only files that end in {', '.join(ENDINGS)} are read, in capitals or not"
    if not names:
        found = f" (it has {len(others)} such as {others[0]})" if others else ""
        raise ValueError(f"there is no image in {root}{found}: {read}")
    if images := [name for name in others if name.lower().endswith(OTHERS)]:
        log.warning("%d images in %s are not used, such as %s: %s", len(images), root, images[0], read)
    return names, others


def walk(folder: epath.Path, prefix: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of all files below a folder, but of those hidden."""
    here = os.path.realpath(folder)
    if here in above:  # a link that leads back up
        return
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.name.startswith("."):
            continue
        if not name.lower().endswith(ENDINGS) and entry.is_dir():
            yield from walk(entry, f"{name}/", (*above, here))
        else:
            yield name


def classes_of(names: Sequence[str], root: epath.Path) -> tuple[tuple[str, ...], str]:
    """The first-level folders, and why there are no labels where not all images are in one."""
    outside = [name for name in names if "/" not in name]
    if not outside:
        return tuple(sorted({name.split("/")[0] for name in names})), ""
    return (), (
        f"labels are the names of the folders in {root}, and {len(outside)} of its {len(names)} images are in none of "
        f"them, such as {outside[0]}"
    )


def captions_of(
    names: Sequence[str], others: Sequence[str], root: epath.Path
) -> tuple[Callable[[int], str] | None, str]:
    """What gives the caption of image i, and why there is nothing where there are no captions; files are read when asked.

    A caption is "text" (or "caption") in that line of `metadata.jsonl` whose "file_name" is the image's path below the
    folder; without that file, it is what stands in a .txt beside the image.
    """
    beside = [f"{os.path.splitext(name)[0]}.txt" for name in names]
    if "metadata.jsonl" in others:
        table = functools.cache(functools.partial(read_table, root / "metadata.jsonl"))
        return functools.partial(_from_table, root, names, table), ""
    texts = set(others) & set(beside)
    if not texts:
        return None, f"there are no captions in {root}: neither a .txt beside each image, nor a metadata.jsonl"
    missing = [name for name, text in zip(names, beside) if text not in texts]
    if missing:
        return (
            None,
            f"{len(missing)} of the {len(names)} images in {root} have no .txt beside them, such as {missing[0]}",
        )
    return functools.partial(_from_text, root, beside), ""


def _from_table(root, names, table, i):
    if names[i] not in table():
        raise ValueError(f"{root / 'metadata.jsonl'} has no line for {names[i]}")
    return table()[names[i]]


def _from_text(root, beside, i):
    try:
        return (root / beside[i]).read_bytes().decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{root / beside[i]} cannot be read as UTF-8 ({error})") from error


def read_table(path: epath.Path) -> dict[str, str]:
    """The captions in a `metadata.jsonl`, by file name.

    Raises:
      ValueError: it is not UTF-8, or has a line that is not {"file_name": ..., "text": ...}.
    """
    found = {}
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")  # other ends of lines may stand within JSON
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as UTF-8 ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
            text = said["text"] if "text" in said else said["caption"]
            found[said["file_name"]] = text + ""
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'line {number} of {path} is not {{"file_name": "...", "text": "..."}} ({error or "it is something else"})'
            ) from error
    return found


def _read(root, names, classes, image_shape, i):
    try:
        image = image_decode.read_image(root / names[i], image_shape)
    except ValueError as error:
        raise ValueError(
            f"{error}: put a sound file in its place; a new run can also do without it, or leave out all such files by "
            "--data.skip-broken"
        ) from error
    return {"image": image} | ({"label": classes.index(names[i].split("/")[0])} if classes else {})


def find_broken(root: epath.Path, names: Sequence[str], image_shape: tuple[int, int, int]) -> dict[str, str]:
    """Reads all files as training will; the names of those that cannot be read, and what is said of them."""

    def broken(part):
        found = {}
        for name in part:
            try:
                image_decode.read_image(root / name, image_shape)
            except ValueError as error:
                found[name] = str(error)
        return found

    parts = [names[i : i + 32] for i in range(0, len(names), 32)]
    found = {}
    threads = ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
    with threads as pool, progress.bar("looking through the images", len(names), delay=2.0) as advance:
        for part, more in zip(parts, pool.map(broken, parts)):
            found |= more
            advance(len(part))
    return found


def report(broken: dict[str, str], count: int, root: epath.Path) -> None:
    """Warns of the files that are left out.

    Raises:
      ValueError: nothing would be left.
    """
    if not broken:
        return
    first = "; ".join([*broken.values()][:3]) + ("; ..." if len(broken) > 3 else "")
    if len(broken) == count:
        raise ValueError(f"none of the {count} images in {root} can be read: {first}")
    log.warning("left out %d of the %d images in %s: %s", len(broken), count, root, first)
