"""Drawing many images from a trained network, over all devices, with progress."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import samplers, timesteps
from jaxdiff.adapt.control import Control, with_controls
from jaxdiff.config import Config, Sample, indivisible
from jaxdiff.denoise import denoiser, network
from jaxdiff.errors import unknown
from jaxdiff.eval import guided
from jaxdiff.eval import steered as steering
from jaxdiff.eval.guided import Guide
from jaxdiff.eval.images import to_uint8
from jaxdiff.eval.spread import replicated, split
from jaxdiff.eval.steered import Steered
from jaxdiff.guidance import clip_x0
from jaxdiff.latent import Codec, Ends
from jaxdiff.schedules import Schedule
from jaxdiff.types import Denoiser, call

SAMPLERS = {
    "ddim": samplers.ddim,
    "ddim_cfgpp": samplers.ddim_cfgpp,
    "ddpm": samplers.ddpm,
    "heun": samplers.heun,
    "dpmpp_2m": samplers.dpmpp_2m,
    "dpmpp_2m_sde": functools.partial(samplers.dpmpp_2m, sde=True),
    "unipc": samplers.unipc,
    "pndm": samplers.pndm,
    "euler_ancestral": samplers.euler_ancestral,
    "euler_maruyama": samplers.euler_maruyama,
    "reverse_diffusion": samplers.reverse_diffusion,
    "predictor_corrector": samplers.predictor_corrector,
    "probability_flow": samplers.probability_flow,
    "probability_flow_fixed": samplers.probability_flow_fixed,
    "lcm": samplers.lcm,
}
# Fields of `Sample` that one sampler alone has; None is its own default.
OPTIONS = {"eta": "ddim", "variance": "ddpm", "churn": "heun", "order": "unipc", "snr": "predictor_corrector"}


def make_sampler(sample: Sample) -> samplers.Sampler:
    """The sampler that is named.

    Raises:
      ValueError: unknown name, an option of another sampler, or numbers that the sampler refuses.
    """
    if sample.sampler not in SAMPLERS:
        raise unknown("sampler", sample.sampler, SAMPLERS)
    given = {option: getattr(sample, option) for option in OPTIONS if getattr(sample, option) is not None}
    for option, value in given.items():
        if sample.sampler != OPTIONS[option]:
            raise ValueError(
                f"{option}={value} is for the sampler {OPTIONS[option]}, and this one is {sample.sampler}: "
                f"choose {OPTIONS[option]}, or set {option} to None"
            )
    if sample.sampler == "ddim_cfgpp":
        given = {"scale": sample.guidance}
    return SAMPLERS[sample.sampler](**given)


def sampling_levels(sample: Sample, schedule: Schedule) -> np.ndarray:
    """The grid of levels that is named, down to clean data.

    Raises:
      ValueError: unknown spacing, or a number of steps for which there is no such grid.
    """
    T = schedule.num_levels
    if sample.spacing in timesteps.SIGMA_SPACINGS:
        # From T - 1: at T there may be no signal, and some schedules' last step is longer than all the others together.
        return timesteps.grid_by_sigma(schedule, sample.steps, sample.spacing, start=T - 1, end=0)
    if sample.spacing not in timesteps.SPACINGS:
        raise unknown("spacing", sample.spacing, timesteps.SPACINGS)
    return timesteps.grid(T, sample.steps, sample.spacing)


def check(config: Config, guide: Guide | None = None, steered: Steered | None = None) -> None:
    """Refuses a way of sampling that this config's network cannot be sampled in.

    Raises:
      ValueError: one line that says what to change.
    """
    if config.classifies:
        raise ValueError("this is a classifier, which draws nothing: give it as --classifier to guide another network")
    if not config.draws:
        raise ValueError(
            f"this is an autoencoder or a CLIP ({type(config.net).__name__}), which draws nothing by itself"
        )
    guided.check(config, guide)
    steering.check(config, steered)
    make_sampler(config.sample)
    sampling_levels(config.sample, config.diffusion.make_schedule())
    if config.sample.num < 1 or config.sample.batch_size < 1:
        raise ValueError("the number of images and the batch size must be at least 1")
    if config.sample.batch_size % jax.local_device_count():
        raise indivisible("batch_size", config.sample.batch_size, jax.local_device_count())
    if config.latent.codec and config.sample.clip:
        raise ValueError("--clip keeps images in their range, and latents have none: leave it out (--no-clip)")
    if config.sample.variance == "learned" and config.net.out_channels == config.shape[-1]:
        raise ValueError("variance='learned' needs a network that says a variance: net.out_channels twice the image's")


def num_steps(config: Config) -> int:
    """How many steps `batches` takes in all."""
    return math.ceil(config.sample.num / config.sample.batch_size) * config.sample.steps


def batches(
    config: Config,
    params,
    tick: Callable[[int], None] | None = None,
    frames: bool = False,
    guide: Guide | None = None,
    ends: Ends = Ends(),
    steered: Steered | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Draws `config.sample.num` images, a batch at a time; image i of a seed is the same whatever the batch size.

    Where there are labels or prompts, image i is of the i-th of them, in turn.

    Args:
      config: network, process, and how to sample.
      params: parameters to draw from (for a trained run, its EMA).
      tick: called after every few steps with how many they were.
      frames: give the predicted x0 of every step, too.
      guide: a classifier that guides, if there is one.
      ends: what reads the prompts, and makes images of latents.
      steered: ControlNets and what they are told, if there are any.

    Raises:
      ValueError: the config names an end that `ends` lacks.

    Yields:
      uint8 [B, H, W, C], and with `frames` uint8 [N, B, H, W, C], else None.
    """
    missing = [
        name for name, end in (("codec", ends.codec), ("text", ends.reads)) if getattr(config.latent, name) and not end
    ]
    if missing:
        raise ValueError(f"this network needs its {' and '.join(missing)}: hand over the `ends` of its model")
    sample, schedule = config.sample, config.diffusion.make_schedule()
    sampler = make_sampler(sample)
    levels = sampling_levels(sample, schedule)
    denoise = make_denoiser(config, params, schedule, sample.clip, guide, controls=steered.controls if steered else ())
    size, texts, decode = part_size(sample.steps), guided.texts(config, ends.reads), decoder(ends.codec)
    for start in range(0, sample.num, sample.batch_size):
        indices = jnp.arange(start, start + sample.batch_size)  # the last batch is cut, not compiled anew
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(sample.seed), indices)
        cond = steering.condition(config, guided.condition(config, indices, guide, texts), indices, steered)
        keys, cond = split((keys, cond))
        x_T = samplers.noise(keys, config.shape)
        count, pictures = min(sample.batch_size, sample.num - start), []
        arguments = keys, sampler, denoise, schedule, levels, x_T, cond
        for x, x0s in samplers.chunks(*arguments, size=size, collect=_x0 if frames else None):
            if frames:
                pictures.append(np.stack([to_uint8(decode(x0)[:count]) for x0 in x0s]))
            jax.block_until_ready(x)
            if tick is not None:
                tick(size)
        yield to_uint8(decode(x)[:count]), np.concatenate(pictures) if frames else None


