"""Fields of a run: frozen dataclasses that configs/NAME.py fill in and the command line overrides."""

import dataclasses
from typing import Annotated, Literal

import jax
import tyro
from flax import linen as nn

from jaxdiff import nets
from jaxdiff.config.adaptation import ADAPTATIONS
from jaxdiff.data import SOURCES
from jaxdiff.data.caption_tags import CaptionTags
from jaxdiff.denoise import network
from jaxdiff.guidance import GUIDANCES
from jaxdiff.nets.spec import NETS, NetSpec
from jaxdiff.nets.unet_config import UNetConfig
from jaxdiff.objectives import LEVEL_DRAWS, WEIGHTINGS
from jaxdiff.preconditioning import network_time, preconditioned
from jaxdiff.registry import Choice, import_all
from jaxdiff.samplers import SAMPLERS
from jaxdiff.schedules import SCHEDULES, Schedule, shift, zero_terminal_snr
from jaxdiff.timesteps import SPACINGS
from jaxdiff.types import Apply

import_all(nets.__name__, nets.__path__, ending="_config")


TEXTS_IN_STEPS = ("lora", "dreambooth", "textual_inversion")  # adaptations that can encode their texts in each step


def _choose(config, **registries) -> None:
    """Replaces names in fields of a frozen dataclass by the choices that they name."""
    for name, registry in registries.items():
        object.__setattr__(config, name, registry.choice(getattr(config, name)))


FREE_OF_DATA = ("memory_gib", "workers")  # fields of `Data` that change no example


@dataclasses.dataclass(frozen=True)
class Data:
    """Training data.

    Attributes:
      source: data source, see `jaxdiff.data.load`, such as "digits", "captioned:test", "tfds:cifar10", "folder:photos" or
        "shards:data/*.tar".
      image_shape: height, width and channels of the images that the network is trained on.
      flip: mirror each image with probability 1/2, anew in each epoch.
      augment: strength of random affine changes, see `jaxdiff.data.augment`; 0 is none. A network with `vector_dim`=6 is
        conditioned on them, and samples images without any.
      hard_negatives: captions per image that are almost right, but wrong, beside the other captions of a batch; of a CLIP,
        with sources that make such captions.
      tokenizer: folder of a published tokenizer for the captions of a CLIP; None trains one.
      classes: names of the labels, in their order; a run takes those of its source.
      buckets: heights and widths for images of several aspect ratios, such as `jaxdiff.data.aspect_buckets` makes; each
        image gets the nearest one, a batch is of one, and a step is compiled for each. () is `image_shape` alone.
      min_size: pixels of the shorter side, below which an image is left out.
      random_crop: crop each image around another place in each epoch, and not around its centre.
      memory_gib: GiB of decoded images up to which all are kept in memory once they were read; with more, none is.
      workers: processes that read and decode, each with its own memory of images; 0 for threads of this one, which do as
        well on few cores. Not for parquet: and arrow:.
      caption_tags: changes of captions that are tags with commas between, decided by the seed and the example's position;
        for a CLIP, and for adaptations by lora, dreambooth and textual_inversion.
      trigger: words that are put in front of every caption, with a comma.
    """

    source: Choice = SOURCES.choice("digits")
    image_shape: tuple[int, int, int] = (28, 28, 1)
    flip: bool = False
    augment: float = 0.0
    hard_negatives: int = 0
    tokenizer: str | None = None
    classes: tuple[str, ...] = ()
    buckets: tuple[tuple[int, int], ...] = ()
    min_size: int = 0
    random_crop: bool = False
    memory_gib: float = 2.0
    workers: int = 0
    caption_tags: CaptionTags = CaptionTags()
    trigger: str = ""

    def __post_init__(self):
        if isinstance(self.source, str):
            object.__setattr__(self, "source", SOURCES.parse(self.source))
        _choose(self, source=SOURCES)


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """Forward process, prediction and loss of a denoiser; of a classifier, the noise of its images.

    Attributes:
      schedule: noise schedule, see `jaxdiff.schedules`.
      num_levels: T, number of noise levels.
      predict: kind of prediction that the network outputs.
      weighting: weight of each level in the squared error, see `jaxdiff.objectives.weightings`.
      shift: new side / old side of images that repeat the signal of smaller ones, see `schedules.shift`; 1 is none.
      zero_snr: make the last level pure noise, see `schedules.zero_terminal_snr`; with `predict` "v", "flow" or "x0".
      objective: "denoising"; "hybrid", which also learns a variance; "bound", the variational bound; or "mean_flow", of
        networks with `takes_end`, see `objectives.mean_flow`. The variance is learned where the network has twice the
        image's channels.
      levels: distribution of the levels of training examples, see `jaxdiff.objectives.levels`; "clean" is level 0 alone,
        for classifiers.
      cond_dropout: probability with which the label of an example becomes the null label and its caption the empty text,
        which classifier-free guidance needs (Ho and Salimans 2021); about 0.1.
      offset_noise: standard deviation of noise that is the same in all pixels, see `objectives.denoising`; 0 is none.
      input_perturbation: see `objectives.denoising`; 0 is none.
      time: what the network is given in place of a level, see `preconditioning.network_time`.
      sigma_data: standard deviation of the data for EDM's preconditioning of the network, which then predicts "x0", see
        `preconditioning.preconditioned`; 0 is none.
      pairing: "independent" noise and images, or "optimal_transport" within a batch, see `objectives.optimal_transport`.
    """

    schedule: Choice = SCHEDULES.choice("linear")
    num_levels: int = 1000
    predict: Literal["eps", "x0", "v", "score", "flow"] = "eps"
    weighting: Choice = WEIGHTINGS.choice("simple")
    shift: float = 1.0
    zero_snr: bool = False
    objective: Literal["denoising", "hybrid", "bound", "mean_flow"] = "denoising"
    levels: Choice = LEVEL_DRAWS.choice("uniform")
    cond_dropout: float = 0.0
    offset_noise: float = 0.0
    input_perturbation: float = 0.0
    time: Literal["level", "sigma", "fraction", "log_ratio"] = "level"
    sigma_data: float = 0.0
    pairing: Literal["independent", "optimal_transport"] = "independent"

    def __post_init__(self):
        _choose(self, schedule=SCHEDULES, weighting=WEIGHTINGS, levels=LEVEL_DRAWS)

    def make_schedule(self) -> Schedule:
        """Returns the schedule's tables, which are numbers while jax traces, too."""
        with jax.ensure_compile_time_eval():
            schedule = self.schedule(self.num_levels)
            schedule = schedule if self.shift == 1 else shift(schedule, self.shift)
            return zero_terminal_snr(schedule) if self.zero_snr else schedule

    def network(self, module: nn.Module) -> Apply:
        """Returns a network, or a ControlNet, as a function of its parameters and of levels."""
        return network(module, network_time(self.time, self.make_schedule()))

    def scaled(self, apply: Apply) -> Apply:
        """Returns a network with the preconditioning, outside of its ControlNets and adapters; as it is without."""
        return preconditioned(apply, self.make_schedule(), self.sigma_data) if self.sigma_data else apply


