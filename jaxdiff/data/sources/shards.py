"""Shards of webdataset: tar archives of images, captions and labels."""

import fnmatch
import functools
import itertools
import logging
import os
import re
import zlib

import numpy as np
from etils import epath

from jaxdiff.data import broken, captions, tars
from jaxdiff.data.base import SOURCES, Once, Source
from jaxdiff.data.caption_files import json_captions
from jaxdiff.data.captions import Captions
from jaxdiff.data.listing import Listing
from jaxdiff.data.paths import index_file
from jaxdiff.data.sources.folder import contents_of, listed
from jaxdiff.paths import as_path

log = logging.getLogger("jaxdiff")
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
FORMAT = 2  # of what is stored between starts: more when captions are found elsewhere than before
NAMES = 10**6  # that ranges may spell
MARK = "\ue000"  # of a range inside of an expression


@SOURCES.register("shards")
def load(
    image_shape: tuple[int, int, int] | None, pattern: str = "", skip_broken: bool = False, to_srgb: bool = True
) -> Source:
    """The images of webdataset shards, uncompressed tar archives, cropped and resized to one shape.

    Files of one name up to the first dot are an example: its image, its caption (.txt, .caption, or "caption", "text",
    "prompt" or "captions" of .json), and its label, a number, in .cls. They are read at random: the order is exact, as of a
    folder. The first start looks through all archives and keeps an index of about 100 bytes an example.

    Args:
      image_shape: height, width and channels of the images.
      pattern: of the archives, such as data/train-{0000..0099}.tar or gs://bucket/*.tar; a folder is all .tar below it.
      skip_broken: look through all images, and leave out those that cannot be read, examples with a label that is none, and
        archives from where they are cut or damaged; the log has their names.
      to_srgb: convert colours by the profile in each file, see `jaxdiff.data.colours`.

    Raises:
      ValueError: no `image_shape`, no archive, no image, a label that is none, or an archive that is cut or damaged.
      OSError: the folder is not there.
    """
    if not pattern:
        raise ValueError("shards: must be shards:PATTERN, such as shards:data/*.tar")
    if image_shape is None:
        raise ValueError(f"the images of shards:{pattern} have no shape of their own: set `image_shape`")
    root, archives = matched(pattern, ".tar")
    digest = f"{archives.digest()} {skip_broken}"
    make = functools.partial(tars.index_of, root, archives.names, skip_broken)
    found = tars.stored_index(index_file(f"{root}/shards {pattern}"), f"{digest} {FORMAT}", make)
    skipped = tuple(found.skipped)
    _warn(found, archives.names, pattern)
    if not len(found.keys):
        raise ValueError(f"there is no image in the {len(archives.names)} archives {pattern}")
    if skip_broken:
        decoded = functools.partial(_decoded, root, archives.names, found, to_srgb)
        left_out = broken.find(lambda i: decoded(i, image_shape), len(found.keys))
        broken.warn(left_out, len(found.keys), pattern)
        skipped += tuple(f"{archives.names[found.shard[i]]}: {found.keys[i]}" for i in left_out)
        found = found.take(np.setdiff1d(np.arange(len(found.keys)), [*left_out]).astype(int))
    classes, no_labels_reason = _classes(found, archives.names)
    keys = zlib.crc32(np.ascontiguousarray(found.shard).tobytes(), zlib.crc32(found.keys.buffer))
    caption, no_captions_reason = _captions(found, root, archives.names, f"{digest} {keys} {FORMAT}", pattern)
    fitted = functools.partial(_read, root, archives.names, found, bool(classes), to_srgb)
    return Source(
        lambda i: fitted(i, image_shape),
        len(found.keys),
        image_shape,
        classes,
        no_labels_reason,
        skipped=skipped,
        identity=keys,
        contents=Once(functools.partial(contents_of, root, archives)),
        caption=caption,
        no_captions_reason=no_captions_reason,
        fingerprint=lambda: digest,
        encoded=lambda i: tars.read(root / archives.names[found.shard[i]], found.image[i]),
        where=lambda i: f"{found.keys[i]} in {archives.names[found.shard[i]]}",
        label=(lambda i: int(found.label[i])) if classes else None,
        fitted=fitted,
    )


def _warn(found, names, pattern):
    """Logs what was left out while the archives were looked through."""
    if left := int(found.without_image.sum()):
        log.warning("%d examples of %s have no image, and are left out", left, pattern)
    if left := int(found.links.sum()):
        first = names[found.links.argmax()]
        log.warning(
            "%d links in the archives %s, such as in %s, are not followed: pack their files by tar --hard-dereference "
            "--dereference",
            left,
            pattern,
            first,
        )
    if skipped := list(found.skipped):
        more = "; ..." if len(skipped) > 3 else ""
        log.warning("left out of %s, in %d places: %s%s", pattern, len(skipped), "; ".join(skipped[:3]), more)


