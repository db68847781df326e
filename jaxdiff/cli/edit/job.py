"""All that `jaxdiff edit` works on, read and checked before anything takes long or is written."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from jaxdiff import guidance, pretrained
from jaxdiff.cli.edit.flags import REDRAWN, EditFlags
from jaxdiff.cli.edit.inversions import Inversion
from jaxdiff.cli.edit.prompts import Blend, attention_edit, blended, check_prompt, told
from jaxdiff.data import image_decode
from jaxdiff.editing import AttentionEdit
from jaxdiff.pretrained import Model
from jaxdiff.schedules import Schedule
from jaxdiff.types import Guided

EARLY = 0.8  # share of the first level above which guidance is --early


class Job(NamedTuple):
    """What is to be done.

    Attributes:
      model: that edits.
      other: that an image is translated to; else the same.
      flags: complete.
      kept: the inversion that is there already.
      image: uint8 [H, W, C]; None where it is drawn.
      known: which pixels are kept, bool [H, W, 1]; None without a mask.
      here: what the image shows.
      there: what it shall show.
      edit: of attention; None where there are no words.
      blend: where alone the image may change; None for everywhere.
    """

    model: Model
    other: Model
    flags: EditFlags
    kept: Inversion | None
    image: np.ndarray | None
    known: np.ndarray | None
    here: Guided
    there: Guided
    edit: AttentionEdit | None
    blend: Blend | None

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of the model."""
        return self.model.config.diffusion.make_schedule()


def prepare(model: Model, flags: EditFlags, kept: Inversion | None) -> Job:
    """Reads and checks all that is needed.

    Raises:
      OSError, ValueError: something is not there, or does not fit; one line.
    """
    other = model if flags.to is None else pretrained.load(flags.to)
    check_bridge(model, other)
    image = None if flags.image is None else read_image(flags.image, model.config.data.image_shape)
    known = None if flags.mask is None else read_mask(flags.mask, model)
    check_prompt(model, flags.source)
    check_prompt(other, flags.prompt)
    redrawn = model.reads is not None and flags.method in REDRAWN
    edit, blend = (attention_edit(model, flags), blended(model, flags)) if redrawn else (None, None)
    here, there = told(model, flags.source), told(other, flags.prompt)
    return Job(model, other, flags, kept, image, known, here, there, edit, blend)


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The image in a file, uint8 [H, W, C].

    Raises:
      OSError, ValueError: there is none, it is of another size, or transparent; one line.
    """
    content = epath.Path(path).read_bytes()
    try:
        image = image_decode.decode(content, shape, exact=True)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    with Image.open(io.BytesIO(content), formats=image_decode.FORMATS) as file:
        if file.has_transparency_data:
            raise ValueError(
                f"{path} is transparent, which no image of {image_decode.format_shape(shape)} is: save it without alpha"
            )
    return image


def read_mask(path: Path, model: Model) -> np.ndarray:
    """Which pixels a mask keeps, bool [H, W, 1].

    Raises:
      OSError, ValueError: as `read_image`, or it keeps all or nothing that the model could keep.
    """
    known = read_image(path, (*model.config.data.image_shape[:2], 1)) < 128
    if known.all() or not known.any():
        raise ValueError(f"{path} must be bright where the image is drawn anew, and dark where it is kept")
    if not cells(known, model.config.shape).any():
        side = known.shape[0] // model.config.shape[0]
        raise ValueError(f"{path} keeps no whole latent, which is of {side}x{side} pixels: keep more")
    return known


def cells(known: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Which latents are of known pixels alone: [H, W, 1] -> [h, w, 1]."""
    tall, wide = known.shape[0] // shape[0], known.shape[1] // shape[1]
    return known.reshape(shape[0], tall, shape[1], wide, 1).all((1, 3))


def check_bridge(model: Model, other: Model) -> None:
    """Raises ValueError for a model that is no denoiser, or models that share no noise."""
    other.denoiser()
    tables = [one.config.diffusion.make_schedule().alphas_cumprod for one in (model, other)]
    shapes = {(one.config.shape, one.config.data.image_shape) for one in (model, other)}
    if len(shapes) > 1 or not np.array_equal(*tables):
        names = f"{model.config.name} and {other.config.name}"
        raise ValueError(f"{names} must have one noise schedule and images of one size to be bridged")


def leaf_of(model: Model) -> str:
    """Which leaf of a condition the prompt is in."""
    return "label" if model.reads is None else "context"


def scale_of(model: Model, flags: EditFlags):
    """Guidance: a number, or a function of the level."""
    if flags.early == flags.guidance:
        return flags.guidance
    way = flags.strength if flags.method == "sdedit" else 1.0  # where it begins
    return guidance.stepped(flags.early, flags.guidance, EARLY * way * model.config.diffusion.num_levels)
