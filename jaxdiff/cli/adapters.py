"""Flags of LoRAs, new tokens and ControlNets, which sample, edit and eval share."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from jaxdiff import model as models
from jaxdiff.cli.files import located
from jaxdiff.cli.flags import parse
from jaxdiff.data import image_decode
from jaxdiff.data.control_inputs import CONTROL_INPUTS
from jaxdiff.model import Model
from jaxdiff.pipeline import ControlInput

log = logging.getLogger("jaxdiff")


@dataclasses.dataclass(frozen=True)
class AdapterFlags:
    """Adapters of the model; each flag may be given several times.

    Attributes:
      lora: LoRA or new tokens: a file (also of kohya's scripts, PEFT or diffusers), a run or a name that ships, with its
        weight behind a colon (a.safetensors:0.8); 1 without.
      controlnet: ControlNet: a file, a run, a name that ships, or a folder that diffusers has saved.
      control: picture for a ControlNet, such as edges.png, one for each.
      control_input: what to make of each picture first, such as canny or edges, see `jaxdiff.data.control_inputs`; nothing
        by default, for pictures that are edges already.
      control_scale: weight of a ControlNet, one for each; 1 is as it was trained.
      guess: guess mode: the pictures alone say what to draw, see `jaxdiff.adapt.control.guess_scales`.
    """

    lora: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--adapter"])]] = ()
    controlnet: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    control: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    control_input: str | None = None
    control_scale: tyro.conf.UseAppendAction[tuple[float, ...]] = ()
    guess: bool = False


def parsed(model: Model, of: Callable, args: list[str], prog: str) -> tuple[AdapterFlags, Model]:
    """Flags of a command, and the model with its adapters, which may bring defaults of sampling with them.

    Args:
      model: without adapters.
      of: model -> flags with its defaults.
      args: command line.
      prog: as the help names it.

    Raises:
      ValueError, OSError: as `with_adapters`.
    """
    flags = parse(of(model), args, prog)
    adapted = with_adapters(model, flags)
    if adapted.config.sample != model.config.sample:
        flags = parse(of(adapted), args, prog)
    return flags, adapted


def with_adapters(model: Model, flags: AdapterFlags) -> Model:
    """The model with the adapters of the flags.

    Raises:
      ValueError, OSError: as `model.with_adapters`; the message names the file.
    """
    weights = dict(map(weighted, flags.lora))
    if len(weights) < len(flags.lora):
        raise ValueError("one --lora is given twice: give it once, with the sum of the weights")
    return models.with_adapters(model, weights, flags.controlnet)


def weighted(text: str) -> tuple[str, float]:
    """A file and its weight.

    Example::

        >>> from jaxdiff.cli.adapters import weighted
        >>> weighted("a.safetensors:0.8"), weighted("gs://bucket/run")
        (('a.safetensors', 0.8), ('gs://bucket/run', 1.0))
    """
    name, colon, weight = text.rpartition(":")
    try:
        return (name, float(weight)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0


def control_input(model: Model, flags: AdapterFlags) -> ControlInput | None:
    """The pictures for the model's ControlNets; None without ControlNets.

    Raises:
      ValueError, OSError: pictures that cannot be read, or that are not one for each ControlNet.
    """
    if not model.controls:
        if flags.control or flags.control_input or flags.control_scale or flags.guess:
            raise ValueError(
                "--control, --control-input, --control-scale and --guess are for a ControlNet: name one by --controlnet"
            )
        return None
    if len(flags.control) != len(model.controls):
        names = " and ".join(control.condition for control in model.controls)
        raise ValueError(
            f"there are {len(model.controls)} ControlNets (of {names}) and {len(flags.control)} pictures: give --control "
            "for each"
        )
    pairs = zip(flags.control, model.controls)
    pictures = tuple(picture(path, control.net.config.picture_shape(model.shape)) for path, control in pairs)
    if flags.control_input is not None:
        make = CONTROL_INPUTS.choice(flags.control_input)
        pictures = tuple(np.stack([make(one) for one in each]) for each in pictures)
    return ControlInput(pictures, flags.control_scale, flags.guess)


def picture(path: str, shape: tuple[int, int, int]) -> np.ndarray:
    """The picture in a file, uint8 [1, H, W, C], resized where it has another size, which the log says.

    Raises:
      OSError: there is none.
      ValueError: it cannot be decoded.
    """
    place = located(path, "control")
    image = image_decode.read_image(place, shape)
    with Image.open(place.open("rb")) as file:
        width, height = image_decode.upright(file).size
        if image_decode.is_transparent(file):
            raise ValueError(
                f"{path} is transparent, and a ControlNet sees colours: lay it over one, such as black for edges"
            )
    if (height, width) != shape[:2]:
        log.warning("%s is %dx%d and was cropped and resized to %dx%d", path, height, width, *shape[:2])
    return image[None]
