"""The base model of an adaptation: the parts of its config that the run takes over, and the examples to learn from."""

import dataclasses
import itertools
import json
from collections.abc import Callable

import jax
from etils import epath

from jaxdiff import data, hosts, progress, sharding
from jaxdiff.config import Config
from jaxdiff.data import Source, derived, image_decode
from jaxdiff.data.listing import list_paths
from jaxdiff.files import read_regular, write_whole
from jaxdiff.model import Model, adaptation, runs
from jaxdiff.model.frozen_models import load
from jaxdiff.pipeline import Request, images, requests, sampling
from jaxdiff.text.tokenizer import Tokenizer
from jaxdiff.train import rundir

# Fields of a config that may differ from the base's: how its network is computed, and how its loss is formed.
FREE = {
    "net": ("dtype", "remat", "attention_kernel", "dropout"),
    "diffusion": ("weighting", "objective", "pairing", "levels", "cond_dropout", "offset_noise", "input_perturbation"),
    "latent": (),
}
DISTILLED = FREE | {"diffusion": ("levels",)}  # of "few_steps", whose loss is no denoising


def open_base(config: Config, run: epath.PathLike | None) -> Model | None:
    """The base model, or its copy in a run that is resumed; None without adaptation.

    Raises:
      ValueError, OSError: it is missing, or cannot be adapted.
    """
    if config.adapt.base is None:
        return None
    # On the host: the training has a copy of its own on the devices.
    if run is not None:
        base = hosts.together(lambda: runs.kept_base(run, placement=sharding.host()), "the base model is read")
    else:
        base = load(config.adapt.base, sharding.host())
    base = base.replace(params=jax.device_get(base.params), submodels=sharding.replicated(base.submodels))
    if not base.config.samples or base.controls:
        raise ValueError(f"{config.adapt.base} is not a denoiser without ControlNets, which alone can be adapted")
    return base


def with_base(config: Config, base: Config | None) -> Config:
    """The config of a run with the network, process, codec and text encoder of its base model.

    Args:
      config: config whose network, process and latents are either left out, or the base's but for the fields in `FREE`.
      base: config of the base model; None without adaptation.

    Raises:
      ValueError: another field differs from the base's.
    """
    if base is None:
        return config
    if not config.samples:
        raise ValueError(f"`adapt` is for denoisers, and this network is of kind {config.net.kind!r}")
    shape = base.data.image_shape
    if config.data.image_shape != shape:
        raise ValueError(f"`data.image_shape`={config.data.image_shape} must be that of the base model, {shape}")
    if config.adapt.kind == "controlnet":
        base.net.check_control()
    left_out = {part: getattr(base, part) for part in FREE if getattr(config, part) == getattr(Config(), part)}
    config = dataclasses.replace(config, **left_out)
    for part, free in (DISTILLED if config.adapt.kind == "few_steps" else FREE).items():
        own, theirs = getattr(config, part), getattr(base, part)
        if type(own) is not type(theirs):
            raise ValueError(
                f"`{part}` is of kind {own.kind!r}, and that of the base model of {theirs.kind!r}: leave it out"
            )
        for field in dataclasses.fields(theirs):
            if field.name not in free and getattr(own, field.name) != getattr(theirs, field.name):
                raise ValueError(f"`{part}.{field.name}` is that of the base model: leave it out")
    return config


def examples(config: Config, source: Source, run: epath.PathLike) -> Source:
    """The examples of an adaptation; images of the class are there after `sample_class`.

    Raises:
      ValueError, OSError: data of the class that cannot be opened; encoded records where images or texts are needed.
    """
    a = config.adapt
    if a.trains_text_encoder:
        derived.check_plain(source, "the text encoder or new tokens are trained, on texts")
    if a.prompts:
        derived.check_plain(source, "`adapt.prompts` are encoded anew")
        source = derived.with_prompts(source, a.prompts)
    if a.prior.source:
        memory = int(config.data.memory_gib * 2**30)
        prior = data.load(data.parse(a.prior.source, like=config.data.source), config.data.image_shape, memory=memory)
        source = derived.with_prior(source, derived.with_prompts(prior, a.prior.prompts) if a.prior.prompts else prior)
    elif a.prior.prompts:
        source = derived.with_prior(source, class_images(config, run))
    return derived.with_control(source, a.condition) if a.kind == "controlnet" else source


