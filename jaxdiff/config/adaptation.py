"""Adaptations of a base model: one dataclass for each method."""

import dataclasses
from typing import Annotated, ClassVar, Literal

import tyro

from jaxdiff.data.control_inputs import CONTROL_INPUTS
from jaxdiff.registry import Choice, Registry

ADAPTATIONS = Registry("adaptation")


@dataclasses.dataclass(frozen=True)
class NewTokens:
    """New tokens of the text encoder, such as "<star>", whose embeddings are trained.

    Attributes:
      tokens: the tokens; captions or prompts hold them.
      initial: words from whose embeddings the new ones start: one for all, or one for each; "" is a random start, as for
        the first of the two tokens of a concept of Mix-of-Show.
    """

    tokens: tuple[str, ...] = ()
    initial: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prior:
    """Prior preservation of DreamBooth: images of the class are learned beside those of the instance.

    Attributes:
      prompts: prompts of the class, such as "a dog" for "a sks dog".
      source: data source with images of the class and their captions; None samples them from the base model.
      num: number of images sampled.
      weight: weight of the class images in the loss.
    """

    prompts: tuple[str, ...] = ()
    source: str | None = None
    num: int = 200
    weight: float = 1.0

    @property
    def wanted(self) -> bool:
        """Whether the class is learned at all."""
        return bool(self.prompts or self.source)


@dataclasses.dataclass(frozen=True)
class Adaptation(Choice):
    """Base of the adaptations.

    Attributes:
      base: base model, as for `jaxdiff.load`; a run keeps a copy. Network, process, codec and text encoder are the base's.
    """

    base: Annotated[str | None, tyro.conf.arg(aliases=["--base"])] = None
    # Defaults of the fields that only some methods have; not annotated, so that they are no fields here.
    text_encoder = False
    prompts = ()
    new = NewTokens()
    prior = Prior()
    dropout = 0.0
    low_rank: ClassVar[bool] = False  # whether kernels get corrections of low rank

    @property
    def trains_text_encoder(self) -> bool:
        """Whether the text encoder changes in training, so that texts are encoded anew in each step."""
        return bool(self.new.tokens) or self.text_encoder


@ADAPTATIONS.register("none")
@dataclasses.dataclass(frozen=True)
class NoAdaptation(Adaptation):
    """Training from scratch."""

    base: ClassVar[None] = None


@dataclasses.dataclass(frozen=True)
class LowRank(Adaptation):
    """Low-rank corrections of kernels (Hu et al. 2022), see `jaxdiff.adapt.lora`.

    Attributes:
      rank: rank of the corrections.
      alpha: the corrections are multiplied by alpha / rank; None is the rank.
      rank_stabilised: multiply by alpha / sqrt(rank) instead (Kalajdzievski 2023).
      targets: kernels that are corrected: "attention", "convolutions", "feed_forward", several with + between, or a regular
        expression searched for in their paths.
    """

    low_rank: ClassVar[bool] = True
    rank: int = 4
    alpha: float | None = None
    rank_stabilised: bool = False
    targets: str = "attention"


@ADAPTATIONS.register("lora")
@dataclasses.dataclass(frozen=True)
class LoRA(LowRank):
    """Low-rank corrections of kernels (Hu et al. 2022), see `jaxdiff.adapt.lora`; new tokens may be learned beside them.

    Attributes:
      rank: rank of the corrections.
      alpha: the corrections are multiplied by alpha / rank; None is the rank.
      rank_stabilised: multiply by alpha / sqrt(rank) instead (Kalajdzievski 2023).
      targets: kernels that are corrected: "attention", "convolutions", "feed_forward", several with + between, or a regular
        expression searched for in their paths.
      dropout: probability with which a rank is left out of a step.
      text_encoder: also correct the attention of the text encoder.
      prompts: captions of the images, in place of their own: each image is learned with each of these.
      new: new tokens.
      prior: prior preservation.
    """

    dropout: float = 0.0
    text_encoder: bool = False
    prompts: tuple[str, ...] = ()
    new: NewTokens = NewTokens()
    prior: Prior = Prior()


@ADAPTATIONS.register("few_steps")
@dataclasses.dataclass(frozen=True)
class FewSteps(LowRank):
    """A LoRA with which the base samples in 1 to 4 steps: consistency distillation (Luo et al. 2023, LCM-LoRA), or reflow.

    Its images are sampled with a guidance of 1, since that of the base is learned: by --sampler lcm, of several phases in
    as many steps; those of reflow by --sampler ddim.

    Attributes:
      rank: rank of the corrections.
      alpha: the corrections are multiplied by alpha / rank; None is the rank.
      rank_stabilised: multiply by alpha / sqrt(rank) instead (Kalajdzievski 2023).
      targets: kernels that are corrected, see `LoRA`.
      objective: "consistency", or "reflow" of rectified flow, see `objectives.reflow`.
      guidance: scale of the base's guidance that is learned; 1 is none.
      intervals: number of the base's steps between pure noise and clean data.
      phases: number of parts of the path, each with its own end (Wang et al. 2024); it divides the intervals.
      huber: error at which the loss turns from squared to absolute.
    """

    objective: Literal["consistency", "reflow"] = "consistency"
    guidance: float = 1.0
    intervals: int = 50
    phases: int = 1
    huber: float = 0.03


@ADAPTATIONS.register("dreambooth")
@dataclasses.dataclass(frozen=True)
class DreamBooth(Adaptation):
    """All weights of the network (Ruiz et al. 2023).

    Attributes:
      text_encoder: also train the text encoder.
      prompts: captions of the images, in place of their own: each image is learned with each of these.
      new: new tokens.
      prior: prior preservation.
    """

    text_encoder: bool = False
    prompts: tuple[str, ...] = ()
    new: NewTokens = NewTokens()
    prior: Prior = Prior()


@ADAPTATIONS.register("textual_inversion")
@dataclasses.dataclass(frozen=True)
class TextualInversion(Adaptation):
    """The embeddings of new tokens alone (Gal et al. 2023).

    Attributes:
      prompts: captions of the images, in place of their own: each image is learned with each of these.
      new: new tokens.
      prior: prior preservation.
    """

    prompts: tuple[str, ...] = ()
    new: NewTokens = NewTokens()
    prior: Prior = Prior()


@ADAPTATIONS.register("controlnet")
@dataclasses.dataclass(frozen=True)
class ControlNet(Adaptation):
    """A ControlNet beside the network (Zhang et al. 2023), see `jaxdiff.adapt.control`.

    Attributes:
      condition: picture made of each image that the ControlNet is conditioned on, see `jaxdiff.data.control_inputs`.
      embedding: channels of the layers that embed the picture, whose sides are halved between any two.
      prompts: captions of the images, in place of their own: each image is learned with each of these.
    """

    condition: str | None = None
    embedding: tuple[int, ...] = (16, 32, 96, 256)
    prompts: tuple[str, ...] = ()

    def __post_init__(self):
        if self.condition is not None:
            CONTROL_INPUTS[self.condition]  # raises where it is unknown
