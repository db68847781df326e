"""An edit as data: its inputs, its method with the method's own options, and its outcome."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from jaxdiff import editing, guidance
from jaxdiff.guidance.weights import Weight
from jaxdiff.model import Model
from jaxdiff.pipeline.edit.inversions import Inversion
from jaxdiff.registry import Choice, Registry
from jaxdiff.samplers import SAMPLERS
from jaxdiff.schedules import Schedule
from jaxdiff.types import Guided

EDIT_METHODS = Registry("editing method")
EARLY = 0.8  # share of the first level above which the guidance is `early_guidance`


class Edited(NamedTuple):
    """The outcome of an edit.

    Attributes:
      image: the edited image, uint8 [H, W, C].
      panels: titles and images uint8 [H, W, C] of a sheet that shows the edit step by step.
      inversion: the inversion of the image, for methods that invert it; else None.
    """

    image: np.ndarray
    panels: list[tuple[str, np.ndarray]]
    inversion: Inversion | None = None


@dataclasses.dataclass(frozen=True)
class EditMethod(Choice):
    """Base of the editing methods: frozen dataclasses of their own options, registered in `EDIT_METHODS`.

    Attributes:
      needs: arguments of `edit` that the method cannot do without.
      takes: arguments of `edit` that it may have besides.
      passes: number of ticks for each sampling step.
      early_guidance: default of the guidance at high levels; None is `guidance`.
    """

    needs: ClassVar[tuple[str, ...]] = ("image",)
    takes: ClassVar[tuple[str, ...]] = ()
    passes: ClassVar[int] = 1
    early_guidance: ClassVar[float | None] = None

    def completed(self, inversion: Inversion | None) -> "EditMethod":
        """The method with options that were not given as the inversion was made with, or else by default.

        Raises:
          ValueError: an option that an inversion has already.
        """
        return self

    def check(self, job: "Job") -> None:
        """Raises ValueError for options that do not fit the job, before anything takes long."""

    def run(self, job: "Job", tick: Callable[[int], None]) -> Edited:
        """Edits the image; `tick` is called with numbers of steps, `passes` times those of the job in all."""
        raise NotImplementedError


class Job(NamedTuple):
    """An edit, checked and ready to run.

    Attributes:
      model: denoiser that edits.
      other: model that the image is translated to; the same for all methods but `Bridge`.
      method: method with its options.
      image: image to edit, uint8 [H, W, C]; None where the source is sampled.
      known: pixels that are kept, bool [H, W, 1]; None without a mask.
      source_prompt: text or label of the image as it is.
      prompt: text or label of the edited image; None is the unconditional one.
      source: condition of `source_prompt`, and the unconditional one, a row each.
      target: condition of `prompt`, and the unconditional one, a row each.
      num_steps: N.
      guidance: scale.
      early: scale in the first fifth of the way.
      sampler: sampler, for methods that take any.
      seed: seed of everything random.
      inversion: inversion of the image that was made before; None is none.
      control: checksum of the ControlNets' pictures, see `inversions.control_checksum`.
      keep: called with a new inversion as soon as there is one, before the way back.
    """

    model: Model
    other: Model
    method: EditMethod
    image: np.ndarray | None
    known: np.ndarray | None
    source_prompt: str | None
    prompt: str | None
    source: Guided
    target: Guided
    num_steps: int = 50
    guidance: float = 1.0
    early: float = 1.0
    sampler: Choice = SAMPLERS.choice("ddim")
    seed: int = 0
    inversion: Inversion | None = None
    control: str = ""
    keep: Callable[[Inversion], None] = lambda inversion: None

    @property
    def schedule(self) -> Schedule:
        """Noise schedule of the model."""
        return self.model.schedule

    @property
    def leaf(self) -> str:
        """The leaf of the condition that holds the prompt."""
        return "context" if self.model.config.net.context_dim else "label"

    def scale(self, first: float = 1.0) -> Weight:
        """The guidance: a number, or a function of the level, where the way begins at a share of the highest level."""
        if self.early == self.guidance:
            return self.guidance
        return guidance.stepped(self.early, self.guidance, EARLY * first * self.schedule.num_levels)


def difference(before: np.ndarray, after: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Panels of an edited image and of its difference from another."""
    return [("edited", after), ("difference", np.abs(after.astype(int) - before).astype(np.uint8))]


def where_words_look(after: np.ndarray, maps, tokenizer, prompt: str) -> list[tuple[str, np.ndarray]]:
    """Panels of an image, for each word of its prompt lit where the word's cross-attention looks."""
    heat = editing.word_heatmaps(maps, tokenizer, prompt)
    return [(f"where {word!r} looked", editing.highlight(after, one)) for word, one in heat.items()]


def check_finite(options: EditMethod, least: dict[str, float]) -> None:
    """Raises ValueError for options below their least value, or not finite."""
    for name, low in least.items():
        value = getattr(options, name)
        if not (np.isfinite(value) and value >= low):
            raise ValueError(f"`{name}`={value} must be finite and at least {low}")


def known_latents(known: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The latents that are of known pixels alone: bool [H, W, 1] -> [h, w, 1]."""
    tall, wide = known.shape[0] // shape[0], known.shape[1] // shape[1]
    return known.reshape(shape[0], tall, shape[1], wide, 1).all((1, 3))
