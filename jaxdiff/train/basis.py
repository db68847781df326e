"""The model that a run adapts: what of its config the run's is made of, and which examples it learns from."""

import dataclasses
import io
from collections.abc import Callable

from etils import epath

from jaxdiff import data, pretrained, progress
from jaxdiff.config import Config
from jaxdiff.data import Source, few, folder
from jaxdiff.eval import draw, images
from jaxdiff.pretrained import Model
from jaxdiff.train import hosts

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
        base = hosts.together(lambda: pretrained.load(config.adapt.base), f"{config.adapt.base} is read")
    if not base.config.draws or base.controls:
        raise ValueError(f"--base {config.adapt.base} is not a model that draws by itself: give the one that it is of")
    return base


def of_base(config: Config, base: Model | None) -> Config:
    """The config of a run with the network, the process and the ends of its base.

    Raises:
      ValueError: it asks for others.
    """
    if base is None:
        return config
    shape = base.config.data.image_shape
    if config.data.image_shape != shape:
        raise ValueError(f"--data.image-shape {config.data.image_shape} must be that of --base, {shape}")
    parts = {name: _merged(name, config, base.config) for name in FREE}
    return dataclasses.replace(config, **parts)


def _merged(part, config, base):
    """The base's part of a config, with what the config says otherwise and may."""
    own, theirs, default = (getattr(one, part) for one in (config, base, Config()))
    said = {field.name: getattr(own, field.name) for field in dataclasses.fields(default)}
    said = {name: value for name, value in said.items() if value != getattr(default, name)}
    for name, value in said.items():
        if name not in FREE[part] and value != getattr(theirs, name):
            raise ValueError(f"--{part}.{name.replace('_', '-')} is that of --base: leave it out")
    return dataclasses.replace(theirs, **said)


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
      ValueError: the base cannot draw them.
    """
    a, where = config.adapt, class_folder(run)
    if not a.prior or a.prior_source or (where / f"{a.prior_images - 1:06d}.png").exists():
        return
    asked = {"prompts": a.prior, "num": a.prior_images, "negative": "", "seed": config.train.seed}
    like = dataclasses.replace(base.config, sample=dataclasses.replace(base.config.sample, **asked))
    draw.check(like)
    with progress.bar("drawing images of the class", draw.num_steps(like), "steps") as advance:

        def on(count):
            tick()
            advance(count)

        drawn = draw.draw(like, base.params, on, ends=base.ends)
    where.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(drawn):  # the last one is there when all are
        images.to_pil(image).save(file := io.BytesIO(), "PNG")
        (where / f"{i:06d}.png").write_bytes(file.getvalue())