@dataclasses.dataclass(frozen=True)
class Latent:
    """Autoencoder and text encoder of a latent diffusion model.

    Models are named as for `jaxdiff.load`. A run keeps copies of them.

    Attributes:
      codec: autoencoder in whose latent space the diffusion takes place; None is a diffusion of pixels.
      shape: height, width and channels of the latents of an image of `data.image_shape`; None without a codec.
      scaling_factor: factor of the latents, in place of the autoencoder's own; None is that.
      text_encoder: CLIP whose text transformer encodes the captions, for a network with `net.context_dim`.
      skip_blocks: last blocks of that transformer that are left out: 0 in Stable Diffusion 1, 1 in 2 and XL.
      second_text_encoder: text transformer whose context stands beside that of the first, and whose vectors of whole texts
        condition the network, as in Stable Diffusion XL.
      context_norm: whether the context is normalised; not so in Stable Diffusion XL.
      zero_empty_text: context and vector of the empty text are zeros, as in Stable Diffusion XL.
      both_vectors: the vectors of the two text transformers condition the network side by side, as in Stable Diffusion 3;
        else that of the second.
      zero_tokens: tokens of zeros behind the context, in place of those of a third text encoder: 256 in Stable Diffusion 3.
    """

    codec: str | None = None
    shape: tuple[int, int, int] | None = None
    scaling_factor: float | None = None
    text_encoder: str | None = None
    skip_blocks: int = 0
    second_text_encoder: str | None = None
    context_norm: bool = True
    zero_empty_text: bool = False
    both_vectors: bool = False
    zero_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Loss of an autoencoder, see `objectives.kl_autoencoder` and `objectives.vq_autoencoder`.

    Attributes:
      kl_weight: weight of the KL divergence of the latents from N(0, 1); without a codebook.
      commitment: weight of the distance between latents and codebook vectors; with a codebook.
      decay: decay of the codebook's moving averages; with a codebook.
      dead_below: codebook vectors that fewer latents are assigned to begin anew as one of the latents; with a codebook.
      error: "l1" as published, or "l2".
      critic_weight: weight of a patch critic, see `nets.critic.PatchCritic`; 0 is none.
    """

    kl_weight: float = 1e-6
    commitment: float = 0.25
    decay: float = 0.99
    dead_below: float = 1.0
    error: Literal["l1", "l2"] = "l1"
    critic_weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer; see `jaxdiff.train.optim.optimizer`.

    Attributes:
      method: "adamw"; "muon", which learns more per step and takes a little longer for each; or "sgd" with momentum b1.
      learning_rate: highest learning rate.
      warmup: steps of the linear rise.
      decay_to: share of the rate left at the end of the cosine; 1 is a constant rate.
      clip: largest global norm of the gradient.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled weight decay.
      moment_dtype: dtype in which the first moment is stored; the second is float32, for bfloat16 would round its changes
        away.
      ema_decay: decay of the moving average of the parameters, from which samples are drawn.
    """

    method: Literal["adamw", "muon", "sgd"] = "adamw"
    learning_rate: float = 2e-4
    warmup: int = 500
    decay_to: float = 1.0
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    moment_dtype: Literal["float32", "bfloat16"] = "float32"
    ema_decay: float = 0.9999


