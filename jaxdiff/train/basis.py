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

RUNS_HERE = ("dtype", "remat", "attention_kernel", "dropout")  # of a network: what its parameters know nothing of
PROCESS = ("schedule", "num_steps", "predict", "shift", "zero_snr")  # of a diffusion: what a network was trained for


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
    theirs, default = base.config, Config()
    if config.data.image_shape != theirs.data.image_shape:
        raise ValueError(
            f"--data.image-shape {config.data.image_shape} must be that of --base, {theirs.data.image_shape}"
        )
    own = {name: getattr(config.net, name) for name in RUNS_HERE}
    bare = dataclasses.replace(config.net, **{name: getattr(default.net, name) for name in RUNS_HERE})
    if bare == default.net:
        given = {name: value for name, value in own.items() if value != getattr(default.net, name)}
        net = dataclasses.replace(theirs.net, **given)
    else:
        net = dataclasses.replace(theirs.net, **own)
        _check_same("net", config.net, net)
    latent = theirs.latent if config.latent == default.latent else config.latent
    _check_same("latent", latent, theirs.latent)
    diffusion = theirs.diffusion if config.diffusion == default.diffusion else config.diffusion
    for name in PROCESS:
        _check_same(f"diffusion.{name.replace('_', '-')}", getattr(diffusion, name), getattr(theirs.diffusion, name))
    return dataclasses.replace(config, net=net, latent=latent, diffusion=diffusion)


def _check_same(what, own, theirs):
    if own != theirs:
        raise ValueError(f"--{what} is that of --base: leave it out")


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
