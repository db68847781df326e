"""What a run is made of: frozen dataclasses that configs/NAME.py fill in and the command line overrides."""

import dataclasses
from typing import Annotated, Literal

import tyro
from flax import linen as nn

from jaxdiff import schedules
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.classifier import Classifier
from jaxdiff.nets.clip import CLIP, CLIPConfig, TextConfig, TextTransformer
from jaxdiff.nets.kl_vae import KLAutoencoder
from jaxdiff.nets.unet import UNet, UNetConfig
from jaxdiff.nets.vq_vae import VQAutoencoder


@dataclasses.dataclass(frozen=True)
class Data:
    """Where examples come from.

    Attributes:
      source: "digits[:SPLIT]", "outlined[:SPLIT]", "captioned[:SPLIT]", "tfds:NAME[:SPLIT]" or "folder:PATH", see
        `jaxdiff.data.load`.
      image_shape: height, width and channels of what the network sees.
      resize: fit the images of a data set to `image_shape`, as a folder's always are.
      flip: mirror each image with probability 1/2, anew every time that it is seen.
      augment: strength with which images are slightly turned, stretched, slanted and moved, anew every time, see
        `jaxdiff.data.augment`; 0 is none. A network with vector_dim=6 is told by how much, and draws images that are not.
      skip_broken: look through a folder first and leave out the files that cannot be read, instead of stopping at one.
      wrong: how many captions that are almost right, but wrong, a `CLIP` is to tell from the right one beside those of the
        other images (hard negatives); for sources that make such, as the captioned digits do.
      tokenizer: folder of a published tokenizer that a `CLIP` reads the captions with; None learns one from them.
    """

    source: str = "digits"
    image_shape: tuple[int, int, int] = (28, 28, 1)
    resize: bool = False
    flip: bool = False
    augment: float = 0.0
    skip_broken: bool = False
    wrong: int = 0
    tokenizer: str | None = None


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """The forward process and what the network predicts.

    Attributes:
      schedule: noise schedule.
      num_levels: number of levels T.
      predict: what the network outputs.
      weighting: how much each level counts in the squared error, see `objectives.weightings`.
      shift: new side / old side of images that repeat the signal of smaller ones, see `schedules.shift`; 1 is none.
      zero_snr: make the last level pure noise, see `schedules.zero_terminal_snr`; for predict "v" and "x0".
      objective: "denoising"; "hybrid", which also teaches a variance; or "bound", the variational bound itself. A network
        says a variance where net.out_channels is twice the image's. "classification" trains a `nets.Classifier` of noisy
        images of net.out_channels classes instead, whose gradients can guide.
      levels: how the level of an example is drawn, see `objectives.levels`; "clean" is for a classifier that shall only see
        images without noise.
      drop: probability with which an example's label is replaced by the null label, and its caption by no text, so that the
        network is an unconditional one, too (Ho and Salimans 2021); guidance needs it; about 0.1.
      offset_noise: see `objectives.denoising`; 0 is none.
      input_perturbation: see `objectives.denoising`; 0 is none.
    """

    schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid"] = "linear"
    num_levels: int = 1000
    predict: Literal["eps", "x0", "v", "score"] = "eps"
    weighting: Literal["simple", "min_snr", "p2", "bound", "sigmoid"] = "simple"
    shift: float = 1.0
    zero_snr: bool = False
    objective: Literal["denoising", "hybrid", "bound", "classification"] = "denoising"
    levels: Literal["uniform", "logit_normal", "stratified", "importance", "clean"] = "uniform"
    drop: float = 0.0
    offset_noise: float = 0.0
    input_perturbation: float = 0.0

    def make_schedule(self) -> schedules.Schedule:
        """The tables that this names."""
        schedule = getattr(schedules, self.schedule)(self.num_levels)
        schedule = schedule if self.shift == 1 else schedules.shift(schedule, self.shift)
        return schedules.zero_terminal_snr(schedule) if self.zero_snr else schedule