@dataclasses.dataclass(frozen=True)
class Train:
    """Length and intervals of training, in steps.

    Attributes:
      steps: number of updates.
      batch_size: examples per update, over all devices of all hosts.
      accumulate: number of equal chunks in which each device processes its examples, to save memory.
      steps_per_call: updates scanned inside one compiled call; divides the other numbers of steps.
      seed: seed of initialisation, order of the data, noise and dropout.
      log_every: interval between fetches of the metrics.
      sample_every: interval between sample grids; 0 draws one at the end only.
      save_every: interval between checkpoints.
      keep: number of checkpoints kept, at least 2.
      log_examples: write the examples of each step into `examples_P.tsv`, P being the process.
      hang_seconds: a call that takes longer has the stacks of all threads written into `stacks_P.txt`; 0 for none.
      wandb: project of Weights & Biases that gets the numbers and samples, too; the package is the extra "wandb".
      parallel: "pmap", by which each device has the whole state; or "sharded", by which its arrays are split over a mesh.
      mesh: of "sharded", devices of its axes, such as "data=32,fsdp=8": examples are split over data and fsdp, large arrays
        over fsdp, the inside of layers over tensor; data is what the others leave.
      rules: of "sharded", how arrays are split, such as "attn1=tensor(-1)+fsdp", before those of `jaxdiff.meshes`.
    """

    steps: int = 1000
    batch_size: int = 64
    accumulate: int = 1
    steps_per_call: int = 1
    seed: int = 0
    log_every: int = 50
    sample_every: int = 0
    save_every: int = 1000
    keep: int = 2
    log_examples: bool = False
    hang_seconds: int = 1800
    wandb: str = ""
    parallel: Literal["pmap", "sharded"] = "pmap"
    mesh: str = ""
    rules: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Compat:
    """Departures of diffusers from the papers, by which its pictures are drawn again.

    Attributes:
      scale_noise: x_T has the standard deviation sigma of its level in place of 1: Euler's methods with spacings that begin
        at level T.
      round_levels: the network sees the nearest level of training, though its noise is that of a level between: spacings
        even in sigma with other solvers.
    """

    scale_noise: bool = False
    round_levels: bool = False


