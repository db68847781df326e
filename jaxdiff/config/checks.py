"""Checks of a config's values, alone and beside one another, before anything is trained."""

import importlib.util
import math

import jax

from jaxdiff import meshes, sharding
from jaxdiff.adapt import lora
from jaxdiff.config.adaptation import FewSteps
from jaxdiff.config.fields import TEXTS_IN_STEPS, Config, Latent, Reconstruction
from jaxdiff.data import augment, caption_tags
from jaxdiff.denoise import check_kind
from jaxdiff.preconditioning import network_time

SECTIONS = {  # sections of a config that only networks of these roles have
    "diffusion": ("denoiser", "classifier"),
    "latent": ("denoiser",),
    "reconstruction": ("autoencoder",),
    "sample": ("denoiser",),
    "adapt": ("denoiser",),
}


def check(config: Config, devices: int | None = None, local: int | None = None, platform: str | None = None) -> None:
    """Refuses a config that cannot be trained.

    Args:
      config: the config.
      devices: number of devices; by default, as the next two, of those that there are.
      local: number of devices of a process.
      platform: such as "tpu".

    Raises:
      ValueError: one line that says what to change.
    """
    if config.diffusion.num_levels < 1:
        raise ValueError(f"`diffusion.num_levels`={config.diffusion.num_levels} must be at least 1")
    _check_train(config, devices or jax.device_count(), local or jax.local_device_count())
    _check_optim(config)
    _check_sections(config)
    config.net.check_platform(platform or jax.default_backend())
    if config.role == "text_encoder":
        raise ValueError("a text transformer alone cannot be trained: train a CLIP, which has one")
    if config.role in ("denoiser", "classifier"):
        _check_latent(config)
    config.net.check_image(config.shape)
    _check_sizes(config)
    if config.role == "denoiser":
        check_kind(config.diffusion.predict, config.diffusion.make_schedule())
        _check_base(config)
        _check_denoiser(config)
        _check_conditions(config)
        _check_adapt(config)
    elif config.role == "classifier":
        _check_classifier(config)
    elif config.role == "autoencoder":
        _check_autoencoder(config)


def _check_train(config, devices, local):
    train = config.train
    least = dict.fromkeys(("steps", "accumulate", "steps_per_call", "log_every", "save_every"), 1)
    for field, low in {**least, "sample_every": 0, "hang_seconds": 0}.items():
        if getattr(train, field) < low:
            raise ValueError(f"`train.{field}`={getattr(train, field)} must be at least {low}")
    if train.keep < 2:
        raise ValueError(f"`train.keep`={train.keep} must be at least 2: the newest checkpoint may be damaged")
    if train.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("`train.wandb` needs the package wandb: pip install 'jaxdiff[wandb]'")
    if train.parallel == "sharded":
        shape = meshes.sizes(meshes.parse(train.mesh), devices)
        for rule in train.rules:
            meshes.parse_rule(rule)
        if local % shape["tensor"]:
            raise ValueError(
                f"`train.mesh` with tensor={shape['tensor']} would split layers over processes: it must divide the "
                f"{local} devices of each"
            )
        devices //= shape["tensor"]
    elif train.mesh or train.rules:
        raise ValueError("`train.mesh` and `train.rules` are of `train.parallel` sharded: give it, or leave them out")
    sharding.check_batch_size("`train.batch_size`", train.batch_size, devices)
    if train.batch_size // devices % train.accumulate:
        raise ValueError(
            f"`train.accumulate`={train.accumulate} does not divide the {train.batch_size // devices} examples of each of "
            f"{devices} devices"
        )
    if train.accumulate > 1 and (config.role == "clip" or getattr(config.net, "codebook_size", 0)):
        raise ValueError(
            "`train.accumulate` would change what is learned: a CLIP compares all examples of a batch, and a codebook "
            "moves with each chunk of it"
        )
    check_seed("`train.seed`", train.seed)
    if train.sample_every and not config.samples:
        raise ValueError(
            f"`train.sample_every`={train.sample_every} must be 0: no images are sampled from this network"
        )
    for field in ("steps", "log_every", "sample_every", "save_every"):
        if getattr(train, field) % train.steps_per_call:
            raise ValueError(
                f"`train.{field}`={getattr(train, field)} must be a multiple of "
                f"`train.steps_per_call`={train.steps_per_call}"
            )


