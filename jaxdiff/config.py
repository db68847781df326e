"""What a run is made of: frozen dataclasses that configs/NAME.py fill in and the command line overrides."""

import dataclasses
import importlib.util
import json
import math
import re
import typing
from pathlib import Path
from typing import Annotated, Literal

import jax
import typeguard
import tyro
from etils import epath

from jaxdiff import schedules
from jaxdiff.data import augment
from jaxdiff.denoise import check_kind
from jaxdiff.errors import unknown
from jaxdiff.nets.classifier import Classifier
from jaxdiff.nets.unet import UNet, UNetConfig


@dataclasses.dataclass(frozen=True)
class Data:
    """Where examples come from.

    Attributes:
      source: "digits[:SPLIT]", "tfds:NAME[:SPLIT]" or "folder:PATH", see `jaxdiff.data.load`.
      image_shape: height, width and channels of what the network sees.
      resize: fit the images of a data set to `image_shape`, as a folder's always are.
      flip: mirror each image with probability 1/2, anew every time that it is seen.
      augment: strength with which images are slightly turned, stretched, slanted and moved, anew every time, see
        `jaxdiff.data.augment`; 0 is none. A network with vector_dim=6 is told by how much, and draws images that are not.
      skip_broken: look through a folder first and leave out the files that cannot be read, instead of stopping at one.
    """

    source: str = "digits"
    image_shape: tuple[int, int, int] = (28, 28, 1)
    resize: bool = False
    flip: bool = False
    augment: float = 0.0
    skip_broken: bool = False


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """The forward process and what the network predicts.

    Attributes:
      schedule: noise schedule.
      num_steps: number of levels T.
      predict: what the network outputs.
      weighting: how much each level counts in the squared error, see `objectives.weightings`.
      shift: new side / old side of images that repeat the signal of smaller ones, see `schedules.shift`; 1 is none.
      zero_snr: make the last level pure noise, see `schedules.zero_terminal_snr`; for predict "v" and "x0".
      objective: "denoising"; "hybrid", which also teaches a variance; or "bound", the variational bound itself. A network
        says a variance where net.out_channels is twice the image's. "classification" trains a `nets.Classifier` of noisy
        images of net.out_channels classes instead, whose gradients can guide.
      levels: how the level of an example is drawn, see `objectives.levels`; "clean" is for a classifier that shall only see
        images without noise.
      drop: probability with which an example's label is replaced by the null label, so that the network is an unconditional
        one, too (Ho and Salimans 2021); guidance needs it; about 0.1.
      offset_noise: see `objectives.denoising`; 0 is none.
      input_perturbation: see `objectives.denoising`; 0 is none.
    """

    schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid"] = "linear"
    num_steps: int = 1000
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
        schedule = getattr(schedules, self.schedule)(self.num_steps)
        schedule = schedule if self.shift == 1 else schedules.shift(schedule, self.shift)
        return schedules.zero_terminal_snr(schedule) if self.zero_snr else schedule


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
      guidance: scale of the guidance towards the label: 1 is the network as it is, 0 without the label, more is more
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
    guidance: float = 1.0
    interval: tuple[int, int] | None = None
    rescale: float = 0.0
    clip: bool = True
    spacing: str = "trailing"
    num: int = 64
    batch_size: int = 64
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run; `config.json` in the run's directory holds it.

    Attributes:
      name: of the run; its directory is runs/NAME unless another is given.
      data: where examples come from.
      net: shape of the network.
      diffusion: the forward process and what the network predicts.
      optim: the optimizer.
      train: length and rhythm of training.
      sample: how samples are drawn.
    """

    name: str = "run"
    data: Data = Data()
    net: UNetConfig = UNetConfig()
    diffusion: Diffusion = Diffusion()
    optim: Optim = Optim()
    train: Train = Train()
    sample: Sample = Sample()

    @property
    def classifies(self) -> bool:
        """Whether the network says what is on an image, instead of drawing one."""
        return self.diffusion.objective == "classification"

    def make_net(self) -> UNet | Classifier:
        """The network that this names."""
        return (Classifier if self.classifies else UNet)(self.net)


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


def config_dir() -> Path:
    """The configs that ship: beside the package in a clone, inside it when installed."""
    package = Path(__file__).parent
    clone = package.parent / "configs"
    return clone if clone.is_dir() and (package.parent / "pyproject.toml").is_file() else package / "configs"


def names() -> list[str]:
    """The configs that ship, by name."""
    return sorted(path.stem for path in config_dir().glob("*.py"))


def load(name: str) -> Config:
    """The config of that name, or of a Python file that defines get_config().

    Raises:
      ValueError: there is none of that name, or its get_config() does not return a `Config` of fields that there are and
        of the right types.
      FileNotFoundError: there is no such file.
    """
    path = Path(name) if name.endswith(".py") else config_dir() / f"{name}.py"
    if not path.is_file():
        if name.endswith(".py"):
            raise FileNotFoundError(f"there is no config {path}")
        raise unknown("config", name, names())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        config = module.get_config() if hasattr(module, "get_config") else None
    except TypeError as error:
        field = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        parts = {part.__name__: part for part in (Config, *typing.get_type_hints(Config).values())}
        if not field or field[1] not in parts:
            raise
        raise unknown(f"field of {field[1]} in {path}:", field[2], typing.get_type_hints(parts[field[1]])) from None
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() that returns a jaxdiff.config.Config")
    return from_json(to_json(config), where=path.stem)  # which checks the types


def read_run(run: epath.PathLike) -> Config:
    """The config of a run that was trained.

    Raises:
      FileNotFoundError: the directory holds no run.
      ValueError: its `config.json` has a field that no config has.
    """
    path = epath.Path(run) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{run} holds no run (there is no {path}): give a directory that jaxdiff train has written"
        )
    try:
        return from_json(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON any more ({error}): put it right, or train in another --run-dir"
        ) from None


def to_json(config: Config) -> str:
    """The config as JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, where: str = "config") -> Config:
    """Inverse of `to_json`; errors call the config `where`.

    Raises:
      ValueError: a field that no config has, or a value of another type than the field's.
    """
    return _build(Config, json.loads(text), where)


def _build(cls, values, where):
    if not isinstance(values, dict):
        raise ValueError(f"{where} must hold fields, not {values!r}")
    types, fields = typing.get_type_hints(cls), {}
    for name, value in values.items():
        if name not in types:
            raise unknown(f"field of {where}:", name, types)
        if dataclasses.is_dataclass(types[name]):
            value = _build(types[name], value, f"{where}.{name}")
        fields[name] = _checked(tuple(value) if isinstance(value, list) else value, types[name], f"{where}.{name}")
    return cls(**fields)


def _checked(value, kind, where):
    """The value, if it is of that type; bool is no int here."""
    try:
        if isinstance(value, bool) and kind is not bool:
            raise typeguard.TypeCheckError("is a bool")
        return typeguard.check_type(value, kind, collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS)
    except typeguard.TypeCheckError:
        kind = getattr(kind, "__name__", kind) if isinstance(kind, type) else str(kind).replace("typing.", "")
        raise ValueError(f"{where}={value!r} must be of type {kind}") from None
