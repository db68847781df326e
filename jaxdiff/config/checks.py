"""Refusing what could not be trained: every check of a config's numbers, alone and beside one another."""

import math

import jax

from jaxdiff.config.fields import Config
from jaxdiff.data import augment
from jaxdiff.denoise import check_kind


def check(config: Config) -> None:
    """Refuses a config that could not be trained on the devices that there are.

    Raises:
      ValueError: one line that says what to change.
    """
    train, optim = config.train, config.optim
    positive = (train.steps, train.accumulate, train.steps_per_call, train.log_every, train.save_every)
    if min(positive) < 1 or train.sample_every < 0:
        raise ValueError("numbers of steps and --train.accumulate must be at least 1 (--train.sample-every may be 0)")
    if train.keep < 2:
        raise ValueError(f"--train.keep={train.keep} must be at least 2: the newest checkpoint may be damaged")
    if train.batch_size < 1 or train.batch_size % jax.device_count():
        raise indivisible("--train.batch-size", train.batch_size, jax.device_count())
    if train.batch_size // jax.device_count() % train.accumulate:
        raise ValueError(
            f"--train.accumulate={train.accumulate} does not divide the {train.batch_size // jax.device_count()} examples "
            f"of each of {jax.device_count()} devices"
        )
    if train.seed < 0:
        raise ValueError(f"--train.seed={train.seed} must be 0 or more")
    for field in ("steps", "log_every", "sample_every", "save_every"):
        if getattr(train, field) % train.steps_per_call:
            flag = f"--train.{field.replace('_', '-')}"
            raise ValueError(
                f"{flag}={getattr(train, field)} must be a multiple of steps_per_call={train.steps_per_call}"
            )
    if not 0 <= optim.warmup < train.steps:
        raise ValueError(f"--optim.warmup={optim.warmup} must be shorter than --train.steps={train.steps}")
    if not 0 <= optim.ema_decay < 1:
        raise ValueError(f"--optim.ema-decay={optim.ema_decay} must lie in [0, 1)")
    if not (0 < optim.learning_rate < math.inf and optim.clip > 0):
        raise ValueError(f"--optim.learning-rate={optim.learning_rate} and --optim.clip={optim.clip} must be above 0")
    for name, low, high in (("b1", 0, 1), ("b2", 0, 1), ("decay_to", 0, math.inf), ("weight_decay", 0, math.inf)):
        if not low <= (value := getattr(optim, name)) < high:
            raise ValueError(f"--optim.{name.replace('_', '-')}={value} must be at least {low} and below {high}")
    config.net.check_platform(jax.default_backend())
    config.net.check_image(config.data.image_shape)
    _check_diffusion(config)
    _check_conditions(config)


def _check_conditions(config):
    """What the network is told goes with what the data brings."""
    d, net, drop = config.data, config.net, config.diffusion.drop
    if not 0 <= d.augment <= 3:
        raise ValueError(f"--data.augment={d.augment} must lie in [0, 3]: 1 turns by up to 10 degrees")
    if net.vector_dim and (net.vector_dim != augment.DIM or not d.augment):
        raise ValueError(
            f"--net.vector-dim={net.vector_dim} must be 0, or {augment.DIM} with --data.augment, whose amounts are the "
            "only vectors that data brings"
        )
    if net.context_dim or net.image_channels:
        raise ValueError(
            f"--net.context-dim={net.context_dim} and --net.image-channels={net.image_channels} must be 0: data brings "
            "neither texts nor pictures yet"
        )
    if not 0 <= drop < 1:
        raise ValueError(f"--diffusion.drop={drop} must lie in [0, 1)")
    if drop and not net.num_classes and not config.classifies:
        raise ValueError(f"--diffusion.drop={drop} drops labels, and --net.num-classes=0 has none: leave it at 0")


def _check_diffusion(config):
    """The forward process, the objective and the channels of the output go together."""
    d, channels, image_channels = config.diffusion, config.net.out_channels, config.data.image_shape[-1]
    if config.classifies:
        return _check_classification(config)
    if d.levels == "clean":
        raise ValueError(
            "--diffusion.levels=clean leaves no noise to take away: it is for the objective 'classification'"
        )
    fitting = {"denoising": (1,), "hybrid": (2,), "bound": (1, 2)}[d.objective]
    if channels not in [n * image_channels for n in fitting]:
        wanted = " or ".join(str(n * image_channels) for n in fitting)
        raise ValueError(
            f"--net.out-channels={channels} must be {wanted} for images of {image_channels} channels and the objective "
            f"{d.objective!r}"
        )
    if d.objective == "bound" and (d.weighting != "simple" or d.offset_noise or d.input_perturbation):
        raise ValueError(
            "--diffusion.weighting, --diffusion.offset-noise and --diffusion.input-perturbation are not for the objective "
            "'bound': choose 'denoising' or 'hybrid', or leave them out"
        )
    if d.objective == "hybrid" and (d.offset_noise or d.input_perturbation):
        raise ValueError(
            "--diffusion.offset-noise and --diffusion.input-perturbation are not for the objective 'hybrid', whose "
            "variance is that of plain noise: choose 'denoising', or leave them out"
        )
    if d.zero_snr and d.weighting in ("min_snr", "p2"):
        raise ValueError(
            f"--diffusion.weighting={d.weighting} gives no weight to a last level without signal, where sampling starts: "
            "choose 'simple', 'bound' or 'sigmoid' with --diffusion.zero-snr"
        )
    if min(d.offset_noise, d.input_perturbation) < 0:
        raise ValueError("--diffusion.offset-noise and --diffusion.input-perturbation must be at least 0")
    check_kind(d.predict, d.make_schedule())


def _check_classification(config):
    """A classifier is told nothing, draws nothing, and has an output for each class."""
    d, net = config.diffusion, config.net
    if net.out_channels < 2 or net.num_classes or net.vector_dim:
        raise ValueError(
            f"--net.out-channels={net.out_channels} must be the number of classes, at least 2, and --net.num-classes and "
            "--net.vector-dim 0: a classifier is not told what it is to find out"
        )
    others = {"predict": "eps", "weighting": "simple", "offset_noise": 0.0, "input_perturbation": 0.0, "drop": 0.0}
    for field, default in others.items():
        if getattr(d, field) != default:
            raise ValueError(
                f"--diffusion.{field.replace('_', '-')} is for denoising: leave it out of a 'classification'"
            )
    if d.levels == "importance":
        raise ValueError("--diffusion.levels=importance is for denoising: choose 'uniform' for a 'classification'")
    if config.train.sample_every:
        raise ValueError(f"--train.sample-every={config.train.sample_every} must be 0: a classifier draws nothing")


def indivisible(what: str, size: int, device_count: int) -> ValueError:
    """The error for a batch that the devices cannot share."""
    fitting = device_count * max(1, round(size / device_count))
    return ValueError(f"{what}={size} does not divide by the {device_count} devices: {fitting} would do")