def matched(pattern: str, ending: str) -> tuple[epath.Path, Listing]:
    """The folder of a pattern of files, and those files below it, sorted by name.

    Args:
      pattern: path with `*`, `?`, `[...]` and ranges `{000..099}` in its last part, for files of that folder alone, each
        of them if there are ranges alone; or a folder, for all files of that ending below it.
      ending: such as ".tar".

    Raises:
      ValueError: no such file, one of those that ranges name is missing, ranges without a number or of too many, braces
        that are of no range, or a pattern in the name of the folder.
      OSError: the folder is not there.
    """
    path = as_path(pattern)
    if path.is_dir():
        found = listed(path)
        chosen = np.flatnonzero(found.names.end_with(ending, any_case=True))
        if not len(chosen):
            raise ValueError(f"there is no {ending} file below {pattern}")
        return path, found.take(chosen)
    found, number = _listed_beside(path, pattern)
    names = {name: i for i, name in enumerate(found.names) if "/" not in name}
    if number > 1 and not any(sign in path.name for sign in "*?["):
        each = [*_ranges(path.name)]
        if missing := next((name for name in each if name not in names), None):
            raise ValueError(f"there is no file {path.parent / missing}, one of the {number} of {pattern}")
        chosen = [names[name] for name in each]
    else:
        fits = _expression(path.name).fullmatch
        chosen = [i for name, i in names.items() if fits(name)]
    if not chosen:
        raise ValueError(f"there is no file {pattern}")
    return path.parent, found.take(np.unique(chosen))


def _listed_beside(path, pattern):
    """The files of the folder of a pattern, and the number of names that its ranges spell."""
    odd = next((sign for sign in "*?{}" if sign in os.fspath(path.parent)), None)
    if odd and not path.parent.is_dir():
        raise ValueError(f"{pattern} has a {odd} in the name of a folder: patterns are of files in one folder")
    number = 1 if path.exists() else _check_ranges(path.name)  # braces may be of its name
    return listed(path.parent), number


def _check_ranges(name):
    """Number of names that the ranges of a name spell, if it is from 1 to `NAMES`."""
    if odd := re.search(r"[{}]", RANGE.sub("", name)):
        raise ValueError(f"{name} has a {odd[0]} that is of no range: write ranges as {{000..099}}")
    number = 1
    for first, last in RANGE.findall(name):
        if int(first) > int(last):
            raise ValueError(f"the range {{{first}..{last}}} of {name} has no number: write the smaller one first")
        number *= int(last) - int(first) + 1
    if number > NAMES:
        raise ValueError(f"the ranges of {name} are {number:,} names, and may be {NAMES:,}: use * in place of them")
    return number


def _numbers(first, last):
    """Numbers of a range, as wide as the first of them."""
    return [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]


def _ranges(name):
    """Names with each range {000..099} replaced by its numbers."""
    parts = RANGE.split(name)
    for chosen in itertools.product(*map(_numbers, parts[1::3], parts[2::3])):
        yield "".join(itertools.chain(*itertools.zip_longest(parts[::3], chosen, fillvalue="")))


def _expression(name):
    """Regular expression of a name with `*`, `?`, `[...]` and ranges."""
    parts = fnmatch.translate(RANGE.sub(MARK, name)).split(MARK)
    numbers = [f"(?:{'|'.join(_numbers(*ends))})" for ends in RANGE.findall(name)]
    return re.compile("".join(itertools.chain(*itertools.zip_longest(parts, numbers, fillvalue=""))))


def _classes(found, names):
    """Names of the labels, which are numbers; or (), and the reason, if an example has none."""
    without = np.flatnonzero(found.label < 0)
    if not len(without):
        return tuple(str(i) for i in range(int(found.label.max()) + 1)), ""
    first = f"{found.keys[without[0]]} of {names[found.shard[without[0]]]}"
    return (), f"labels are files .cls, and {len(without)} of {len(found.keys)} examples have none, such as {first}"


def _captions(found, root, names, digest, pattern):
    """Captions, or the reason why there are none."""
    without = np.flatnonzero(found.text[:, 1] < 0)
    if len(without):
        first = f"{found.keys[without[0]]} of {names[found.shard[without[0]]]}"
        return None, (
            "captions are files .txt, .caption, .text, or .json with a text in the field caption, text, prompt or "
            f"captions, and {len(without)} of {len(found.keys)} examples have none, such as {first}"
        )

    def read(i):
        return _text(tars.read(root / names[found.shard[i]], found.text[i]), found.is_json[i], i, found, names)

    def read_all():
        return Captions(read, len(found.keys)).stored

    size, path = len(found.keys), index_file(f"{root}/texts {pattern}")
    kinds = {"text files": int((~found.is_json).sum()), ".json": int(found.is_json.sum())}
    kinds = {kind: count for kind, count in kinds.items() if count}
    return Captions(read, size, lambda: captions.stored(path, digest, read_all, size), kinds), ""


def _text(content, is_json, i, found, names):
    where = f"the caption of {found.keys[i]} in {names[found.shard[i]]}"
    try:
        texts = json_captions(content) if is_json else [content.decode("utf-8-sig")]
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not UTF-8") from None
    if not texts:
        raise ValueError(f"{where} is no longer in its JSON: the archive has changed since the start")
    return captions.joined(" ".join(text.split()) for text in texts)


def _decoded(root, names, found, to_srgb, i, image_shape, *centre):
    from jaxdiff.data import image_decode

    path = root / names[found.shard[i]]
    try:
        return image_decode.decode(tars.read(path, found.image[i]), image_shape, False, to_srgb, *centre)
    except ValueError as error:
        raise ValueError(f"{found.keys[i]} in {os.fspath(path)} cannot be read ({error})") from error


def _read(root, names, found, labelled, to_srgb, i, image_shape, *centre):
    try:
        image = _decoded(root, names, found, to_srgb, i, image_shape, *centre)
    except ValueError as error:
        raise ValueError(
            f"{error}: write the archive again; a new run can leave out such images by `skip_broken`"
        ) from error
    return {"image": image} | ({"label": int(found.label[i])} if labelled else {})