def _check_finite(section, values, *names):
    """Raises ValueError for the first of these fields that is below 0, or not finite: such a loss is NaN later."""
    for name in names:
        if not 0 <= (value := getattr(values, name)) < math.inf:
            raise ValueError(f"`{section}.{name}`={value} must be at least 0 and finite")


def check_seed(name: str, seed: int) -> None:
    """Raises ValueError for a seed of more than 32 bits, of which jax's keys would take the last 32 alone."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"{name}={seed} must be from 0 to {2**32 - 1}: others would be taken modulo {2**32}")


def _check_optim(config):
    train, optim = config.train, config.optim
    if not 0 <= optim.warmup < train.steps:
        raise ValueError(f"`optim.warmup`={optim.warmup} must be shorter than `train.steps`={train.steps}")
    if not 0 <= optim.ema_decay < 1:
        raise ValueError(f"`optim.ema_decay`={optim.ema_decay} must lie in [0, 1)")
    if not (0 < optim.learning_rate < math.inf and optim.clip > 0):
        raise ValueError(f"`optim.learning_rate`={optim.learning_rate} and `optim.clip`={optim.clip} must be above 0")
    for name, low, high in (("b1", 0, 1), ("b2", 0, 1), ("decay_to", 0, math.inf), ("weight_decay", 0, math.inf)):
        if not low <= (value := getattr(optim, name)) < high:
            raise ValueError(f"`optim.{name}`={value} must be at least {low} and below {high}")


def _check_sections(config):
    """Sections that are of networks of another role are left as they are."""
    for section, roles in SECTIONS.items():
        if config.role not in roles and getattr(config, section) != getattr(Config(), section):
            raise ValueError(f"`{section}` is for networks of role {' or '.join(roles)}, and this is {config.role!r}")
    data, clip = config.data, config.role == "clip"
    if data.tokenizer is not None and not clip:
        raise ValueError("`data.tokenizer` is for a CLIP: other networks have that of `latent.text_encoder`")
    if not 0 <= data.augment <= 3:
        raise ValueError(f"`data.augment`={data.augment} must lie in [0, 3]: 1 turns by up to 10 degrees")
    if data.hard_negatives < 0 or (data.hard_negatives and not clip):
        raise ValueError(f"`data.hard_negatives`={data.hard_negatives} must be wrong captions for a CLIP, or 0")
    _check_captions(config)


def _check_captions(config):
    """Tags and trigger are of networks that read captions; tags of those that encode them in each step."""
    data, clip, a = config.data, config.role == "clip", config.adapt
    caption_tags.check(data.caption_tags, "data.caption_tags")
    if data.trigger != data.trigger.strip() or "\0" in data.trigger:
        raise ValueError(f"`data.trigger`={data.trigger!r} must not begin or end with a space")
    if not (clip or config.latent.text_encoder) and (data.trigger or data.caption_tags.active):
        raise ValueError("`data.trigger` and `data.caption_tags` change captions, which this network does not read")
    if data.trigger and a.prompts:
        raise ValueError("`data.trigger` is put in front of captions, and `adapt.prompts` replace them: write it there")
    if data.caption_tags.active and not (clip or config.encodes_texts):
        raise ValueError(
            "`data.caption_tags` changes captions in each step, and this training encodes them once: it is for a CLIP, and "
            f"for `adapt` {', '.join(TEXTS_IN_STEPS)}"
        )
    if data.caption_tags.active and not clip and config.latent.second_text_encoder:
        raise ValueError(
            "`data.caption_tags` encodes captions in each step, which is for base models of one text encoder: leave it out"
        )


def _check_sizes(config):
    """Sizes of the images, each of which the network must take."""
    d, (H, W, _), shape = config.data, config.data.image_shape, config.shape
    if d.min_size < 0:
        raise ValueError(f"`data.min_size`={d.min_size} must be a number of pixels, 0 for images of any size")
    if d.workers < 0 or not 0 <= d.memory_gib < math.inf:
        raise ValueError(
            f"`data.workers`={d.workers} and `data.memory_gib`={d.memory_gib} must be at least 0, and finite"
        )
    if d.random_crop and config.latent.codec:
        raise ValueError("`data.random_crop` cannot go with `latent.codec`: images are encoded once, before training")
    if d.buckets and config.role not in ("denoiser", "autoencoder"):
        raise ValueError(f"`data.buckets` is for denoisers and autoencoders, and this is {config.role!r}: leave it out")
    if len(set(d.buckets)) < len(d.buckets) or len(d.buckets) > 256:
        raise ValueError(f"`data.buckets` must be at most 256 sizes, each once, not {d.buckets}")
    if d.buckets and config.adapt.kind == "controlnet" and (H, W) not in d.buckets:
        raise ValueError(
            f"`data.buckets` must have {H} {W}, the size of the samples, which are made of the first images"
        )
    for height, width in d.buckets:
        if min(height, width) < 1:
            raise ValueError(f"`data.buckets`: {height} {width} must be a height and a width in pixels")
        sides = (height * shape[0], H), (width * shape[1], W)  # of latents, in the ratio of those of `image_shape`
        try:
            if any(side % whole for side, whole in sides):
                raise ValueError(f"its latents would not be whole, as those of {H}x{W} are {shape[0]}x{shape[1]}")
            config.net.check_image((*(side // whole for side, whole in sides), shape[2]))
        except ValueError as error:
            raise ValueError(f"`data.buckets`: {height} {width} does not fit the network: {error}") from None


def _check_latent(config):
    """Codec and text encoder go with the network; the models themselves are checked when they are loaded."""
    L, d, net = config.latent, config.data, config.net
    if (L.codec is None) != (L.shape is None):
        raise ValueError("`latent.codec` and `latent.shape` go together: name both, or leave both out")
    if L.scaling_factor is not None and not (L.codec and 0 < L.scaling_factor < math.inf):
        raise ValueError(f"`latent.scaling_factor`={L.scaling_factor} must be above 0, and goes with `latent.codec`")
    if bool(L.text_encoder) != bool(net.context_dim):
        raise ValueError(
            f"`net.context_dim`={net.context_dim} is the width of the context that `latent.text_encoder`={L.text_encoder} "
            "makes: give both, or neither"
        )
    if (L.zero_tokens or L.both_vectors) and net.kind != "mmdit":
        raise ValueError("`latent.zero_tokens` and `latent.both_vectors` are of networks of kind mmdit: leave them out")
    if (
        L.second_text_encoder
        and net.kind != "mmdit"
        and (config.adapt.base is None or config.adapt.trains_text_encoder)
    ):
        raise ValueError(
            "a model with two text encoders cannot be trained anew, nor these encoders and new tokens: adapt its denoiser "
            "by `adapt` lora, controlnet, few_steps or dreambooth with a `base`"
        )
    if L.skip_blocks < 0 or (L.skip_blocks and not L.text_encoder):
        raise ValueError(f"`latent.skip_blocks`={L.skip_blocks} must be blocks of `latent.text_encoder`")
    if L != Latent() and (d.flip or d.augment):
        raise ValueError(
            "`data.flip` and `data.augment` cannot go with `latent`: images and captions are encoded once, before training"
        )


def _check_denoiser(config):
    """Objective, weighting and channels of the output go together."""
    if config.net.kind == "mmdit":
        raise ValueError(
            "networks of kind mmdit take texts as context and as vector, which trainings do not have yet: sample from it"
        )
    d, channels, image_channels = config.diffusion, config.net.out_channels, config.shape[-1]
    schedule = d.make_schedule()
    if d.levels.kind == "clean":
        raise ValueError("`diffusion.levels`=clean leaves no noise to take away: it is for classifiers")
    fitting = {"denoising": (1,), "hybrid": (2,), "bound": (1, 2), "mean_flow": (1,)}[d.objective]
    if channels not in [n * image_channels for n in fitting]:
        wanted = " or ".join(str(n * image_channels) for n in fitting)
        raise ValueError(
            f"`net.out_channels`={channels} must be {wanted} for {'latents' if config.latent.codec else 'images'} of "
            f"{image_channels} channels and the objective {d.objective!r}"
        )
    changed = d.offset_noise or d.input_perturbation
    if d.objective in ("bound", "mean_flow") and (d.weighting.kind != "simple" or changed):
        raise ValueError(
            "`diffusion.weighting`, `diffusion.offset_noise` and `diffusion.input_perturbation` are not for the objective "
            f"{d.objective!r}: choose 'denoising' or 'hybrid', or leave them out"
        )
    _check_mean_flow(config)
    if d.pairing != "independent" and d.objective != "denoising":
        raise ValueError(f"`diffusion.pairing`={d.pairing} is for the objective 'denoising', not for {d.objective!r}")
    if d.objective == "hybrid" and changed:
        raise ValueError(
            "`diffusion.offset_noise` and `diffusion.input_perturbation` are not for the objective 'hybrid', whose "
            "variance is that of plain noise: choose 'denoising', or leave them out"
        )
    if schedule.alpha[-1] == 0 and d.weighting.kind in ("min_snr", "p2"):
        raise ValueError(
            f"`diffusion.weighting`={d.weighting.kind} gives no weight to a last level without signal, where sampling "
            "starts: choose 'simple', 'bound' or 'sigmoid' with `diffusion.zero_snr` and with rectified flow"
        )
    _check_scales(d, schedule)
    _check_finite("diffusion", d, "offset_noise", "input_perturbation")


def _check_mean_flow(config):
    """The objective "mean_flow" has its own process, network and draws."""
    d, net = config.diffusion, config.net
    if (d.objective == "mean_flow") != net.takes_end:
        raise ValueError(
            f"`net.takes_end`={net.takes_end} and `diffusion.objective`={d.objective} do not go together: a network that "
            "takes an end is trained with mean_flow, and mean_flow trains no other"
        )
    if not net.takes_end:
        return
    if d.schedule.kind != "rectified_flow" or d.shift != 1 or d.predict != "flow":
        raise ValueError(
            "the objective 'mean_flow' is of `diffusion.schedule`=rectified_flow without `diffusion.shift`, and "
            "`diffusion.predict`=flow: choose these"
        )
    if d.levels.kind in ("stratified", "importance"):
        raise ValueError(
            f"`diffusion.levels`={d.levels.kind} draws no two independent levels, which 'mean_flow' needs: choose uniform "
            "or logit_normal"
        )
    if net.attention_kernel not in ("auto", "plain"):
        raise ValueError(
            f"`net.attention_kernel`={net.attention_kernel} has no derivative along a path, which 'mean_flow' needs: "
            "choose plain"
        )


def _check_scales(d, schedule):
    """Inputs of the network have a variance of about 1, and its preconditioning goes with the rest."""
    network_time(d.time, schedule)  # raises
    if not 0 <= d.sigma_data < math.inf:
        raise ValueError(f"`diffusion.sigma_data`={d.sigma_data} must be above 0, or 0 for no preconditioning")
    if d.sigma_data and d.predict != "x0":
        raise ValueError(
            f"`diffusion.predict`={d.predict} is not what a preconditioned network returns: choose x0 with "
            "`diffusion.sigma_data`"
        )
    if d.weighting.kind == "edm" and d.weighting.sigma_data != d.sigma_data:
        raise ValueError(
            f"`diffusion.weighting`=edm is for the data's standard deviation {d.weighting.sigma_data}, and the network is "
            f"preconditioned for `diffusion.sigma_data`={d.sigma_data}: give both the same"
        )
    if schedule.std(schedule.num_levels) > 2 and not d.sigma_data:
        raise ValueError(
            f"`diffusion.schedule`={d.schedule.kind} gives the network inputs of any size: add EDM's preconditioning by "
            "`diffusion.sigma_data`, such as 0.5, and its `diffusion.weighting`=edm, or choose a schedule that preserves "
            "the variance, or rectified_flow"
        )


def _check_base(config):
    """The base model has what the adaptation takes: said before what follows from its lack."""
    base, prompts = config.adapt.base, config.sample.prompts
    if base is not None and prompts and not config.net.context_dim:
        raise ValueError(
            f"`adapt.base` {base} takes no texts, and `sample.prompts` are some: choose a base of texts, such as "
            "captioned, or leave them out"
        )
    if base is not None and config.net.vector_dim == augment.DIM and not config.data.augment:
        raise ValueError(
            f"the network of `adapt.base` {base} takes the amounts of `data.augment`, with which it was trained: give "
            "that, too, such as 0.1, or choose another base"
        )


def _check_conditions(config):
    """The network's conditions are those that the data has."""
    d, net, dropout = config.data, config.net, config.diffusion.cond_dropout
    with_texts = config.latent.second_text_encoder is not None  # whose vectors it takes, with sizes
    if net.vector_dim and not with_texts and (net.vector_dim != augment.DIM or not d.augment):
        raise ValueError(
            f"`net.vector_dim`={net.vector_dim} must be 0, or {augment.DIM} with `data.augment`, whose amounts are the "
            "only vectors that data has"
        )
    if net.image_channels:
        raise ValueError(f"`net.image_channels`={net.image_channels} must be 0: data has no second picture")
    if not 0 <= dropout < 1:
        raise ValueError(f"`diffusion.cond_dropout`={dropout} must lie in [0, 1)")
    if dropout and not net.num_classes and not net.context_dim:
        raise ValueError(
            f"`diffusion.cond_dropout`={dropout} drops labels and texts, and this network has none: leave it at 0, or give "
            "it `net.num_classes` or `latent.text_encoder`"
        )


