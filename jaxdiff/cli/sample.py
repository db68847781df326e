"""`jaxdiff sample`."""

import dataclasses
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from etils import epath

from jaxdiff import pretrained, progress
from jaxdiff.cli.adapters import AdapterFlags, adapted, steered
from jaxdiff.cli.files import unused, writable
from jaxdiff.cli.sampling import load_guide, parse_sampling
from jaxdiff.config import Sample
from jaxdiff.eval import draw, images
from jaxdiff.files import whole


@dataclasses.dataclass(frozen=True)
class SampleFlags(AdapterFlags):
    """Draws images from a trained model. What is not given is as in the model's config.

    Prompts stand right behind the model, each in quotes, or behind --prompts.

    Attributes:
      sample: how to draw.
      classifier: a classifier of noisy images that leads to the labels: its run, its file or its name.
      out: the grid (.png) to write; by default a new file in RUN/samples, or in samples where the model is no run. Where
        there are several classes or prompts, each has rows of its own.
      individual: also write each image as a PNG of its own, in a directory named as the grid.
      npz: also write all images as one uint8 array `images`, in an .npz named as the grid.
      animation: also show how the images came to be, in a .gif or .webp at this path.
      overwrite: replace files that are there.
    """

    sample: Annotated[Sample, tyro.conf.arg(name="")] = Sample()
    classifier: str | None = None
    out: Path | None = None
    individual: bool = False
    npz: bool = False
    animation: Path | None = None
    overwrite: bool = False


def sample(name: str, args: list[str]) -> None:
    """`jaxdiff sample MODEL ...`."""
    model = pretrained.load(name)
    flags = parse_sampling(SampleFlags(sample=model.config.sample), prompted(args), f"jaxdiff sample {name}")
    model = adapted(model, flags)
    config, steers = dataclasses.replace(model.config, sample=flags.sample), steered(model, flags)
    guide = load_guide(config, flags.classifier)
    draw.check(config, guide, steers)
    paths = output_paths(flags, samples_of(model))
    with progress.bar("sampling", draw.num_steps(config), "steps") as tick:
        parts = list(draw.batches(config, model.params, tick, "animation" in paths, guide, model.ends, steers))
    drawn, places = np.concatenate([part for part, _ in parts]), draw.layout(config, guide)
    about = places.shape[1], config.sample.prompts
    images.save_grid(paths["grid"], images.arranged(drawn, places), *about)
    if "individual" in paths:
        images.save_each(paths["individual"], drawn)
    if "npz" in paths:
        with whole(paths["npz"]) as file:
            np.savez_compressed(file, images=drawn)
    if "animation" in paths:
        frames = images.arranged(np.concatenate([frames for _, frames in parts], axis=1), places)
        images.save_animation(paths["animation"], frames, *about)
    for what, path in paths.items():
        print(f"{what:<12} {path}")


def prompted(args: list[str]) -> list[str]:
    """The arguments, with what comes before the first flag as --prompts."""
    first = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    if first and any(arg.split("=")[0] == "--prompts" for arg in args):
        raise ValueError("prompts stand right behind the model, or behind --prompts, and not in both places")
    return ["--prompts", *args[:first], *args[first:]] if first else args


def samples_of(model: pretrained.Model) -> epath.Path:
    """Where a model's samples go: into its run, or into a directory here."""
    return epath.Path(model.about["run"]) / "samples" if "run" in model.about else epath.Path("samples")


def output_paths(flags: SampleFlags, directory: epath.Path) -> dict[str, epath.Path]:
    """What will be written where.

    Raises:
      FileExistsError: something is there already and is not to be overwritten.
      ValueError: a file name whose ending is not a kind of file that is written, or whose directory is missing.
    """
    s = flags.sample
    about = "" if s.labels is None else f"_label{s.labels}"
    about += "".join(f"_{re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:40]}" for prompt in s.prompts[:1])
    about += "" if s.guidance == 1 else f"_guidance{s.guidance:g}"
    default = directory / f"{s.sampler}_{s.spacing}_{s.steps}{about}_seed{s.seed}.png"
    if not flags.out:
        directory.mkdir(parents=True, exist_ok=True)
    grid = epath.Path(flags.out) if flags.out else unused(default, flags.overwrite)
    paths = {"grid": grid}
    if flags.individual:
        paths["individual"] = grid.with_suffix("")
    if flags.npz:
        paths["npz"] = grid.with_suffix(".npz")
    if flags.animation:
        paths["animation"] = flags.animation
    endings = {"grid": (".png",), "animation": (".gif", ".webp")}
    return {what: writable(path, endings.get(what), flags.overwrite) for what, path in paths.items()}
