"""Images of several sizes: buckets of aspect ratios, crops at random, a least size."""

import dataclasses
import functools
import io
import json
import logging
import math
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxdiff import progress
from jaxdiff.arguments import check_count, check_type, plain
from jaxdiff.data import derived
from jaxdiff.data.base import MEMORY, Buckets, Source, cached
from jaxdiff.data.captions import stored_arrays
from jaxdiff.data.paths import data_dir

log = logging.getLogger("jaxdiff")
MOST_BUCKETS = 256  # whose indices are bytes
CHUNK = 64  # images that a thread looks at, one after the other
ON_ITS_SIDE = (5, 6, 7, 8)  # orientations in EXIF data


def sized(
    source: Source,
    buckets: Sequence[tuple[int, int]] = (),
    min_size: int = 0,
    random_crop: bool = False,
    *,
    memory: int = MEMORY,
) -> Source:
    """The same examples in several sizes, each in that which its own shape is nearest to, or cropped at random.

    Args:
      source: with image files.
      buckets: heights and widths, () for the source's own alone. The nearest is that whose ratio of height to width differs
        by the smallest factor from that of the image; of equals, the first.
      min_size: pixels of the shorter side, below which an image is left out.
      random_crop: crop around another place in each epoch, and not around the centre.
      memory: as of `jaxdiff.data.load`.

    Returns:
      A source whose `buckets` say the shapes, and whose `read` takes the centre of a crop where `random_crop` is True.

    Raises:
      ValueError: the images have one size, or several already, or all are too small; arguments of other types, or out of
        range.

    Example::

        >>> import tempfile
        >>> from PIL import Image
        >>> from jaxdiff import data
        >>> folder = tempfile.mkdtemp()
        >>> for i, size in enumerate([(60, 40), (40, 60), (8, 8)]):
        ...     Image.new("L", size).save(f"{folder}/{i}.png")
        >>> source = data.sized(data.load(f"folder:{folder}", (16, 16, 1)), [(16, 16), (12, 18), (18, 12)], min_size=16)
        >>> [example["image"].shape for example in source]
        [(12, 18, 1), (18, 12, 1)]
    """
    check_type("`source`", source, Source)
    buckets, min_size = check_buckets(buckets), check_count("min_size", min_size, least=0)
    check_type("`random_crop`", plain(random_crop), bool)
    if source.buckets or source.crops:
        raise ValueError("the images of this source are in several sizes, or cropped at random, already")
    if source.fitted is None or source.encoded is None:
        raise ValueError(
            "the images of this source have one size: `data.buckets`, `data.min_size` and `data.random_crop` are for "
            "folder:, shards:, parquet:, arrow: and tfds:"
        )
    found = sizes_of(source) if buckets or min_size else None
    if min_size:
        source, found = _large(source, found, min_size)
    shapes = tuple((*size, source.image_shape[2]) for size in buckets) or (source.image_shape,)
    of = nearest(found, shapes) if buckets else np.zeros(len(source), np.uint8)
    fitted = source.fitted
    if buckets:
        _say(shapes, of)
    result = dataclasses.replace(
        source,
        read=lambda i, *centre: fitted(i, shapes[of[i]], *centre),
        identity=source.identity ^ zlib.crc32(json.dumps([shapes, random_crop]).encode()),
        fitted=None,
        buckets=Buckets(shapes, of) if buckets else None,
        crops=random_crop,
    )
    return cached(result, check_count("memory", memory, least=0))


