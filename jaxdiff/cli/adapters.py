"""What `jaxdiff sample` puts beside a model: LoRAs, new words, ControlNets and their pictures."""

import dataclasses
import logging
import math
from typing import Annotated

import tyro
from etils import epath
from PIL import Image

from jaxdiff import pretrained
from jaxdiff.data import image_decode
from jaxdiff.eval.steered import Steered
from jaxdiff.pretrained import Model

log = logging.getLogger("jaxdiff")


@dataclasses.dataclass(frozen=True)
class AdapterFlags:
    """What is put beside a model; each flag may be given several times.

    Attributes:
      lora: file of a LoRA or of new words, or the run that made it, with its weight behind a colon (a.safetensors:0.8); 1
        without.
      controlnet: file of a ControlNet, or the run that made it.
      control: the picture that it is told, such as edges.png, one for each ControlNet.
      control_scale: how much it counts, one for each ControlNet; 1 is as it was trained.
      guess: let the picture alone say what is drawn, see `jaxdiff.adapt.control.guess`.
    """

    lora: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--adapter"])]] = ()
    controlnet: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    control: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    control_scale: tyro.conf.UseAppendAction[tuple[float, ...]] = ()
    guess: bool = False


def adapted(model: Model, flags: AdapterFlags) -> Model:
    """The model with all that is put beside it.

    Raises:
      ValueError, OSError: as `pretrained.load_adapter` and `pretrained.adapted`; the line names the file.
    """
    asked = [("--lora", *weighted(said)) for said in flags.lora]
    for flag, name, weight in [*asked, *(("--controlnet", name, 1.0) for name in flags.controlnet)]:
        adapter = pretrained.load_adapter(name)
        right = "--lora" if adapter.control is None else "--controlnet"
        if flag != right:
            raise ValueError(f"{name} is {'no' if right == '--lora' else 'a'} ControlNet: give it as {right}")
        if not math.isfinite(weight) or (weight != 1 and flag == "--lora" and not adapter.loras):
            raise ValueError(f"{name}:{weight:g}: a weight is a finite number, and of LoRAs: new words alone have none")
        try:
            model = pretrained.adapted(model, adapter, weight)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return model


def weighted(said: str) -> tuple[str, float]:
    """A file and its weight.

    Example::

        >>> from jaxdiff.cli.adapters import weighted
        >>> weighted("a.safetensors:0.8"), weighted("gs://bucket/run")
        (('a.safetensors', 0.8), ('gs://bucket/run', 1.0))
    """
    name, colon, weight = said.rpartition(":")
    try:
        return (name, float(weight)) if colon else (said, 1.0)
    except ValueError:
        return said, 1.0


def steered(model: Model, flags: AdapterFlags) -> Steered | None:
    """What steers the model; None without ControlNets.

    Raises:
      ValueError, OSError: pictures that there are not, or that are not one for each ControlNet.
    """
    if not model.controls:
        if flags.control or flags.control_scale or flags.guess:
            raise ValueError("--control, --control-scale and --guess are for a ControlNet: name one by --controlnet")
        return None
    if len(flags.control) != len(model.controls):
        told = " and ".join(control.condition for control in model.controls)
        raise ValueError(
            f"there are {len(model.controls)} ControlNets (of {told}) and {len(flags.control)} pictures: give --control "
            "for each"
        )
    pairs = zip(flags.control, model.controls)
    pictures = tuple(picture(path, control.net.config.picture_shape(model.config.shape)) for path, control in pairs)
    return Steered(model.controls, pictures, flags.control_scale, flags.guess)


def without_control(model: Model, what: str) -> None:
    """Raises ValueError for a model with a ControlNet, which a command would not tell a picture."""
    if model.controls:
        raise ValueError(f"a ControlNet is not {what}: give the model that it is of")


def picture(path: str, shape: tuple[int, int, int]):
    """The picture in a file, uint8 [1, H, W, C], resized where it has another size, which the log says.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it cannot be read.
    """
    read = image_decode.read_image(epath.Path(path), shape)
    with Image.open(epath.Path(path).open("rb")) as image:
        width, height = image.size
    if (height, width) != shape[:2]:
        log.warning("%s is %dx%d and was cut and resized to %dx%d", path, height, width, *shape[:2])
    return read[None]