def _check_classifier(config):
    """A classifier has an output for each class, and no condition."""
    d, net = config.diffusion, config.net
    if net.out_channels < 2 or net.num_classes or net.vector_dim or net.context_dim:
        raise ValueError(
            f"`net.out_channels`={net.out_channels} must be the number of classes, at least 2, and `net.num_classes`, "
            "`net.vector_dim` and `net.context_dim` 0: a classifier takes no condition"
        )
    default = type(d)()
    for field in (
        "predict",
        "weighting",
        "objective",
        "pairing",
        "offset_noise",
        "input_perturbation",
        "cond_dropout",
        "sigma_data",
    ):
        if getattr(d, field) != getattr(default, field):
            raise ValueError(f"`diffusion.{field}` is for denoising: leave it out for a classifier")
    network_time(d.time, d.make_schedule())  # raises
    if d.make_schedule().std(d.num_levels) > 2:
        raise ValueError(
            f"`diffusion.schedule`={d.schedule.kind} gives a classifier inputs of any size: choose a schedule that "
            "preserves the variance, or rectified_flow"
        )
    if d.levels.kind == "importance":
        raise ValueError("`diffusion.levels`=importance is for denoising: choose 'uniform' for a classifier")


def _check_autoencoder(config):
    """The loss goes with the kind of latents."""
    r, default, codebook = config.reconstruction, Reconstruction(), config.net.codebook_size
    for field in ("kl_weight",) if codebook else ("commitment", "decay", "dead_below"):
        if getattr(r, field) != getattr(default, field):
            kind = "without" if codebook else "with"
            raise ValueError(f"`reconstruction.{field}` is for autoencoders {kind} a codebook (`net.codebook_size`)")
    _check_finite("reconstruction", r, "kl_weight", "commitment", "dead_below", "critic_weight")
    if not 0 <= r.decay < 1:
        raise ValueError(f"`reconstruction.decay`={r.decay} must lie in [0, 1)")


