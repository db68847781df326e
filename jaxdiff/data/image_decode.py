"""Decodes image files into arrays of a given shape."""

import contextlib
import io

import numpy as np
from etils import epath
from PIL import Image, ImageOps

from jaxdiff.arguments import plain
from jaxdiff.data import colours
from jaxdiff.files import read_regular

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # what Pillow may try, whatever the name says
MODES = {1: "L", 3: "RGB"}
CENTRE = (0.5, 0.5)  # of a crop: half of what is cut off lies left of it, and half above


def decode(
    file: bytes,
    image_shape: tuple[int | None, int | None, int],
    exact: bool = False,
    to_srgb: bool = True,
    centre: tuple[float, float] = CENTRE,
) -> np.ndarray:
    """Decodes an image file, turns the image upright, crops it and resizes it to fill a shape.

    Transparent images are laid over white. An image of the right size, and of sRGB, keeps its pixels.

    Args:
      file: contents of a PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF file; of several images in it, the first.
      image_shape: height, width and channels, 1 being grey and 3 colour; a height and width of None are the image's own,
        once it is upright.
      exact: refuse images of another size.
      to_srgb: convert colours by the profile in the file, such as the Display P3 of phones; see `colours.to_srgb`.
      centre: share of what is cut off that lies left of the crop, and above it, each in [0, 1].

    Returns:
      uint8 [H, W, C].

    Raises:
      ValueError: the file is broken, or of another size; the message completes "the file cannot be read: ...".

    Example::

        >>> import io
        >>> from PIL import Image
        >>> from jaxdiff.data.image_decode import decode
        >>> file = io.BytesIO()
        >>> Image.new("RGBA", (40, 20), (0, 0, 255, 102)).save(file, "PNG")  # two fifths of blue
        >>> decode(file.getvalue(), (8, 8, 3))[0, 0].tolist()
        [153, 153, 255]
    """
    height, width, channels = image_shape
    if not file:
        raise ValueError("it is empty")
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            if not exact and height:  # a JPEG is decoded at 1/2, 1/4 or 1/8 if that is twice as large as needed
                image.draft(None, (2 * max(height, width),) * 2)
            image.load()
            image = upright(image)
            image = flatten(colours.to_srgb(image) if to_srgb else image, channels)
    except Image.UnidentifiedImageError:
        raise ValueError("it is no image") from None
    except Exception as error:  # Pillow has a dozen kinds for files that are broken
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    width, height = width or image.width, height or image.height
    if exact and image.size != (width, height):
        raise ValueError(f"it is {image.height}x{image.width}, not {height}x{width}")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC, centering=centre)
    return np.array(image).reshape(height, width, channels)


def read_image(
    path: epath.Path,
    image_shape: tuple[int | None, int | None, int],
    to_srgb: bool = True,
    centre: tuple[float, float] = CENTRE,
) -> np.ndarray:
    """Reads an image file and decodes it by `decode`.

    Args:
      path: the file.
      image_shape: height, width and channels, see `decode`.
      to_srgb: see `decode`.
      centre: see `decode`.

    Returns:
      uint8 [H, W, C].

    Raises:
      ValueError: the file cannot be read.
    """
    try:
        return decode(read_regular(path), image_shape, to_srgb=to_srgb, centre=centre)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read ({reason})") from error


def is_transparent(image: Image.Image) -> bool:
    """Whether some pixel of an image is not opaque; an alpha channel of 255 everywhere is no transparency."""
    if not image.has_transparency_data:
        return False
    return image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def upright(image: Image.Image) -> Image.Image:
    """Turns a loaded image upright, by the orientation in its EXIF data."""
    with contextlib.suppress(Exception):  # the EXIF data may be broken and the pixels sound
        return ImageOps.exif_transpose(image)
    return image


def flatten(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image to 1 or 3 channels of 8 bits; transparent parts are laid over white.

    Raises:
      ValueError: floats or more than 16 bits, whose range is not known.
    """
    if image.mode == "F":
        raise ValueError("it is of floats, whose range is not known: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip
        if not 0 <= image.getextrema()[0] <= image.getextrema()[1] <= 65535:
            raise ValueError("it is of more than 16 bits: save it with 8 or 16 bits")
        image = Image.fromarray(np.round(np.asarray(image, np.float64).clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(MODES[channels])


def check_shape(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Checks that a shape is height, width and 1 or 3 channels, and returns it as a tuple.

    Raises:
      ValueError: another shape.
    """
    image_shape = plain(image_shape)
    whole = isinstance(image_shape, tuple) and all(type(side) is int for side in image_shape)
    if not whole or len(image_shape) != 3 or min(image_shape) < 1 or image_shape[2] not in MODES:
        found = format_shape(image_shape) if isinstance(image_shape, tuple) else repr(image_shape)
        raise ValueError(f"`image_shape` {found} must be height, width and 1 (grey) or 3 (colour) channels")
    return image_shape


def format_shape(image_shape) -> str:
    """Formats a shape as in "28x28x1"; a side of None is "?"."""
    return "x".join("?" if side is None else str(side) for side in image_shape)
