"""`jaxdiff sample`."""

import dataclasses
import logging
import re
import time
from typing import Annotated

import numpy as np
import tyro
from etils import epath

from jaxdiff import model as models
from jaxdiff import progress
from jaxdiff.cli.adapters import AdapterFlags, control_input, parsed
from jaxdiff.cli.files import File, check_no_input, located, output_dir, unused, writable, writable_dir
from jaxdiff.config import Sample
from jaxdiff.data import image_decode
from jaxdiff.files import whole
from jaxdiff.model import Model
from jaxdiff.pipeline import ImagePrompt, Request, images, requests, sampling

log = logging.getLogger("jaxdiff")


@dataclasses.dataclass(frozen=True)
class SampleFlags(AdapterFlags):
    """Samples images from a model. The defaults are those of the model's config.

    Prompts stand right behind the model, each in quotes, or behind --prompts.

    Attributes:
      sample: how the images are sampled.
      classifier: classifier of noisy images that guides to the labels: its run, file or name.
      ip_adapter: IP-Adapter, a .safetensors file, with --image-encoder and --image-prompt.
      image_encoder: folder of the image encoder of --ip-adapter.
      image_prompt: picture beside the prompts, with --ip-adapter; what is transparent in it is white.
      image_prompt_scale: its weight.
      out: the grid (.png) to write; by default a new file in RUN/samples, or in samples where the model is not a run. Of
        several classes or prompts, each has rows of its own.
      individual: also write each image as a PNG of its own, in a directory named as the grid.
      npz: also write all images as one uint8 array `images`, in an .npz named as the grid.
      animation: also show the sampling step by step, in a .gif or .webp at this path.
      overwrite: replace files that are there.
    """

    sample: Annotated[Sample, tyro.conf.arg(name="")] = Sample()
    classifier: str | None = None
    ip_adapter: str | None = None
    image_encoder: str | None = None
    image_prompt: File = None
    image_prompt_scale: float = 1.0
    out: File = None
    individual: bool = False
    npz: bool = False
    animation: File = None
    overwrite: bool = False


DEFAULT = SampleFlags()
DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"


def main(name: str, args: list[str]) -> None:
    """`jaxdiff sample MODEL ...`."""
    began = time.perf_counter()
    model = models.load(name)
    of = lambda model: SampleFlags(sample=model.config.sample)
    flags, model = parsed(model, of, prompted(args), f"jaxdiff sample {name}")
    model = with_image_prompts(model, flags)
    classifier = flags.classifier and models.load(flags.classifier)
    control = control_input(requests.sized(model, flags.sample), flags)
    request = Request(flags.sample, None, classifier, control, image_prompt(flags))
    requests.check(model, request)
    paths, places = output_paths(flags, samples_of(model)), sampling.layout(model, request)
    if "animation" in paths:
        images.check_animation(paths["animation"], sheet_size(model, request, places))
    with progress.bar("sampling", sampling.num_ticks(model, request), "steps") as tick:
        made = sampling.batches(model, request, tick, "animation" in paths)
        batches = [next(made)]
        seconds = time.perf_counter() - began
        batches += made
    log.info("first images after %.1f s", seconds)
    write(paths, batches, places, request.sample.prompts)
    for what, path in paths.items():
        print(f"{what:<12} {path}")


def with_image_prompts(model: Model, flags: SampleFlags) -> Model:
    """The model with the IP-Adapter of the flags.

    Raises:
      OSError, ValueError: it cannot be read, or some of the flags are missing.
    """
    if flags.ip_adapter is None and flags.image_encoder is None:
        return model
    if None in (flags.ip_adapter, flags.image_encoder, flags.image_prompt):
        raise ValueError("--ip-adapter, --image-encoder and --image-prompt go together: give all, or none")
    return models.with_ip_adapter(model, flags.ip_adapter, flags.image_encoder)


def image_prompt(flags: SampleFlags) -> ImagePrompt | None:
    """The picture of the flags.

    Raises:
      OSError, ValueError: it cannot be read, or has a weight without a picture.
    """
    if flags.image_prompt is None:
        if flags.image_prompt_scale != 1:
            raise ValueError("--image-prompt-scale is of --image-prompt: give a picture, or leave it out")
        return None
    picture = image_decode.read_image(located(flags.image_prompt, "image_prompt"), (None, None, 3))
    return ImagePrompt(picture[None], flags.image_prompt_scale)


def write(paths: dict, batches: list, places: np.ndarray, prompts: tuple[str, ...]) -> None:
    """Writes images and frames to the files that are wanted."""
    sampled, about = np.concatenate([batch for batch, _ in batches]), (places.shape[1], prompts)
    images.save_grid(paths["grid"], images.arranged(sampled, places), *about)
    if "individual" in paths:
        images.save_each(paths["individual"], sampled)
    if "npz" in paths:
        with whole(paths["npz"]) as file:
            np.savez_compressed(file, images=sampled)
    if "animation" in paths:
        frames = images.arranged(np.concatenate([frames for _, frames in batches], axis=1), places)
        images.save_animation(paths["animation"], frames, *about)


def sheet_size(model: Model, request: Request, places: np.ndarray) -> tuple[int, int]:
    """Width and height of the grid that will be written."""
    return images.sheet_size(requests.sized(model, request.sample).image_shape, places, request.sample.prompts)


def prompted(args: list[str]) -> list[str]:
    """The arguments, with those before the first flag as --prompts.

    Raises:
      ValueError: prompts in two places, or a flag that begins with another dash than "-", as word processors write it.
    """
    if dashed := next((arg for arg in args if re.match(r"[\u2010-\u2015\u2212]+-?[a-z]", arg)), None):
        raise ValueError(f"{dashed!r} begins with a dash that is not '-': type --{dashed.lstrip(DASHES)}")
    first = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    if first and any(arg.split("=")[0] == "--prompts" for arg in args):
        raise ValueError("prompts stand right behind the model, or behind --prompts, and not in both places")
    return ["--prompts", *args[:first], *args[first:]] if first else args


def samples_of(model: Model) -> epath.Path:
    """The directory of a model's samples: in its run, or here."""
    return epath.Path(model.origin.run) / "samples" if model.origin.run else epath.Path("samples")


def output_paths(flags: SampleFlags, directory: epath.Path) -> dict[str, epath.Path]:
    """The files to write, by what they hold.

    Raises:
      OSError, ValueError: as `writable`, or a file to write is one of those to read.
    """
    s = flags.sample
    about = "" if s.labels is None else f"_label{s.labels.replace('/', '-')[:40]}"
    about += "".join(f"_{re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:40]}" for prompt in s.prompts[:1])
    about += "" if s.guidance == 1 else f"_guidance{s.guidance:g}"
    default = directory / f"{s.sampler.kind}_{s.spacing.kind}_{s.steps}{about}_seed{s.seed}.png"
    if flags.out is None:
        output_dir(directory)
    grid = located(flags.out, "out") if flags.out is not None else unused(default, flags.overwrite)
    paths = {"grid": grid}
    if flags.npz:
        paths["npz"] = grid.with_suffix(".npz")
    if flags.animation is not None:
        paths["animation"] = located(flags.animation, "animation")
    endings = {"grid": (".png",), "animation": (".gif", ".webp")}
    paths = {what: writable(path, endings.get(what), flags.overwrite) for what, path in paths.items()}
    if flags.individual:
        paths["individual"] = writable_dir(grid.with_suffix(""), flags.overwrite)
    check_no_input(paths.values(), (flags.image_prompt, *flags.control))
    return paths
