"""Data, loss and compiled step of a config."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from jaxdiff import data, objectives
from jaxdiff.config import Config, Data
from jaxdiff.data import Source, caption_tags, derived
from jaxdiff.model import adaptation
from jaxdiff.model.frozen_models import FrozenModels
from jaxdiff.nets.critic import PatchCritic
from jaxdiff.train import initial, parallel, speed
from jaxdiff.train.state import TrainState
from jaxdiff.train.step import make_train_step, scanned
from jaxdiff.types import Cond

log = logging.getLogger("jaxdiff")


def of_own(d: Data, source: Source) -> Data:
    """The data of a config for a source that is given in its place, with the sizes that it has.

    Raises:
      ValueError: `data.buckets` that are not those of the source.
    """
    buckets = tuple(shape[:2] for shape in source.buckets.shapes) if source.buckets else d.buckets
    if d.buckets not in ((), buckets):
        raise ValueError(f"`data.buckets` {d.buckets} are not those of the source, {buckets}: leave them out")
    return dataclasses.replace(d, source="own", buckets=buckets, random_crop=d.random_crop or source.crops)


def open_source(config: Config, source: Source | None = None) -> Source:
    """The training data of a config, or a given source, if the network can be trained on it.

    Raises:
      ValueError, OSError: as `jaxdiff.data.load`; no labels, or more of them than the network knows; no captions.
    """
    d, labels = config.data, config.net.classes
    field = "`net.out_channels`" if config.classifies else "`net.num_classes`"
    memory = int(d.memory_gib * 2**30)
    source = data.load(d.source, d.image_shape, memory=memory) if source is None else derived.checked(source)
    sized = source.buckets or source.crops  # one that was given so
    if d.min_size or ((d.buckets or d.random_crop) and not sized):
        source = data.sized(source, d.buckets, d.min_size, d.random_crop, memory=memory)
    if source.image_shape != d.image_shape:
        raise ValueError(f"the source's images are {source.image_shape}, and `data.image_shape` is {d.image_shape}")
    if (config.latent.text_encoder or config.role == "clip") and not source.captioned:
        raise ValueError(f"{source.no_captions_reason}, and this network learns from captions")
    if d.caption_tags.active:
        derived.check_plain(source, "`data.caption_tags` changes captions", ["text_encoder"])
    source = caption_tags.with_trigger(source, d.trigger)
    if d.hard_negatives and not source.hard_negative:
        raise ValueError(
            f"`data.hard_negatives`={d.hard_negatives} is for sources that make wrong captions, and {d.source} does not"
        )
    if labels and not source.classes:
        otherwise = "" if config.classifies else f": {field} 0 trains without labels"
        raise ValueError(f"{source.no_labels_reason}{otherwise}")
    if labels and len(source.classes) > labels:
        raise ValueError(
            f"{d.source} has {len(source.classes)} classes, and the network labels for {labels}: "
            f"{field} {len(source.classes)}"
        )
    return source


def check_trigger(config: Config, frozen: FrozenModels) -> None:
    """Refuses a trigger that the tokenizer does not read as a whole.

    Raises:
      ValueError: it is cut off, or holds what the tokenizer does not know.
    """
    trigger, words = config.data.trigger, frozen.tokenizer or (frozen.text_encoder and frozen.text_encoder.tokenizer)
    if not trigger or not words:
        return
    if (cut := words.truncation(trigger)) is not None:
        raise ValueError(
            f"of `data.trigger` {trigger!r} the end {cut[1]!r} is cut: {words.length - 2} tokens are read of each caption"
        )
    ids = words.token_ids(trigger)
    if not ids or {words.start_id, words.end_id} & {*ids}:
        raise ValueError(f"`data.trigger` {trigger!r} holds what the tokenizer does not know: choose other words")


def with_names(config: Config, source: Source, learned: Config | None) -> tuple[Config, Source]:
    """The config with the names of its labels, and the source with labels in their order.

    Args:
      config: config of the run.
      source: its data.
      learned: config of the run that is resumed, or of the base model that is adapted, whose labels stay; None of neither.

    Raises:
      ValueError: a class of the source that was not learned.
    """
    if not config.net.classes:
        return config, source
    names = learned.data.classes if learned else config.data.classes or source.classes
    if not learned:
        log.info("%d classes: %s", len(names), ", ".join(names[:20]) + (", ..." if len(names) > 20 else ""))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, classes=names))
    return config, derived.as_learned(source, names, config.data.source.kind == "folder")


def batches(
    config: Config, source: Source, start: int, frozen: FrozenModels = FrozenModels()
) -> Iterator[tuple[dict, np.ndarray]]:
    """Batches of this process's devices from step `start` on, and the numbers of their examples [K, B / P]."""
    T = config.train
    stream = data.batches(
        source,
        T.batch_size,
        seed=T.seed,
        start_step=start,
        steps_per_call=T.steps_per_call,
        labels=bool(config.net.classes),
        flip=config.data.flip,
        augment=config.data.augment,
        augment_cond=bool(getattr(config.net, "vector_dim", 0)) and not config.latent.second_text_encoder,
        contexts=bool(config.latent.text_encoder),
        tokenize=frozen.tokenizer or _tokens(config, source, frozen),
        hard_negatives=config.data.hard_negatives,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        tags=config.data.caption_tags,
        trigger=config.data.trigger,
        num_workers=config.data.workers,
    )
    with contextlib.closing(stream):
        for batch in stream:
            examples = batch.pop("example")
            yield parallel.of(config.train).rows(batch, axis=1), examples