@dataclasses.dataclass(frozen=True)
class Latent:
    """What stands at the two ends of a diffusion: texts before it, and an autoencoder between it and the images.

    Models are named as `pretrained.load` takes them: those that ship, files, runs. A run keeps copies of them.

    Attributes:
      codec: the autoencoder in whose latent space the diffusion takes place; None is none, a diffusion of pixels.
      shape: height, width and channels of the latents of an image of data.image_shape; None without a codec.
      factor: scaling factor of the latents, in place of the autoencoder's own; None is that.
      text: the CLIP whose text transformer reads the captions, for a network with net.context_dim; None is none.
      skip: how many of that transformer's last blocks are left out: 0 in Stable Diffusion 1, 1 in 2.
    """

    codec: str | None = None
    shape: tuple[int, int, int] | None = None
    factor: float | None = None
    text: str | None = None
    skip: int = 0


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder learns from, see `objectives.kl_autoencoder` and `objectives.vq_autoencoder`.

    Attributes:
      words: of the codebook; 0 is none, and latents that are kept near a normal distribution.
      kl_weight: how much they are; without a codebook.
      commitment: weight of the distance between latents and their words; with a codebook.
      decay: of the codebook's running sums; with a codebook.
      dead: words to which fewer latents fall begin again as one of them; with a codebook.
      error: "l1" as published, or "l2".
      critic_weight: weight of a critic of patches against which the autoencoder is trained, see `nets.critic.PatchCritic`;
        0 is none.
    """

    words: int = 0
    kl_weight: float = 1e-6
    commitment: float = 0.25
    decay: float = 0.99
    dead: float = 1.0
    error: Literal["l1", "l2"] = "l1"
    critic_weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class Adapt:
    """What is learned beside a model that is there already, in place of a new one.

    Attributes:
      base: the model, as `pretrained.load` takes it; the run keeps a copy. Network, process and what stands at its ends are
        the base's. None is none: a network is trained from scratch.
      method: "lora" trains corrections of low rank (see `jaxdiff.adapt.lora`), "full" the whole network (DreamBooth),
        "words" only `words` (textual inversion), "control" a ControlNet (see `jaxdiff.adapt.control`).
      rank: of a LoRA.
      alpha: of a LoRA, whose corrections are multiplied by alpha / rank; None is the rank.
      stabilised: by alpha / sqrt(rank) instead.
      where: which kernels a LoRA corrects: "attention", "convolutions", "feed_forward", several with + between, or a
        regular expression that is looked for in their paths.
      dropout: probability with which a rank of a LoRA is left out of a step.
      text: also train what reads the texts, by a LoRA of its attention or as a whole; with "lora" and "full".
      words: new words that are learned, also beside a LoRA, such as "<star>"; captions or `prompts` hold them.
      begin: as which words the new ones begin: one for all, or one for each; "" is at random, as the first of the two words
        of a concept of Mix-of-Show (embedding-decomposed LoRA), the second being its class.
      prompts: what the images show, in place of their captions: each image is seen with each of these.
      prior: prompts of the class, such as "a dog" where "a sks dog" is learned: images of them are learned, too, so that
        what the class looks like is not forgotten (prior preservation of DreamBooth).
      prior_source: data with images of the class and their captions; None lets the base draw them.
      prior_images: how many it draws.
      prior_weight: of these images in the loss.
      condition: what a ControlNet sees: "edges", "outline", "mask" or "thumbnail" of the image.
      embedding: channels of what reads that picture, halved in size between any two: as often as latents are smaller.
    """

    base: Annotated[str | None, tyro.conf.arg(aliases=["--base"])] = None
    method: Literal["lora", "full", "words", "control"] = "lora"
    rank: int = 4
    alpha: float | None = None
    stabilised: bool = False
    where: str = "attention"
    dropout: float = 0.0
    text: bool = False
    words: tuple[str, ...] = ()
    begin: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    prior: tuple[str, ...] = ()
    prior_source: str | None = None
    prior_images: int = 200
    prior_weight: float = 1.0
    condition: Literal["edges", "outline", "mask", "thumbnail"] | None = None
    embedding: tuple[int, ...] = (16, 32, 96, 256)

    @property
    def keeps_class(self) -> bool:
        """Whether images of the class are learned, too."""
        return bool(self.prior or self.prior_source)

    @property
    def reads(self) -> bool:
        """Whether what reads the texts changes in training, so that they are read anew in each step."""
        return bool(self.words) or (self.text and self.base is not None)


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer; see `jaxdiff.train.optim.optimizer`.

    Attributes:
      method: "adamw", or "muon", which learns more per step and takes a little longer for each.
      learning_rate: the highest rate.
      warmup: steps of the linear rise.
      decay_to: share of the rate left at the end of the cosine; 1 is a constant rate.
      clip: largest global norm of the gradient.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled weight decay.
      moment_dtype: in which the first moment is kept; the second, whose changes bfloat16 would round away, is float32.
      ema_decay: of the average of the parameters that samples are drawn from.
    """

    method: Literal["adamw", "muon"] = "adamw"
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
    """Length and rhythm of training, in steps.

    Attributes:
      steps: updates in all.
      batch_size: examples per update, over all devices of all hosts.
      accumulate: parts that each device's examples are worked through in, one after the other, to save memory.
      steps_per_call: updates scanned inside one compiled call; divides the other numbers of steps.
      seed: of initialisation, order of the data, noise and dropout.
      log_every: between fetches of the metrics.
      sample_every: between sample grids; 0 draws one at the end only.
      save_every: between checkpoints.
      keep: checkpoints kept, at least 2.
      log_examples: write which examples of the data each step saw into `examples_P.tsv`, P the process.
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


@dataclasses.dataclass(frozen=True)
class Sample:
    """How samples are drawn.

    Attributes:
      sampler: "ddim", "ddpm", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "pndm", "euler_ancestral", "euler_maruyama",
        "reverse_diffusion", "predictor_corrector", "probability_flow", "probability_flow_fixed", or "lcm" for networks
        distilled for it; "ddim_cfgpp" is DDIM with the guidance of CFG++.
      steps: number of sampling steps; between two levels probability_flow takes as many of its own as it needs.
      eta: noise of ddim, in [0, 1]; None is 0, and what the other samplers have.
      variance: of the noise of ddpm; None is "posterior".
      churn: noise that heun puts back in, at least 0; None is 0.
      order: of unipc, 1 to 3; None is 2.
      snr: signal-to-noise ratio of predictor_corrector's Langevin steps; None is 0.16.
      labels: classes to draw, such as "7", "0-9" or "1,3,5-7", image i being of the i-th of them, in turn; None is all.
      prompts: texts to draw, image i being of the i-th of them, in turn; for networks that read texts.
      negative: text to lead away from, with guidance; the empty one is no text at all.
      guidance: scale of the guidance towards label or prompt: 1 is the network as it is, 0 without them, more is more
        typical and less diverse; for ddim_cfgpp in [0, 1]. With a classifier it multiplies that one's gradient.
      interval: lowest and highest level at which there is guidance (Kynkäänniemi et al. 2024); None is all.
      rescale: share, in [0, 1], of the guided image whose contrast is brought back, see `jaxdiff.guidance.rescaled`.
      clip: keep the predicted image in its range, see `jaxdiff.guidance.clip_x0`.
      spacing: of the levels: "trailing", "leading", "linspace" or "quadratic", see `jaxdiff.timesteps.grid`; "karras" or
        "exponential", see `jaxdiff.timesteps.grid_by_sigma`, from level T - 1.
      num: how many images.
      batch_size: how many at a time.
      seed: of the noise; image i of a seed is the same whatever the batch size.
    """

    sampler: str = "ddim"
    steps: int = 50
    eta: float | None = None
    variance: Literal["posterior", "beta", "learned"] | None = None
    churn: float | None = None
    order: int | None = None
    snr: float | None = None
    labels: Annotated[str | None, tyro.conf.arg(aliases=["--label"])] = None
    prompts: tuple[str, ...] = ()
    negative: str = ""
    guidance: float = 1.0
    interval: tuple[int, int] | None = None
    rescale: float = 0.0
    clip: bool = True
    spacing: str = "trailing"
    num: int = 64
    batch_size: int = 64
    seed: int = 0


Net = UNetConfig | AutoencoderConfig | CLIPConfig | TextConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run; `config.json` in the run's directory holds it.

    Attributes:
      name: of the run; its directory is runs/NAME unless another is given.
      data: where examples come from.
      net: shape of the network, which also says of what kind it is: a U-Net, an autoencoder or a CLIP.
      diffusion: the forward process and what the network predicts; of a U-Net.
      latent: what stands at its two ends; of a U-Net.
      reconstruction: what it learns from; of an autoencoder.
      adapt: what is learned beside a model that is there already; of a U-Net.
      optim: the optimizer.
      train: length and rhythm of training.
      sample: how samples are drawn; of a U-Net.
    """

    name: str = "run"
    data: Data = Data()
    net: Annotated[Net, tyro.conf.AvoidSubcommands] = UNetConfig()
    diffusion: Diffusion = Diffusion()
    latent: Latent = Latent()
    reconstruction: Reconstruction = Reconstruction()
    adapt: Adapt = Adapt()
    optim: Optim = Optim()
    train: Train = Train()
    sample: Sample = Sample()

    @property
    def kind(self) -> Literal["generator", "classifier", "autoencoder", "CLIP"]:
        """What sort of network it is; a text transformer alone counts as the CLIP that it is a half of."""
        if isinstance(self.net, UNetConfig):
            return "classifier" if self.classifies else "generator"
        return "autoencoder" if isinstance(self.net, AutoencoderConfig) else "CLIP"

    @property
    def draws(self) -> bool:
        """Whether images can be drawn from the network."""
        return self.kind == "generator"

    @property
    def classes(self) -> int:
        """How many labels the network is told, or tells; 0 is none."""
        if not isinstance(self.net, UNetConfig):
            return 0
        return self.net.out_channels if self.classifies else self.net.num_classes

    @property
    def classifies(self) -> bool:
        """Whether the network says what is on an image, instead of drawing one."""
        return self.diffusion.objective == "classification"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what a U-Net sees: images, or latents."""
        return self.latent.shape or self.data.image_shape

    def make_net(self) -> nn.Module:
        """The network that this names."""
        kinds = {CLIPConfig: CLIP, TextConfig: TextTransformer}
        kinds[AutoencoderConfig] = VQAutoencoder if self.reconstruction.words else KLAutoencoder
        kinds[UNetConfig] = Classifier if self.classifies else UNet
        return kinds[type(self.net)](self.net)