def _check_adapt(config):
    """The parts of an adaptation go together; the base model itself is checked when it is loaded."""
    a = config.adapt
    if a.kind == "none":
        return
    if a.base is None:
        raise ValueError(f"`adapt` {a.kind} needs the model that is adapted: name it as `base`")
    if a.low_rank:
        lora.pattern(a.targets)  # raises
        if a.rank < 1 or not 0 <= a.dropout < 1 or (a.alpha is not None and not 0 < a.alpha < math.inf):
            raise ValueError("`adapt.rank` must be at least 1, `adapt.dropout` in [0, 1), and `adapt.alpha` above 0")
    if a.kind == "few_steps":
        _check_few_steps(config)
    if a.kind == "controlnet" and a.condition is None:
        raise ValueError("`adapt.condition` names the picture that the ControlNet is conditioned on, such as edges")
    if a.kind == "textual_inversion" and not a.new.tokens:
        raise ValueError("`adapt.new.tokens` names the tokens that are learned, such as '<star>'")
    if a.new.initial and (not a.new.tokens or len(a.new.initial) not in {1, len(a.new.tokens)}):
        raise ValueError(
            f"`adapt.new.initial` names {len(a.new.initial)} words for the {len(a.new.tokens)} of `adapt.new.tokens`: one, "
            "or as many"
        )
    lost = [token for token in a.new.tokens if a.prompts and not any(token in prompt for prompt in a.prompts)]
    if lost:
        raise ValueError(f"none of `adapt.prompts` holds the new token {lost[0]!r}: it would not be learned")
    if (a.trains_text_encoder or a.prompts or a.prior.prompts) and not config.latent.text_encoder:
        raise ValueError(
            f"`base` {a.base} has no text encoder: leave out `adapt.new.tokens`, `adapt.text_encoder`, `adapt.prompts` and "
            "`adapt.prior.prompts`"
        )
    _check_prior(a)


