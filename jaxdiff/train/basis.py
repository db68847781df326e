"""The model that a run adapts: what of its config the run's is made of, and which examples it learns from."""

import dataclasses
import itertools
import json
from collections.abc import Callable

from etils import epath

from jaxdiff import data, pretrained, progress
from jaxdiff.config import Config
from jaxdiff.data import Source, few, folder
from jaxdiff.eval import draw, images
from jaxdiff.files import write_whole
from jaxdiff.nets.unet import UNetConfig
from jaxdiff.pretrained import Model
from jaxdiff.train import adaptation, hosts
from jaxdiff.train.parts import load

# What of a config may differ from the base's: how its network runs, and how its objective goes about it.
FREE = {
    "net": ("dtype", "remat", "attention_kernel", "dropout"),
    "diffusion": ("weighting", "objective", "levels", "drop", "offset_noise", "input_perturbation"),
    "latent": (),
}


def open_base(config: Config, run: epath.PathLike | None) -> Model | None:
    """The model that is adapted, or its copy in a run that is gone on with; None where none is.

    Raises:
      ValueError, OSError: there is none, or it cannot be adapted.
    """
    if config.adapt.base is None:
        return None
    if run is not None:
        base = hosts.together(lambda: pretrained.kept_base(run), "the model that is adapted is read")
    else:
        base = load(config.adapt.base)
    if not base.config.draws or base.controls:
        raise ValueError(f"--base {config.adapt.base} is not a model that draws by itself: give the one that it is of")
    return base


def of_base(config: Config, base: Config | None) -> Config:
    """The config of a run with the network, the process and the ends of its base.

    Args:
      config: whose network, process and ends are either left out, or the base's but for what `FREE` names.
      base: of the model that is adapted; None is none.

    Raises:
      ValueError: it asks for others.
    """
    if base is None:
        return config
    if not isinstance(config.net, UNetConfig):
        raise ValueError(f"--base is for models that draw, and this config is of {type(config.net).__name__}")
    shape = base.data.image_shape
    if config.data.image_shape != shape:
        raise ValueError(f"--data.image-shape {config.data.image_shape} must be that of --base, {shape}")
    left_out = {part: getattr(base, part) for part in FREE if getattr(config, part) == getattr(Config(), part)}
    config = dataclasses.replace(config, **left_out)
    for part, free in FREE.items():
        own, theirs = getattr(config, part), getattr(base, part)
        for field in dataclasses.fields(theirs):
            if field.name not in free and getattr(own, field.name) != getattr(theirs, field.name):
                raise ValueError(f"--{part}.{field.name.replace('_', '-')} is that of --base: leave it out")
    return config


def examples(config: Config, source: Source, run: epath.PathLike) -> Source:
    """What a run that adapts a model learns from; images of the class are there after `draw_class`.

    Raises:
      ValueError, OSError: data of the class that cannot be opened.
    """
    a = config.adapt
    if a.prompts:
        source = few.prompted(source, a.prompts)
    if a.prior_source:
        prior = data.load(a.prior_source, config.data.image_shape, resize=config.data.resize)
        source = few.with_class(source, few.prompted(prior, a.prior) if a.prior else prior)
    elif a.prior:
        source = few.with_class(source, class_images(config, run))
    return few.conditioned(source, a.condition) if a.condition else source


def prompts(config: Config, source: Source) -> list[str]:
    """What the images show that a run adapts its base to, some of it: `adapt.prompts`, or else their captions.

    Raises:
      ValueError: a new word that none of them holds.
    """
    if config.adapt.base is None or not (config.adapt.prompts or source.captioned):
        return []
    said = lambda: iter(config.adapt.prompts) if config.adapt.prompts else map(source.caption, range(len(source)))
    for word in config.adapt.words:
        if not any(word in text.lower() for text in said()):
            raise ValueError(
                f"none of the captions of {config.data.source} holds the new word {word!r}, such as {next(said())!r}: it "
                "would not be learned"
            )
    return [*dict.fromkeys(itertools.islice(said(), adaptation.PROMPTS))]


def class_images(config: Config, run: epath.PathLike) -> Source:
    """The images of the class that the base draws, image i for the i-th prompt in turn."""
    a, paths = config.adapt, [class_folder(run) / f"{i:06d}.png" for i in range(config.adapt.prior_images)]
    return Source(
        lambda i: {"image": folder.read_image(paths[i], config.data.image_shape)},
        a.prior_images,
        config.data.image_shape,
        caption=lambda i: a.prior[i % len(a.prior)],
        files=tuple(paths),
    )


def class_folder(run: epath.PathLike) -> epath.Path:
    """Where a run has them."""
    return epath.Path(run) / "class"


def draw_class(config: Config, base: Model, run: epath.PathLike, tick: Callable[[], None]) -> None:
    """Draws images of the class by the base where they are needed and not there yet.

    Args:
      config: of the run.
      base: the model that is adapted.
      run: the run's directory.
      tick: called after every few steps; may raise, to stop.

    Raises:
      ValueError: the base cannot draw them, or images of another class are there.
    """
    a, where = config.adapt, class_folder(run)
    if not a.prior or a.prior_source:
        return
    asked = {"prompts": a.prior, "num": a.prior_images, "negative": "", "seed": config.train.seed}
    like = dataclasses.replace(base.config, sample=dataclasses.replace(base.config.sample, **asked))
    said = json.dumps({"base": a.base, "sample": dataclasses.asdict(like.sample)})
    if (where / "about.json").exists():  # which is written when all of them are there
        if (where / "about.json").read_text() != said:
            raise ValueError(f"{where} holds images of another class: remove it, or choose another --run-dir")
        return
    draw.check(like)
    with progress.bar("drawing images of the class", draw.num_steps(like), "steps") as advance:

        def on(count):
            tick()
            advance(count)

        drawn = draw.draw(like, base.params, on, ends=base.ends)
    where.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(drawn):
        images.save_png(where / f"{i:06d}.png", images.to_pil(image))
    write_whole(where / "about.json", said)
