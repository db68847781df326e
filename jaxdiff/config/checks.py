"""Refusing what could not be trained: every check of a config's numbers, alone and beside one another."""

import math

import jax

from jaxdiff.config.adapt_checks import check_adapt
from jaxdiff.config.fields import Config, Latent, Reconstruction
from jaxdiff.data import augment
from jaxdiff.denoise import check_kind
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.clip import CLIPConfig
from jaxdiff.nets.unet import UNetConfig


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
    _check_parts(config)
    check_adapt(config)
    if isinstance(config.net, UNetConfig):
        config.net.check_platform(jax.default_backend())
        _check_latent(config)
        config.net.check_image(config.shape)
        _check_diffusion(config)
        _check_conditions(config)
    elif isinstance(config.net, AutoencoderConfig):
        _check_autoencoder(config)
    elif isinstance(config.net, CLIPConfig):
        _check_clip(config)
    else:
        raise ValueError("a text transformer alone cannot be trained: a CLIP trains one, beside one of images")


def _check_parts(config):
    """What is not of this kind of network is left as it is."""
    own = ("diffusion", "latent", "sample", "adapt")
    whose = {"reconstruction": AutoencoderConfig} | dict.fromkeys(own, UNetConfig)
    for part, kind in whose.items():
        if not isinstance(config.net, kind) and getattr(config, part) != getattr(Config(), part):
            raise ValueError(f"--{part} is for networks of {kind.__name__}, and this is {type(config.net).__name__}")
    if config.data.tokenizer is not None and not isinstance(config.net, CLIPConfig):
        raise ValueError("--data.tokenizer is for a CLIP: a U-Net reads texts as the CLIP of --latent.text does")
    if not 0 <= config.data.augment <= 3:
        raise ValueError(f"--data.augment={config.data.augment} must lie in [0, 3]: 1 turns by up to 10 degrees")
    if config.train.accumulate > 1 and (isinstance(config.net, CLIPConfig) or config.reconstruction.words):
        raise ValueError(
            "--train.accumulate would change what is learned: a CLIP compares all examples of a batch, and a codebook "
            "moves with each part of it"
        )
    if config.data.wrong < 0 or (config.data.wrong and not isinstance(config.net, CLIPConfig)):
        raise ValueError(f"--data.wrong={config.data.wrong} must be wrong captions for a CLIP, or 0")
    if config.train.sample_every and not config.draws:
        raise ValueError(f"--train.sample-every={config.train.sample_every} must be 0: this network draws nothing")


def _check_latent(config):
    """What stands at the two ends of a diffusion goes with its network; the models themselves are not looked at."""
    L, d, net = config.latent, config.data, config.net
    if config.classifies and Latent() != L:
        raise ValueError("--latent is for denoising: leave it out of a 'classification'")
    if (L.codec is None) != (L.shape is None):
        raise ValueError("--latent.codec and --latent.shape go together: name both, or leave both out")
    if L.factor is not None and not (L.codec and L.factor > 0):
        raise ValueError(f"--latent.factor={L.factor} must be above 0, and goes with --latent.codec")
    if bool(L.text) != bool(net.context_dim):
        raise ValueError(
            f"--net.context-dim={net.context_dim} is the width of the texts that --latent.text={L.text} reads: give both, "
            "or neither"
        )
    if L.skip < 0 or (L.skip and not L.text):
        raise ValueError(f"--latent.skip={L.skip} must be blocks of the text transformer of --latent.text")
    if L != Latent() and (d.flip or d.augment):
        raise ValueError(
            "--data.flip and --data.augment cannot go with --latent: images and captions are read by its models once, "
            "before training"
        )


def _check_autoencoder(config):
    """An autoencoder gives back what it sees, by the rules of one kind of latents."""
    net, r, default = config.net, config.reconstruction, Reconstruction()
    net.unet().check_platform(jax.default_backend())
    net.latent_shape(config.data.image_shape)
    others = ("kl_weight",) if r.words else ("commitment", "decay", "dead")
    for field in others:
        if getattr(r, field) != getattr(default, field):
            kind = "without" if r.words else "with"
            flag = field.replace("_", "-")
            raise ValueError(f"--reconstruction.{flag} is for autoencoders {kind} a codebook (--reconstruction.words)")
    if r.words == 1 or min(r.words, r.kl_weight, r.commitment, r.dead, r.critic_weight) < 0 or not 0 <= r.decay < 1:
        raise ValueError(
            "--reconstruction needs weights of at least 0, a decay in [0, 1), and no codebook or one of 2 words or more"
        )


def _check_clip(config):
    """A CLIP sees images of three channels, or as many as it normalises, with texts."""
    channels, C = len(config.net.vision.mean), config.data.image_shape[-1]
    if channels != C:
        raise ValueError(f"--net.vision.mean is of {channels} channels, and --data.image-shape has {C}")


def _check_conditions(config):
    """What the network is told goes with what the data brings."""
    d, net, drop = config.data, config.net, config.diffusion.drop
    if net.vector_dim and (net.vector_dim != augment.DIM or not d.augment):
        raise ValueError(
            f"--net.vector-dim={net.vector_dim} must be 0, or {augment.DIM} with --data.augment, whose amounts are the "
            "only vectors that data brings"
        )
    if net.image_channels:
        raise ValueError(f"--net.image-channels={net.image_channels} must be 0: data brings no second picture")
    if not 0 <= drop < 1:
        raise ValueError(f"--diffusion.drop={drop} must lie in [0, 1)")
    if drop and not net.num_classes and not net.context_dim and not config.classifies:
        raise ValueError(
            f"--diffusion.drop={drop} drops labels and texts, and this network has none: leave it at 0, or give it "
            "--net.num-classes or --latent.text"
        )


def _check_diffusion(config):
    """The forward process, the objective and the channels of the output go together."""
    d, channels, image_channels = config.diffusion, config.net.out_channels, config.shape[-1]
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
            f"--net.out-channels={channels} must be {wanted} for {'latents' if config.latent.codec else 'images'} of "
            f"{image_channels} channels and the objective {d.objective!r}"
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
    if net.out_channels < 2 or net.num_classes or net.vector_dim or net.context_dim:
        raise ValueError(
            f"--net.out-channels={net.out_channels} must be the number of classes, at least 2, and --net.num-classes, "
            "--net.vector-dim and --net.context-dim 0: a classifier is not told what it is to find out"
        )
    others = {"predict": "eps", "weighting": "simple", "offset_noise": 0.0, "input_perturbation": 0.0, "drop": 0.0}
    for field, default in others.items():
        if getattr(d, field) != default:
            raise ValueError(
                f"--diffusion.{field.replace('_', '-')} is for denoising: leave it out of a 'classification'"
            )
    if d.levels == "importance":
        raise ValueError("--diffusion.levels=importance is for denoising: choose 'uniform' for a 'classification'")


def indivisible(what: str, size: int, device_count: int) -> ValueError:
    """The error for a batch that the devices cannot share."""
    fitting = device_count * max(1, round(size / device_count))
    return ValueError(f"{what}={size} does not divide by the {device_count} devices: {fitting} would do")