def make_denoiser(
    config: Config,
    params,
    schedule: Schedule,
    clip: bool,
    guide: Guide | None = None,
    unguided: bool = False,
    controls: Sequence[Control] = (),
) -> Denoiser:
    """The denoiser that a config's network is, with its parameters on all local devices.

    Args:
      config: of the network, and how it is sampled.
      params: its parameters.
      schedule: its noise schedule.
      clip: keep the predicted image in its range.
      guide: a classifier that guides, if there is one.
      unguided: without the guidance that the config asks for.
      controls: ControlNets at its side.
    """
    apply, weights = with_controls(network(config.make_net()), params, controls)
    denoise = denoiser(apply, replicated(weights), schedule, config.diffusion.predict)
    if not unguided:
        guide = guide and guide._replace(log_prob=replicated(guide.log_prob))
        denoise = guided.guided(denoise, schedule, config.sample, guide)
    return clip_x0(denoise, schedule) if clip else denoise


def decoder(codec: Codec | None) -> Callable:
    """From what is diffused to images, on all local devices."""
    if codec is None:
        return lambda x: x
    decode = replicated(codec.decode)
    return lambda z: call(decode, z)


def draw(
    config: Config,
    params,
    tick: Callable[[int], None] | None = None,
    guide: Guide | None = None,
    ends: Ends = Ends(),
    steered: Steered | None = None,
) -> np.ndarray:
    """All images of `batches`, uint8 [num, H, W, C]."""
    drawn = batches(config, params, tick, guide=guide, ends=ends, steered=steered)
    return np.concatenate([images for images, _ in drawn])


def layout(config: Config, guide: Guide | None = None) -> np.ndarray:
    """Which image stands where on a sheet, int [rows, columns], -1 for none: a row of each class or prompt of several."""
    num, classes = config.sample.num, len(config.sample.prompts or guided.labels(config, guide))
    if 1 < classes <= num:
        places = np.arange(math.ceil(num / classes) * classes).reshape(-1, classes).T
    else:
        columns = math.ceil(math.sqrt(num))
        places = np.arange(math.ceil(num / columns) * columns).reshape(-1, columns)
    return np.where(places < num, places, -1)


def part_size(steps: int) -> int:
    """How many steps go between two ticks: the most that divide `steps` and give ten ticks.

    Programs that call the host would not be kept by the persistent compilation cache, hence these parts.
    """
    return max(size for size in range(1, max(1, steps // 10) + 1) if steps % size == 0)


def _x0(state, prediction):
    return prediction.x0
