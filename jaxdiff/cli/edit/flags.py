"""The flags of `jaxdiff edit`, and what they are where they are not given."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

from jaxdiff import editing
from jaxdiff.cli.edit.inversions import Inversion
from jaxdiff.pretrained import Model

REAL = ("null-text", "negative-prompt", "direct")
REDRAWN, ANEW = (*REAL, "p2p"), ("sdedit", "inpaint")
# Flags that only some methods have, and what they are where they are not given.
OPTIONS: dict[str, tuple[tuple[str, ...], Any]] = {
    "image": ((*REAL, *ANEW, "ddib"), None),
    "source": ((*REDRAWN, "ddib"), None),
    "guidance": ((*REDRAWN, *ANEW), None),
    "early": ((*REDRAWN, *ANEW), None),
    "words": (REDRAWN, "auto"),
    "cross": (REDRAWN, (0.2,)),
    "own": (REDRAWN, (1.0,)),
    "hold": (REDRAWN, ()),
    "share": (REDRAWN, ()),
    "weigh": (REDRAWN, ()),
    "blend": (REDRAWN, ()),
    "refine": ((*REAL, "ddib"), 3),
    "adam": (("null-text",), 10),
    "rate": (("null-text",), 0.01),
    "save_inversion": (REAL, None),
    "from_inversion": (REAL, None),
    "strength": (("sdedit",), 0.6),
    "mask": (ANEW, None),
    "rounds": (("inpaint",), 5),
    "to": (("ddib",), None),
    "seed": (("p2p", *ANEW), 0),
}
NEEDED = {
    **dict.fromkeys(REAL, ("image", "source", "prompt")),
    "p2p": ("source", "prompt"),
    "sdedit": ("image",),
    "inpaint": ("image", "mask"),
    "ddib": ("image",),
}
WORDY = ("words", "cross", "own", "hold", "share", "weigh", "blend")
LEAST = {"steps": 1, "refine": 0, "adam": 1, "rounds": 1, "rate": 0.0}


@dataclasses.dataclass(frozen=True)
class EditFlags:
    """Edits an image by what it shall show: a text, or a class label where the model draws those.

    Attributes:
      prompt: what the image shall show; sdedit, inpaint and ddib can do without.
      method: null-text, negative-prompt and direct invert a real image and redraw it by prompt-to-prompt; p2p draws an
        image of --source and edits that; sdedit noises the image and draws it from there; inpaint draws a part of it;
        ddib translates it through the noise to another prompt, or another model.
      image: the image, a PNG, JPEG or WebP file of the model's size.
      source: what it shows now.
      steps: from noise to image; by default 50.
      guidance: its scale; by default the model's own, or 3 where that is 1.
      early: its scale in the first fifth of the way, where shape is settled; by default the same, but 20 for p2p
        where --guidance is not given.
      words: replace (a word for a word), refine (words added, left out or changed), or auto: replace where both prompts
        have as many.
      cross: share of the way, in [0, 1], for which words look where they looked in the source, or where that begins
        and ends.
      own: the same for where pixels look.
      hold: WORD=SHARE or WORD=BEGIN:END, words of the prompt with another --cross than the rest.
      share: WORD=SHARE, words of the prompt that take over only this share of the attention, in [0, 1].
      weigh: WORD=SCALE, words of the prompt that shall count more (above 1) or less, for 0.8 of the way or --cross.
      blend: words of both prompts where alone the image may change.
      refine: rounds of refinement in each step of the inversion.
      adam: steps of Adam in each step of null-text inversion.
      rate: of Adam, in the first step.
      save_inversion: keep the inversion in this .safetensors file.
      from_inversion: take it from there, and what was not given from how it was made: no --image, --source or --steps
        are needed.
      strength: of sdedit, in [0, 1]: 0 keeps the image, 1 draws a new one.
      mask: an image of the same size: what is bright in it is drawn anew, and the rest is kept.
      rounds: how often inpainting takes each step, at least 1; more fits better.
      to: the model that the image is translated to; by default the same.
      seed: of what is drawn.
      out: the edited image (.png); by default a new file in edits. The sheet beside it is named the same with _sheet.
      overwrite: replace files that are there.
    """

    prompt: str | None = None
    method: Literal["null-text", "negative-prompt", "direct", "p2p", "sdedit", "inpaint", "ddib"] = "null-text"
    image: Path | None = None
    source: str | None = None
    steps: int | None = None
    guidance: float | None = None
    early: float | None = None
    words: Literal["auto", "replace", "refine"] | None = None
    cross: tuple[float, ...] | None = None
    own: tuple[float, ...] | None = None
    hold: tuple[str, ...] | None = None
    share: tuple[str, ...] | None = None
    weigh: tuple[str, ...] | None = None
    blend: tuple[str, ...] | None = None
    refine: int | None = None
    adam: int | None = None
    rate: float | None = None
    save_inversion: Path | None = None
    from_inversion: Path | None = None
    strength: float | None = None
    mask: Path | None = None
    rounds: int | None = None
    to: str | None = None
    seed: int | None = None
    out: Path | None = None
    overwrite: bool = False


def complete(flags: EditFlags, model: Model, kept: Inversion | None) -> EditFlags:
    """The flags with the defaults of their method, or of the inversion that is there.

    Raises:
      ValueError: a number that is out of range; one line.
    """
    own = model.config.sample.guidance
    scale = 3.0 if own == 1 else own  # at 1 there is no guidance
    defaults = {name: default for name, (_, default) in OPTIONS.items()}
    defaults |= {"guidance": scale, "early": 20.0 if flags.method == "p2p" else scale, "steps": 50}
    if kept is not None:
        defaults |= {"source": kept.source, "steps": len(kept.levels) - 1}
        defaults |= kept.about if flags.method == "null-text" else {}
    if flags.guidance is not None:
        defaults["early"] = flags.guidance
    given = typed(flags)
    flags = dataclasses.replace(flags, **{name: value for name, value in defaults.items() if name not in given})
    for name, value in vars(flags).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{flag(name)} {value} must be a finite number")
    for name, low in LEAST.items():
        if getattr(flags, name) < low:
            raise ValueError(f"{flag(name)} {getattr(flags, name)} must be at least {low}")
    editing.strength_grid(model.config.diffusion.num_levels, flags.steps, flags.strength)  # raises where there is none
    if flags.method == "null-text" and flags.guidance == flags.early == 1:
        raise ValueError("at --guidance 1 no nulls are needed: take --method direct, or more guidance")
    return flags


def check_typed(flags: EditFlags, model: Model) -> None:
    """Raises ValueError where what was typed does not fit together, or something is missing."""
    given = typed(flags)
    for name in sorted(given & set(OPTIONS)):
        methods, _ = OPTIONS[name]
        if flags.method not in methods:
            raise ValueError(f"{flag(name)} is not for --method {flags.method}, but for {', '.join(methods)}")
    wordy = [name for name in WORDY if name in given]
    if model.reads is None and (wordy or flags.method == "p2p"):
        what = flag(wordy[0]) if wordy else "--method p2p"
        raise ValueError(f"{what} needs words, and {model.config.name} draws none")
    there = {"image", "source"} if flags.from_inversion is not None else set()
    again = sorted(given & (there | {"refine", "steps"})) if there else []
    if again:
        raise ValueError(f"{flag(again[0])} is not for --from-inversion, which has it already")
    missing = [name for name in NEEDED[flags.method] if name not in given | there]
    if missing:
        raise ValueError(f"--method {flags.method} needs {' and '.join(map(flag, missing))}")
    if flags.method == "ddib" and not given & {"to", "prompt"}:
        raise ValueError("--method ddib needs --to or --prompt: else it would lead back to where it began")
    if flags.prompt is None and given & {"guidance", "early"}:
        raise ValueError(f"{flag(min(given & {'guidance', 'early'}))} needs --prompt: there is nothing to guide to")


def typed(flags: EditFlags) -> set[str]:
    """What has a value."""
    return {name for name, value in vars(flags).items() if value is not None}


def flag(name: str) -> str:
    """A field as it is typed."""
    return f"--{name.replace('_', '-')}"