def _check_few_steps(config):
    """The base can be distilled, and fields that the distillation does not take are left out."""
    a, d, net = config.adapt, config.diffusion, config.net
    if not 2 <= a.intervals <= d.num_levels - 1:
        raise ValueError(
            f"`adapt.intervals`={a.intervals} must be from 2 to {d.num_levels - 1}, one less than the base's levels"
        )
    (_check_reflow if a.objective == "reflow" else _check_consistency)(a, d)
    _check_finite("adapt", a, "guidance")
    if a.guidance != 1 and not (net.num_classes or net.context_dim):
        raise ValueError(
            f"`adapt.guidance`={a.guidance} is towards labels or texts, which the base has not: leave it at 1"
        )
    if a.guidance != 1 and not d.cond_dropout:
        raise ValueError(
            f"`adapt.guidance`={a.guidance} leads away from no label or text, which the base was trained without "
            "(`diffusion.cond_dropout`): leave it at 1"
        )
    if net.guidance_dim or net.takes_end:
        raise ValueError(f"`base` {a.base} needs few steps already: it was trained or distilled for them")


def _check_reflow(a, d):
    if d.schedule.kind != "rectified_flow" or d.objective != "denoising":
        raise ValueError(
            "`adapt.objective`=reflow straightens paths of rectified_flow trained by denoising, and the base has those of "
            f"{d.schedule.kind} trained by {d.objective}: choose consistency"
        )
    if (a.phases, a.huber) != (FewSteps().phases, FewSteps().huber):
        raise ValueError("`adapt.phases` and `adapt.huber` are of `adapt.objective`=consistency: leave them out")


