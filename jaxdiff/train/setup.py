"""From a config to what training needs: data, objective, step."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from jaxdiff import data, denoise, objectives
from jaxdiff.config import Config
from jaxdiff.data import derived
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.clip import CLIPConfig
from jaxdiff.nets.critic import PatchCritic
from jaxdiff.nets.unet import UNetConfig
from jaxdiff.train import adaptation, initial, parallel, speed
from jaxdiff.train.parts import Parts
from jaxdiff.train.state import TrainState
from jaxdiff.train.step import make_train_step, scanned
from jaxdiff.types import Cond


def open_source(config: Config):
    """The data that the config names.

    Raises:
      ValueError, OSError: as `jaxdiff.data.load`; no labels, or more of them than the network knows; no captions.
    """
    d, flag, labels = config.data, "--net.out-channels" if config.classifies else "--net.num-classes", config.classes
    source = data.load(data.parse(d.source, like=d), d.image_shape)
    if (config.latent.text or isinstance(config.net, CLIPConfig)) and not source.captioned:
        raise ValueError(f"{source.no_captions_reason}, and this network learns from captions")
    if d.wrong and not source.hard_negative:
        raise ValueError(f"--data.wrong={d.wrong} is for sources that make wrong captions, and {d.source} does not")
    if labels and not source.classes:
        otherwise = "" if config.classifies else f": {flag} 0 trains without labels"
        raise ValueError(f"{source.no_labels_reason}{otherwise}")
    if labels and len(source.classes) > labels:
        raise ValueError(
            f"{d.source} has {len(source.classes)} classes, and the network labels for {labels}: "
            f"{flag} {len(source.classes)}"
        )
    return source


def batches(config: Config, source, start: int, parts: Parts = Parts()) -> Iterator[tuple[dict, np.ndarray]]:
    """What this process's devices get in each call from step `start` on, and the numbers of those examples [K, B / P]."""
    T = config.train
    stream = data.batches(
        source,
        T.batch_size,
        seed=T.seed,
        start_step=start,
        steps_per_call=T.steps_per_call,
        labels=bool(config.classes),
        flip=config.data.flip,
        augment=config.data.augment,
        augment_cond=isinstance(config.net, UNetConfig) and bool(config.net.vector_dim),
        contexts=bool(config.latent.text),
        tokenize=parts.tokenizer,
        hard_negatives=config.data.wrong,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with contextlib.closing(stream):
        for batch in stream:
            examples = batch.pop("example")
            yield parallel.split(batch, axis=1), examples


def make_step(config: Config, parts: Parts = Parts()):
    """The training step on all devices, `train.steps_per_call` updates in each call; see `parallel.data_parallel`."""
    optimizer, base = initial.make_optimizer(config), parts.base
    join = adaptation.joined(config, base) if base else None
    step = make_train_step(make_loss(config, parts), optimizer, config.optim.ema_decay, config.train.accumulate, join)
    return parallel.data_parallel(scanned(step), frozen=bool(base))


def make_loss(config: Config, parts: Parts = Parts()):
    """The objective that the config names, inside of `parallel.data_parallel`; see `objectives`."""
    if isinstance(config.net, CLIPConfig):
        return objectives.contrastive(config.make_net(), axis_name=parallel.AXIS)
    if isinstance(config.net, AutoencoderConfig):
        return _autoencoder_loss(config)
    if parts.base:
        loss_fn = _diffusion_loss(config, adaptation.make_apply(config, parts.base), parts)
        return (
            objectives.dreambooth(loss_fn, config.adapt.prior_weight, derived.PRIOR_FRACTION)
            if config.adapt.keeps_class
            else loss_fn
        )
    return _diffusion_loss(config, denoise.network(config.make_net()), parts)


def _diffusion_loss(config, apply, parts):
    d, levels = config.diffusion, initial.make_levels(config)
    if config.classifies:
        return objectives.classification(apply, d.make_schedule(), levels=levels)
    null = Cond(config.net.num_classes if config.net.num_classes else None, context=parts.no_text) if d.drop else None
    if d.objective == "bound":
        says_variance = config.net.out_channels == 2 * config.shape[-1]
        variance = "learned" if says_variance else "posterior"
        return objectives.variational_bound(apply, d.make_schedule(), d.predict, variance, null, d.drop, levels=levels)
    return objectives.denoising(
        apply,
        d.make_schedule(),
        d.predict,
        objectives.WEIGHTINGS[d.weighting],
        null,
        d.drop,
        levels=levels,
        bound_weight=0.001 if d.objective == "hybrid" else 0.0,
        offset_noise=d.offset_noise,
        input_perturbation=d.input_perturbation,
    )


def _autoencoder_loss(config):
    r, net = config.reconstruction, config.make_net()
    critic = PatchCritic() if r.critic_weight else None
    learns = {"error": r.error, "critic": critic, "critic_weight": r.critic_weight}
    if not r.words:
        return objectives.kl_autoencoder(net, r.kl_weight, **learns)
    return objectives.vq_autoencoder(net, r.commitment, r.decay, r.dead, axis_name=parallel.AXIS, **learns)


def compiled(
    config: Config, state: TrainState, key, batch, parts: Parts = Parts()
) -> tuple[Callable, float | None, float]:
    """The training step, compiled for such arguments; its FLOPs per step and device, None if unknown; the seconds it took.

    The FLOPs are those of the program as it is written: what `net.remat` computes twice counts twice, cuDNN's attention
    does not count, and on a CPU some convolutions are the cheaper Winograd ones.
    """
    start, step = time.perf_counter(), make_step(config, parts)
    frozen = (parallel.replicate(adaptation.frozen(config, parts.base)),) if parts.base else ()
    lowered = whole = step.lower(state, key, batch, *frozen)
    if config.train.accumulate > 1:  # the body of that loop, counted once, is a part of a step
        at_once = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=1))
        whole = make_step(at_once, parts).lower(state, key, batch, *frozen)
    lowered.compile()  # kept where the call of `step` finds it; to be called itself it would want global arrays
    return (lambda state, key, batch: step(state, key, batch, *frozen)), speed.flops(whole), time.perf_counter() - start