def _is_read(words, token, text):
    """Tells whether a new token is among the tokens that are read of a text."""
    return words.token_ids(token)[0] in words([text])[0]


def prompts(config: Config, source: Source, words: Tokenizer | None = None) -> list[str]:
    """Some of the captions of an adaptation: its `prompts`, or else those of the images.

    Args:
      config: config of the run.
      source: its images.
      words: tokenizer of the base, with the new tokens; None without.

    Raises:
      ValueError: a new token that none of them holds, or holds where it is read.
    """
    a = config.adapt
    if a.base is None or not (a.prompts or source.captioned):
        return []
    captions = a.prompts or source.captions()  # all of them, so that one that is missing is refused at the start
    for token in a.new.tokens:
        if words and not any(_is_read(words, token, text) for text in captions if token in text.lower()):
            last = next((text for text in captions if token in text.lower()), None)
            if last is not None:
                raise ValueError(
                    f"the new token {token!r} stands behind the {words.length - 2} tokens that are read of each caption, "
                    f"such as {last!r}: it would not be learned"
                )
        if not any(token in text.lower() for text in captions):
            raise ValueError(
                f"none of the captions of {config.data.source} holds the new token {token!r}, such as {captions[0]!r}: it "
                "would not be learned"
            )
    return [*dict.fromkeys(itertools.islice(captions, adaptation.PROMPTS))]


def class_images(config: Config, run: epath.PathLike) -> Source:
    """The images of the class that were sampled from the base, image i for the i-th prompt in turn."""
    prior, paths = config.adapt.prior, [class_folder(run) / f"{i:06d}.png" for i in range(config.adapt.prior.num)]
    return Source(
        lambda i: {"image": image_decode.read_image(paths[i], config.data.image_shape)},
        prior.num,
        config.data.image_shape,
        caption=lambda i: prior.prompts[i % len(prior.prompts)],
        fingerprint=lambda: list_paths(paths).digest(),
        encoded=lambda i: read_regular(paths[i]),
        where=lambda i: paths[i].name,
    )


def class_folder(run: epath.PathLike) -> epath.Path:
    """The folder of a run's class images."""
    return epath.Path(run) / "class"


def sample_class(config: Config, base: Model, run: epath.PathLike, tick: Callable[[], None]) -> None:
    """Samples images of the class from the base model where they are needed and not there yet.

    Args:
      config: config of the run.
      base: base model.
      run: the run's directory.
      tick: called after every few steps; may raise, to stop.

    Raises:
      ValueError: the base cannot sample them, or images of another class are there.
    """
    prior, where = config.adapt.prior, class_folder(run)
    if not prior.prompts or prior.source:
        return
    asked = {"prompts": prior.prompts, "num": prior.num, "negative": "", "seed": config.train.seed}
    request = Request(dataclasses.replace(base.config.sample, **asked))
    about = json.dumps({"base": config.adapt.base, "sample": str(request.sample)})
    if (where / "about.json").exists():  # it is written when all of them are there
        if not rundir.holds_run(run) and (where / "about.json").read_text() != about:  # a run that goes on has the same
            raise ValueError(f"{where} holds images of another class: remove it, or choose another directory")
        return
    requests.check(base, request)
    base = base.replace(params=sharding.replicated(base.params))  # else they would go there with every call
    where.mkdir(parents=True, exist_ok=True)
    with progress.bar("sampling images of the class", sampling.num_ticks(base, request), "steps") as advance:

        def on(count):
            tick()
            advance(count)

        sampled = itertools.chain.from_iterable(batch for batch, _ in sampling.batches(base, request, on))
        for i, image in enumerate(sampled):
            images.save_png(where / f"{i:06d}.png", images.to_pil(image))
    write_whole(where / "about.json", about)