def _tokens(config, source, frozen):
    """The function by which texts become token ids in each step; None where they are encoded before."""
    in_steps = config.encodes_texts and frozen.text_encoder and source.captioned
    return frozen.text_encoder.token_ids if in_steps else None


def make_step(
    config: Config, frozen: FrozenModels = FrozenModels(), devices: parallel.Pmap | parallel.Sharded | None = None
):
    """The training step on all devices, `train.steps_per_call` updates in each call; see `parallel`.

    Runs without frozen models whose programs are the same share one, so that the second does not compile again.

    Args:
      config: config of the run.
      frozen: its frozen models.
      devices: devices to compile for; those that there are by default.
    """
    if devices:
        return _step(config, frozen, devices)
    if frozen.submodels or frozen.base or frozen.empty_text is not None:
        return _step(config, frozen, parallel.of(config.train))
    return _shared_step(initial.program(config))


@functools.lru_cache(maxsize=8)
def _shared_step(config):
    return _step(config, FrozenModels(), parallel.of(config.train))


def _step(config, frozen, devices):
    optimizer, base = initial.make_optimizer(config), frozen.base
    join = adaptation.joined(config, base) if base else None
    loss_fn = LOSSES[config.role](config, frozen)
    step = make_train_step(loss_fn, optimizer, config.optim.ema_decay, config.train.accumulate, join)
    return devices.step(scanned(step), frozen=bool(base))


def diffusion_loss(config: Config, frozen: FrozenModels) -> Callable:
    """The loss of a denoiser, trained from scratch or adapted."""
    if not frozen.base:
        return _denoising_loss(
            config, config.diffusion.scaled(config.diffusion.network(config.make_trained_net())), frozen
        )
    if config.adapt.kind == "few_steps":
        return _few_steps_loss(config, frozen)
    loss_fn = _denoising_loss(config, adaptation.make_apply(config, frozen.base), frozen)
    prior = config.adapt.prior
    return objectives.dreambooth(loss_fn, prior.weight, derived.PRIOR_FRACTION) if prior.wanted else loss_fn


def _few_steps_loss(config, frozen):
    a, d, schedule = config.adapt, config.diffusion, config.diffusion.make_schedule()
    null = _null(config, frozen) if a.guidance != 1 else None
    apply, teacher = adaptation.make_apply(config, frozen.base), adaptation.make_teacher(config)
    levels = initial.make_levels(config)
    if a.objective == "reflow":
        coupling = objectives.reflow(teacher, schedule, d.predict, null, a.guidance, a.intervals)
        return objectives.denoising(apply, schedule, d.predict, d.weighting, levels=levels, coupling=coupling)
    options = {"scale": a.guidance, "intervals": a.intervals, "phases": a.phases, "huber": a.huber, "levels": levels}
    return objectives.consistency(apply, teacher, schedule, d.predict, null, **options)