@dataclasses.dataclass(frozen=True)
class Sample:
    """Sampling of images; the defaults of a model for `jaxdiff.generate`.

    Attributes:
      sampler: sampler, see `jaxdiff.samplers`, with its own options.
      steps: N, number of sampling steps.
      spacing: grid of levels, see `jaxdiff.timesteps`, with its own options.
      labels: classes such as "7", "0-9" or "1,3,5-7"; image i is of the i-th of them, in turn; None is all.
      prompts: texts; image i is of the i-th of them, in turn; for models with a text encoder.
      prompt_syntax: "plain"; or "weighted", in which (word:1.3) counts more and prompts may be of any length, as in web
        interfaces, see `jaxdiff.text.weighted`.
      negative: text to lead away from, with guidance; the empty text is the unconditional one.
      guidance: scale of the guidance towards label or prompt: 1 is the network as it is, 0 without condition, more is more
        typical and less diverse. With a classifier it multiplies the classifier's gradient.
      guide: how the scale depends on the level, see `jaxdiff.guidance.GUIDANCES`, with its own options.
      interval: lowest and highest level with guidance (Kynkäänniemi et al. 2024); None is all.
      rescale: share, in [0, 1], by which the contrast of guided images is brought back, see `jaxdiff.guidance.rescaled`.
      clip: clip the predicted x0 to [-1, 1], see `jaxdiff.guidance.clip_x0`; not for latents; without effect on the sampler
        mean_flow.
      compat: departures from the papers, to draw the pictures of diffusers.
      size: width and height of the images in pixels, multiples of what the network and the autoencoder divide by; None is
        the model's own.
      decode: decode a batch of latents at once; "sliced", one after the other; or "tiled", in overlapping tiles: less
        memory, see `jaxdiff.latent`.
      num: number of images.
      batch_size: number of images at a time.
      seed: seed of the noise; image i of a seed is the same whatever the batch size.
    """

    sampler: Annotated[Choice, tyro.conf.arg(name="")] = SAMPLERS.choice("ddim")
    steps: int = 50
    spacing: Choice = SPACINGS.choice("trailing")
    labels: Annotated[str | None, tyro.conf.arg(aliases=["--label"])] = None
    prompts: tuple[str, ...] = ()
    prompt_syntax: Literal["plain", "weighted"] = "plain"
    negative: str = ""
    guidance: float = 1.0
    guide: Choice = GUIDANCES.choice("constant")
    interval: tuple[int, int] | None = None
    rescale: float = 0.0
    clip: bool = True
    compat: Compat = Compat()
    size: tuple[int, int] | None = None
    decode: Literal["whole", "sliced", "tiled"] = "whole"
    num: int = 64
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self):
        _choose(self, sampler=SAMPLERS, spacing=SPACINGS, guide=GUIDANCES)


@dataclasses.dataclass(frozen=True)
class Config:
    """A run, or the model that came of it; `config.json` in a run's directory and each file of weights hold it.

    Attributes:
      name: name of the run; its directory is runs/NAME by default.
      data: training data.
      net: network.
      diffusion: forward process; of denoisers and classifiers.
      latent: autoencoder and text encoder; of denoisers.
      reconstruction: loss; of autoencoders.
      adapt: adaptation of a base model, in place of training from scratch; of denoisers.
      optim: optimizer.
      train: length and intervals of training.
      sample: sampling of images; of denoisers.
    """

    name: str = "run"
    data: Data = Data()
    net: NetSpec = UNetConfig()
    diffusion: Diffusion = Diffusion()
    latent: Latent = Latent()
    reconstruction: Reconstruction = Reconstruction()
    adapt: Choice = ADAPTATIONS.choice("none")
    optim: Optim = Optim()
    train: Train = Train()
    sample: Sample = Sample()

    def __post_init__(self):
        _choose(self, net=NETS, adapt=ADAPTATIONS)

    @property
    def role(self) -> str:
        """The network's role, see `jaxdiff.nets.spec.NetSpec`."""
        return self.net.role

    @property
    def samples(self) -> bool:
        """Whether images are sampled from the network."""
        return self.net.role == "denoiser"

    @property
    def classifies(self) -> bool:
        """Whether the network is a classifier."""
        return self.net.role == "classifier"

    @property
    def encodes_texts(self) -> bool:
        """Whether an adaptation encodes its texts in each step: the text encoder is trained, or the texts change."""
        changed = self.adapt.kind in TEXTS_IN_STEPS and self.data.caption_tags.active
        return self.adapt.trains_text_encoder or changed

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the network's images, or latents."""
        return self.latent.shape or self.data.image_shape

    def make_net(self) -> nn.Module:
        """Returns the network."""
        return self.net.make()

    def make_trained_net(self) -> nn.Module:
        """Returns the network for its loss: mean_flow takes derivatives that fast kernels of attention lack."""
        return (self.net.without_kernels() if self.diffusion.objective == "mean_flow" else self.net).make()
