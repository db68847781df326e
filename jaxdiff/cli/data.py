"""`jaxdiff data`."""

import contextlib
import dataclasses
import itertools
import json

import numpy as np
from etils import epath
from PIL import Image

from jaxdiff import data, progress
from jaxdiff.cli.files import File, located, unused, writable
from jaxdiff.cli.flags import parse
from jaxdiff.config.checks import check_seed
from jaxdiff.data import caption_tags, derived, survey
from jaxdiff.data.caption_tags import CaptionTags
from jaxdiff.pipeline import images


@dataclasses.dataclass(frozen=True)
class DataFlags:
    """Says what a source holds, and writes a sheet of examples as a network sees them in training.

    Attributes:
      image_shape: height, width and channels of the images; those of the data set where it has one size.
      resize: crop and resize images of a data set that has another size.
      skip_broken: leave out files that cannot be read.
      flip: mirror half of the images, as `--data.flip` of training does.
      augment: strength of random affine changes, as `--data.augment`.
      buckets: heights and widths of several aspect ratios, as `--data.buckets`.
      min_size: least pixels of the shorter side, as `--data.min-size`.
      random_crop: crop around another place each time, as `--data.random-crop`.
      caption_tags: changes of captions that are tags, as `--data.caption-tags` of training.
      trigger: words in front of every caption, as `--data.trigger`.
      seed: of the order and of these.
      num: examples on the sheet; 0 writes none.
      out: the sheet, a .png file; by default data.png, or data_2.png and so on.
      overwrite: replace a file that is there.
      json: print what was found as JSON.
    """

    image_shape: tuple[int, int, int] | None = None
    resize: bool = False
    skip_broken: bool = False
    flip: bool = False
    augment: float = 0.0
    buckets: tuple[tuple[int, int], ...] = ()
    min_size: int = 0
    random_crop: bool = False
    caption_tags: CaptionTags = CaptionTags()
    trigger: str = ""
    seed: int = 0
    num: int = 16
    out: File = None
    overwrite: bool = False
    json: bool = False


DEFAULT = DataFlags()


def main(name: str, args: list[str]) -> None:
    """`jaxdiff data SOURCE ...`."""
    flags = parse(DataFlags(), args, f"jaxdiff data {name}")
    for field in ("num", "augment", "min_size"):
        if not (value := getattr(flags, field)) >= 0:
            raise ValueError(f"`{field}`={value} must be at least 0")
    check_seed("`seed`", flags.seed)
    caption_tags.check(flags.caption_tags)
    path = located(flags.out, "out") if flags.out else unused(epath.Path("data.png"), flags.overwrite)
    path = writable(path, (".png",), flags.overwrite) if flags.num else None
    choice = data.parse(name, like=flags)
    source = data.load(choice, flags.image_shape or _shape_of(choice))
    if flags.buckets or flags.min_size or flags.random_crop:
        source = data.sized(source, flags.buckets, flags.min_size, flags.random_crop)
    if flags.caption_tags.active:
        derived.check_plain(source, "`caption_tags` changes captions", ["text_encoder"])
    source = caption_tags.with_trigger(source, flags.trigger)
    with progress.bar("looking through the examples", len(source), "examples", delay=2.0) as advance:
        found = survey.survey(source, advance)
    if flags.json:
        sizes = {f"{width}x{height}": count for (width, height), count in found.sizes.items()}
        print(json.dumps(found._asdict() | {"sizes": sizes, "skipped": list(source.skipped)}, indent=2))
    else:
        print("\n".join(survey.lines(found, source)))
    if path is not None:
        drawn, why = sheet(source, flags)
        if drawn is not None:
            images.save_png(path, drawn)
        if not flags.json:
            print(f"{'sheet':<12} {path if drawn else 'none'}{f': {why}' if why else ''}")


def _shape_of(choice):
    """Shape of the images where nothing says one: a square of 256 pixels in colour for files of any size."""
    return (256, 256, 3) if hasattr(choice, "to_srgb") else None


def sheet(source: data.Source, flags: DataFlags) -> tuple[Image.Image | None, str]:
    """The first examples of a training on this source that can be read, with their captions or labels.

    Returns:
      The sheet, or None without one; and what is to be said: why there is none, or which examples are left out.
    """
    if "codec" in (source.encoded_by or ()):
        return None, "the records are latents, and no images: look at the source that they were prepared of"
    failed = {}

    def read(i, *centre):
        try:
            return source.read(i, *centre)
        except (OSError, ValueError) as error:
            failed[i] = error
            return {"image": np.zeros(source.shape_of(i), np.uint8), "label": 0}

    readable = dataclasses.replace(source, read=read)
    batches, shown, left_out = (
        data.batches(readable, 1, seed=flags.seed, flip=flags.flip, augment=flags.augment),
        [],
        [],
    )
    for batch in itertools.islice(batches, len(source)):
        if len(shown) == flags.num:
            break
        if (i := int(batch["example"][0, 0])) in failed:
            left_out.append(i)
        else:
            shown.append(
                (_title(source, i, int(batch["index"][0, 0]), flags), np.asarray(batch["image"][0, 0], np.uint8))
            )
    batches.close()
    why = ""
    if left_out:
        first = failed[left_out[0]]  # behind whose message stands what to do in a training
        why = f"{len(left_out)} of its first examples cannot be read: {first.__cause__ or first}"
    return (images.panels(shown, columns=4, side=192) if shown else None), why


def _title(source, i, position, flags):
    said = []
    with contextlib.suppress(OSError, ValueError):  # a caption that cannot be read has been listed
        if source.captioned:
            said.append(caption_tags.text_of(source, i, flags.seed, position, flags.caption_tags, flags.trigger))
    if source.classes:
        label = source.label(i) if source.label else source.read(i)["label"]
        said.append(source.classes[label])
    return f"{i}: {', '.join(said)}" if said else str(i)
