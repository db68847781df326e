"""`jaxdiff edit`."""

import dataclasses
import io
import re
from typing import Annotated

import numpy as np
import tyro
from etils import epath
from PIL import Image

from jaxdiff import model as models
from jaxdiff import progress
from jaxdiff.cli.adapters import AdapterFlags, control_input, weighted, with_adapters
from jaxdiff.cli.files import File, check_no_input, located, output_dir, unused, writable
from jaxdiff.cli.flags import parse
from jaxdiff.data import image_decode
from jaxdiff.files import read_regular
from jaxdiff.pipeline import images
from jaxdiff.pipeline.edit import EDIT_METHODS, inversions, prepare
from jaxdiff.registry import Choice
from jaxdiff.samplers import SAMPLERS


@dataclasses.dataclass(frozen=True)
class EditFlags(AdapterFlags):
    """Edits an image by what it is to show: a text, or a class label where the model has those.

    Attributes:
      prompt: text or label of the edited image; sdedit, inpaint and ddib can do without.
      method: null-text, negative-prompt and direct invert a real image and sample it again by prompt-to-prompt; p2p samples
        an image of --source and edits that; sdedit noises the image and samples from there; inpaint draws a region of it
        anew; ddib translates it through the noise to another prompt, or another model.
      image: image file, of the model's size or of --size.
      size: width and height of the image, where they are not the model's.
      source: text or label of the image as it is.
      steps: number of sampling steps; by default 50.
      guidance: scale of the guidance; by default the model's own, or 3 where that is 1.
      early: scale in the first fifth of the way, where shape is settled; by default the same, but 20 for p2p where
        --guidance is not given.
      mask: an image of the same size: its bright pixels are drawn anew, and the others kept.
      to: the model that the image is translated to; by default the same.
      sampler: sampler of p2p, sdedit and inpaint.
      seed: seed of everything random.
      save_inversion: keep the inversion in this .safetensors file.
      from_inversion: take it from there, and what is not given from how it was made: no --image, --source or --steps are
        needed.
      out: the edited image (.png); by default a new file in edits. The sheet beside it is named the same with _sheet.
      overwrite: replace files that are there.
    """

    prompt: str | None = None
    method: Annotated[Choice, tyro.conf.arg(name="")] = EDIT_METHODS.choice("null-text")
    image: File = None
    size: tuple[int, int] | None = None
    source: str | None = None
    steps: int | None = None
    guidance: float | None = None
    early: float | None = None
    mask: File = None
    to: str | None = None
    sampler: Annotated[Choice, tyro.conf.arg(name="")] = SAMPLERS.choice("ddim")
    seed: int | None = None
    save_inversion: File = None
    from_inversion: File = None
    out: File = None
    overwrite: bool = False


DEFAULT = EditFlags()


def main(name: str, args: list[str]) -> None:
    """`jaxdiff edit MODEL ...`."""
    model = models.load(name)
    models.denoiser_of(model)  # raises where it is none
    flags = parse(EditFlags(), args, f"jaxdiff edit {name}")
    model = with_adapters(model, flags)
    model = model.resized(*flags.size) if flags.size else model
    job = prepare(model, flags.method, given(flags, model), flags.steps)
    if flags.save_inversion is not None and "inversion" not in job.method.takes:
        raise ValueError(
            f"--save-inversion is for methods that invert the image, and not for --method {job.method.kind}"
        )
    paths = output_paths(flags, name)
    if "inversion" in paths:  # kept as soon as it is there, whatever happens on the way back
        job = job._replace(keep=lambda inversion: inversions.save(paths["inversion"], inversion, model))
    with progress.bar(job.method.kind, job.method.passes * job.num_steps, "steps") as tick:
        edited = job.method.run(job, tick)
    images.save_png(paths["edited"], images.to_pil(edited.image))
    images.save_png(paths["sheet"], images.panels(edited.panels))
    for what, path in paths.items():
        print(f"{what:<12} {path}")


def given(flags: EditFlags, model) -> dict:
    """Arguments of the edit; files are read.

    Raises:
      OSError, ValueError: a file that cannot be read.
    """
    H, W, _ = shape = model.image_shape
    inversion, image, mask = flags.from_inversion, flags.image, flags.mask
    return {
        "image": None if image is None else read_image(image, shape, "image"),
        "mask": None if mask is None else read_image(mask, (H, W, 1), "mask"),
        "to": flags.to and models.load(flags.to),
        "control": control_input(model, flags),
        "sampler": None if flags.sampler == SAMPLERS.choice("ddim") else flags.sampler,
        "inversion": None if inversion is None else inversions.load(located(inversion, "from_inversion"), model),
        **{name: getattr(flags, name) for name in ("prompt", "source", "guidance", "early", "seed")},
    }


def read_image(path: str, shape: tuple[int, int, int], flag: str = "image") -> np.ndarray:
    """The image in a file, uint8 [H, W, C].

    Raises:
      OSError, ValueError: there is none, it is of another size, or transparent; one line.
    """
    content = read_regular(located(path, flag))
    try:
        image = image_decode.decode(content, shape, exact=True)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    with Image.open(io.BytesIO(content), formats=image_decode.FORMATS) as file:
        if image_decode.is_transparent(file):
            raise ValueError(f"{path} is transparent, which no image of the model is: save it without alpha")
    return image


def output_paths(flags: EditFlags, name: str = "") -> dict[str, epath.Path]:
    """The files to write, by what they hold; `name` is that of the model, which is read.

    Raises:
      OSError, ValueError: as `writable`, or a file to write is one of those to read.
    """
    about = re.sub(r"[^a-z0-9]+", "-", (flags.prompt or "").lower()).strip("-")[:40]
    of = flags.image or flags.from_inversion
    stem = "_".join(
        part for part in ("drawn" if of is None else located(of, "image").stem[:80], flags.method.kind, about) if part
    )
    if flags.out is None:
        out = unused(output_dir(epath.Path("edits")) / f"{stem}.png", flags.overwrite, beside=("_sheet",))
    else:
        out = located(flags.out, "out")
    paths = {"edited": out, "sheet": out.with_stem(f"{out.stem}_sheet")}
    if flags.save_inversion is not None:
        paths["inversion"] = located(flags.save_inversion, "save_inversion")
    ending = {"inversion": (".safetensors",)}
    weights = (name, flags.to, *(weighted(each)[0] for each in flags.lora), *flags.controlnet)
    check_no_input(paths.values(), (flags.image, flags.mask, *flags.control, flags.from_inversion, *weights))
    return {what: writable(path, ending.get(what, (".png",)), flags.overwrite) for what, path in paths.items()}