def _null(config, frozen):
    """The condition that stands for none."""
    return Cond(config.net.null_label, vector=frozen.empty_vector, context=frozen.empty_text)


def _denoising_loss(config, apply, frozen):
    d, levels, null = config.diffusion, initial.make_levels(config), None
    if d.cond_dropout:
        null = _null(config, frozen)
    if d.objective == "bound":
        variance = "learned" if config.net.learns_variance(config.shape[-1]) else "posterior"
        schedule = d.make_schedule()
        return objectives.variational_bound(apply, schedule, d.predict, variance, null, d.cond_dropout, levels=levels)
    if d.objective == "mean_flow":
        return objectives.mean_flow(apply, d.make_schedule(), null, d.cond_dropout, levels=levels)
    return objectives.denoising(
        apply,
        d.make_schedule(),
        d.predict,
        d.weighting,
        null,
        d.cond_dropout,
        levels=levels,
        coupling=objectives.optimal_transport() if d.pairing == "optimal_transport" else None,
        bound_weight=0.001 if d.objective == "hybrid" else 0.0,
        offset_noise=d.offset_noise,
        input_perturbation=d.input_perturbation,
    )


def classifier_loss(config: Config, frozen: FrozenModels) -> Callable:
    """The loss of a classifier of noisy images."""
    apply, schedule = config.diffusion.network(config.make_net()), config.diffusion.make_schedule()
    return objectives.classification(apply, schedule, levels=initial.make_levels(config))


def autoencoder_loss(config: Config, frozen: FrozenModels) -> Callable:
    """The loss of an autoencoder, with a codebook or a KL divergence."""
    r, net = config.reconstruction, config.make_net()
    critic = PatchCritic() if r.critic_weight else None
    shared = {"error": r.error, "critic": critic, "critic_weight": r.critic_weight}
    if not config.net.codebook_size:
        return objectives.kl_autoencoder(net, r.kl_weight, **shared)
    shared["axis_name"] = parallel.axis_name(config.train)
    return objectives.vq_autoencoder(net, r.commitment, r.decay, r.dead_below, **shared)


def clip_loss(config: Config, frozen: FrozenModels) -> Callable:
    """The contrastive loss of a CLIP."""
    return objectives.contrastive(config.make_net(), axis_name=parallel.axis_name(config.train))


LOSSES = {
    "denoiser": diffusion_loss,
    "classifier": classifier_loss,
    "autoencoder": autoencoder_loss,
    "clip": clip_loss,
}


def compiled(
    config: Config, state: TrainState, key, batch, frozen: FrozenModels = FrozenModels(), kept: str = ""
) -> tuple[Callable, float | None, float]:
    """The training step, compiled for such arguments; its FLOPs per step and device, None if unknown; seconds of compiling.

    The FLOPs are those of the program as it is written: what `net.remat` computes twice counts twice, cuDNN's attention
    does not count, and on a CPU some convolutions are the cheaper Winograd ones. A step in the file `kept` is taken if it
    is of the same program, see `kept_step`.
    """
    start, step, devices = time.perf_counter(), make_step(config, frozen), parallel.of(config.train)
    params = ()
    if frozen.base:
        params = (devices.place(adaptation.frozen_params(config, frozen.base)),)
    lowered = whole = devices.lower(step, state, key, batch, *params)
    if config.train.accumulate > 1:  # the body of that loop, counted once, is a part of a step
        at_once = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=1))
        whole = devices.lower(make_step(at_once, frozen), state, key, batch, *params)
    step, flops = devices.compiled(step, lowered, kept), speed.flops(whole)
    flops = flops and flops / devices.sharing
    return (lambda state, key, batch: step(state, key, batch, *params)), flops, time.perf_counter() - start