def check_buckets(buckets: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Checks that buckets are heights and widths, each once, and returns them as tuples.

    Raises:
      ValueError: something else, or more than `MOST_BUCKETS`.
    """
    buckets = plain(buckets)
    is_size = lambda sides: isinstance(sides, tuple) and [type(side) for side in sides] == [int, int]
    if not isinstance(buckets, tuple) or not all(is_size(sides) and min(sides) > 0 for sides in buckets):
        raise ValueError(f"`buckets`={buckets!r} must be heights and widths in pixels, such as ((64, 64), (48, 80))")
    if len(set(buckets)) < len(buckets) or len(buckets) > MOST_BUCKETS:
        raise ValueError(f"`buckets` must be at most {MOST_BUCKETS} sizes, each once, not {buckets}")
    return buckets


def nearest(sizes: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Index of the shape of the nearest ratio of height to width, for each image.

    Args:
      sizes: heights and widths, [N, 2].
      shapes: heights and widths, and what may stand behind them.

    Returns:
      uint8 [N].

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import sizes
        >>> sizes.nearest(np.array([[40, 60], [61, 60], [400, 100]]), [(16, 16), (12, 18), (18, 12)]).tolist()
        [1, 0, 2]
    """
    ratio = lambda sides: np.log(sides[..., 0]) - np.log(sides[..., 1])
    wanted = ratio(np.array([shape[:2] for shape in shapes], np.float64))
    return np.abs(ratio(np.asarray(sizes, np.float64))[:, None] - wanted).argmin(1).astype(np.uint8)


def aspect_buckets(height: int, width: int, step: int, max_ratio: float = 2.0) -> tuple[tuple[int, int], ...]:
    """Heights and widths of many aspect ratios, none of a larger area than that of one image.

    Of each width the largest height that fits; those of Stable Diffusion XL are like them (Podell et al. 2023, appendix I).

    Args:
      height: of the image whose area is the bound.
      width: of that image.
      step: of which all sides are multiples, such as 8 times the factor of a U-Net and 64 pixels with an autoencoder.
      max_ratio: of the longer side to the shorter, at least 1.

    Raises:
      ValueError: numbers out of range.

    Example::

        >>> from jaxdiff import data
        >>> data.aspect_buckets(64, 64, step=16)
        ((80, 48), (64, 64), (48, 80))
        >>> len(data.aspect_buckets(1024, 1024, step=64, max_ratio=2.0))
        11
    """
    for name, side in (("height", height), ("width", width), ("step", step)):
        check_type(f"`{name}`", plain(side), int)
    check_type("`max_ratio`", plain(max_ratio), float)
    if not (0 < step <= min(height, width) and 1 <= max_ratio < math.inf):
        raise ValueError(
            f"`step`={step} must be from 1 to the sides {height} and {width}, and `max_ratio`={max_ratio} at least 1"
        )
    tall = [(height * width // w // step * step, w) for w in range(step, height * width // step + 1, step)]
    return tuple((h, w) for h, w in tall if h and max(h, w) <= max_ratio * min(h, w))


def sizes_of(source: Source) -> np.ndarray:
    """Heights and widths of the images as they lie in files, upright, int32 [N, 2]; kept between starts.

    Args:
      source: with image files.

    Raises:
      ValueError: an image cannot be read; it is named.
    """

    def look(start):
        return [_size(source, i) for i in range(start, min(start + CHUNK, len(source)))]

    def make():
        found = np.empty([len(source), 2], np.int32)
        chunks = range(0, len(source), CHUNK)
        threads = ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
        with threads, progress.bar("reading the sizes of the images", len(source), delay=2.0) as advance:
            for start, some in zip(chunks, threads.map(look, chunks)):
                found[start : start + len(some)] = some
                advance(len(some))
        return {"sizes": found}

    digest = f"{source.identity} {source.fingerprint()}"
    path = data_dir() / "index" / f"sizes-{zlib.crc32(digest.encode()):08x}.npz"
    return stored_arrays(path, digest, make, "sizes of images", {"sizes": len(source)})["sizes"]


def _size(source, i):
    try:
        return size_of(source.encoded(i))
    except Exception as error:  # Pillow has a dozen kinds for files that are broken
        place = source.where(i) if source.where else f"example {i}"
        raise ValueError(
            f"{place} cannot be read ({error}): mend it, or leave out all such by `skip_broken`"
        ) from error


def size_of(file: bytes) -> tuple[int, int]:
    """Height and width of an image file, once it is upright, by its header.

    Raises:
      ValueError: it is no image.
    """
    from PIL import Image

    from jaxdiff.data import image_decode

    try:
        with Image.open(io.BytesIO(file), formats=image_decode.FORMATS) as image:
            turned = image.getexif().get(0x0112) in ON_ITS_SIDE
            return image.size if turned else image.size[::-1]
    except Image.UnidentifiedImageError:
        raise ValueError("it is no image" if file else "it is empty") from None


def _large(source, found, min_size):
    """The examples whose shorter side has at least so many pixels, and their sizes; the log says how many are left out."""
    small = found.min(1) < min_size
    if small.all():
        raise ValueError(f"no image has {min_size} pixels on its shorter side: the largest has {found.min(1).max()}")
    if small.any():
        first = int(np.flatnonzero(small)[0])
        height, width = found[first]
        log.warning(
            "%d of %d images are left out, of less than %d pixels on the shorter side, such as %s of %dx%d",
            small.sum(),
            len(small),
            min_size,
            source.where(first) if source.where else f"example {first}",
            width,
            height,
        )
    kept = np.flatnonzero(~small)
    return derived.taken(source, kept), found[kept]


def _say(shapes, of):
    counts = np.bincount(of, minlength=len(shapes))
    each = ", ".join(f"{count} of {width}x{height}" for count, (height, width, _) in zip(counts, shapes))
    log.info("%d images in %d sizes: %s", len(of), len(shapes), each)


def part(source: Source, bucket: int) -> Source:
    """The examples of one bucket, which are of one shape.

    Args:
      source: with `buckets`.
      bucket: index of the shape.
    """
    chosen = np.flatnonzero(source.buckets.of == bucket)
    return dataclasses.replace(derived.taken(source, chosen), image_shape=source.buckets.shapes[bucket], buckets=None)


def joined(source: Source, parts: Sequence[Source | None]) -> Source:
    """A source of what its parts have become, such as latents.

    Args:
      source: that `part` has divided.
      parts: of each bucket, in its order; None of one without examples.

    Returns:
      A source of the examples of `source`, in its order, in shapes of the parts.
    """
    of, place = source.buckets.of, np.empty(len(source), np.int64)
    for bucket in range(len(parts)):
        place[of == bucket] = np.arange((of == bucket).sum())
    some = next(filter(None, parts))
    shapes = tuple(part.image_shape if part else some.image_shape for part in parts)
    return dataclasses.replace(
        source,
        read=functools.partial(_read_part, parts, of, place),
        image_shape=some.image_shape,
        caption=some.caption and source.caption,
        buckets=Buckets(shapes, of),
    )


def _read_part(parts, of, place, i):
    return parts[of[i]].read(int(place[i]))
