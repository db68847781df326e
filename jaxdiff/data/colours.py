"""Colours of image files: converted to sRGB, in which networks have learned, by the profiles in the files."""

import functools
import io
import itertools
import logging

import numpy as np
from PIL import Image, ImageCms

log = logging.getLogger("jaxdiff")
SAME = 1  # levels of 255 by which the colours of two profiles of sRGB differ, from rounding


def to_srgb(image: Image.Image) -> Image.Image:
    """Converts the colours of an image to sRGB, by the ICC profile that it carries (relative colorimetric).

    Without a profile, with one of sRGB, or with one that is of other channels or broken (which the log says), the pixels
    stay as they are. High dynamic range and gain maps of phones are not used: the image is what viewers without them show.

    Args:
      image: loaded image of any mode.

    Returns:
      An image of the mode RGB or RGBA where it was converted.

    Example::

        >>> from PIL import Image
        >>> from jaxdiff.data import colours
        >>> image = Image.new("RGB", (2, 2), (200, 30, 60))
        >>> colours.to_srgb(image) is image  # no profile
        True
    """
    profile, mode = image.info.get("icc_profile"), "CMYK" if image.mode == "CMYK" else "RGB"
    if image.mode in ("L", "LA"):
        mode = "L"
    if not profile or image.mode.startswith(("I", "F", "LAB")):
        return image
    transform = _transform(profile, mode)
    if transform is None:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    converted = ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion from a profile; None where it would change nothing, or where the profile is of no use.

    Several threads use it at once, which takes one without a cache.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.NOCACHE | ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ImageCms.PyCMSError) as error:
        log.warning("a colour profile cannot be used (%s): the colours stay as they are", error)
        return None
    if mode == "CMYK":
        return transform
    sample = np.array([*itertools.product(range(0, 256, 51), repeat=3)], np.uint8)[None]
    sample = np.repeat(sample[..., :1], 3, -1) if mode == "L" else sample
    after = ImageCms.applyTransform(Image.fromarray(sample).convert(mode), transform)
    changed = np.abs(np.asarray(after, int) - sample).max()
    return None if changed <= SAME else transform