def _check_consistency(a, d):
    if not 1 <= a.phases < a.intervals or a.intervals % a.phases:
        raise ValueError(
            f"`adapt.phases`={a.phases} must be at least 1, less than `adapt.intervals`={a.intervals}, and divide it"
        )
    if not 0 < a.huber < math.inf:
        raise ValueError(f"`adapt.huber`={a.huber} must be above 0 and finite")
    if d.levels.kind == "importance":
        raise ValueError(
            "`diffusion.levels`=importance remembers losses of all levels, and few_steps has those of its grid"
        )


def _check_prior(a):
    prior, default = a.prior, type(a.prior)()
    if prior != default and not prior.wanted:
        raise ValueError('`adapt.prior` needs the class: name it by `adapt.prior.prompts`, such as "a dog"')
    if prior.source and prior.num != default.num:
        raise ValueError(
            "`adapt.prior.num` images are sampled, and `adapt.prior.source` has images already: leave one out"
        )
    _check_finite("adapt.prior", prior, "weight")
    if prior.num < 1:
        raise ValueError(f"`adapt.prior.num`={prior.num} must be at least 1")
    if prior.num < len(prior.prompts):
        raise ValueError(
            f"`adapt.prior.num`={prior.num} is less than the {len(prior.prompts)} prompts of `adapt.prior.prompts`: ask "
            "for one image of each at least"
        )
    if not all(prompt.strip() for prompt in (*prior.prompts, *a.prompts)):
        raise ValueError("one of `adapt.prior.prompts` and `adapt.prompts` is empty: say what the images show")
