"""What `jaxdiff edit` is told in words or labels, and how attention is edited by it."""

import contextlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import editing, guidance
from jaxdiff.cli.edit.flags import EditFlags
from jaxdiff.editing import AttentionEdit
from jaxdiff.nets.unet import label_embedding
from jaxdiff.pretrained import Model
from jaxdiff.types import Cond, Guided

EARLY = 0.8  # share of the levels above which guidance is --early


def told(model: Model, prompt: str | None) -> Guided:
    """A prompt, which is a text or a label, and what stands for none of them; twice the latter where there is no prompt.

    Raises:
      ValueError: it is no such label, or the model has neither; one line.
    """
    net = model.config.net
    vector = jnp.zeros([1, net.vector_dim]) if net.vector_dim else None
    if model.reads is not None:
        if prompt is not None:
            check_text(model, prompt)
        return Guided(*(Cond(context=model.reads([text]), vector=vector) for text in (prompt or "", "")))
    if not net.num_classes:
        if prompt is not None:
            raise ValueError(f"{model.config.name} draws neither texts nor labels: it cannot be told what to show")
        return Guided(Cond(vector=vector), Cond(vector=vector))
    if prompt is not None and not (prompt.isdecimal() and int(prompt) < net.num_classes):
        raise ValueError(f"{model.config.name} draws labels: {prompt!r} must be one of 0..{net.num_classes - 1}")
    labels = (net.num_classes if prompt is None else int(prompt), net.num_classes)
    return Guided(*(Cond(label=label_embedding(model.params, jnp.array([one])), vector=vector) for one in labels))


def check_text(model: Model, prompt: str) -> None:
    """Raises ValueError for a text that is not read as it stands."""
    if not prompt.strip():
        raise ValueError("a prompt must say something")
    cut = model.reads.tokenizer.cut(prompt)
    if cut:
        raise ValueError(f"{prompt!r} is too long: {cut[1]!r} would not be read")


def leaf_of(model: Model) -> str:
    """Which leaf of a condition the prompt is in."""
    return "label" if model.reads is None else "context"


def scale_of(model: Model, flags: EditFlags):
    """Guidance: a number, or a function of the level."""
    if flags.early == flags.guidance:
        return flags.guidance
    return guidance.stepped(flags.early, flags.guidance, EARLY * model.config.diffusion.num_steps)


class Blend(NamedTuple):
    """Where alone the image may change: the tokens of --blend in source and prompt, [2, L], and the side of the maps."""

    words: np.ndarray
    side: int


class Plan(NamedTuple):
    """What is to be redrawn: the two prompts, and how attention is edited."""

    here: Guided
    there: Cond
    edit: AttentionEdit | None
    blend: Blend | None


def planned(model: Model, flags: EditFlags) -> Plan:
    """All that can be wrong with prompts and words, found before anything takes long.

    Raises:
      ValueError: as `told`, `attention_edit` and `blended`.
    """
    here, there = told(model, flags.source), told(model, flags.prompt).cond
    return Plan(here, there, attention_edit(model, flags), blended(model, flags, there))


def attention_edit(model: Model, flags: EditFlags) -> AttentionEdit | None:
    """How attention is edited; None for a model without words.

    Raises:
      ValueError: prompts that cannot be aligned, or a word that is not there; one line.
    """
    if model.reads is None:
        return None
    words, (source, target) = model.reads.tokenizer, (flags.source, flags.prompt)
    how = flags.words
    if how == "auto":
        how = "replace" if len(source.split()) == len(target.split()) else "refine"
    cross, own = window(flags.cross, "--cross"), window(flags.own, "--own")
    weights = {word: number(scale, f"--weigh {word}") for word, scale in map(named, flags.weigh)}
    held = {word: (cross[0], max(cross[1], 0.8)) for word in weights}  # a word has its weight while its window is open
    for word, shares in map(named, flags.hold):
        held[word] = window([number(share, f"--hold {word}") for share in shares.split(":")], f"--hold {word}")
    make, num_steps = {"replace": editing.replace, "refine": editing.refine}[how], model.config.diffusion.num_steps
    found = make(words, source, target, cross=cross, own=own, words=held, num_steps=num_steps)
    for word, scale in weights.items():
        found = editing.reweight(words, found, target, word, scale)
    return editing.pairs([found])


def window(shares, where: str) -> tuple[float, float]:
    """Where a window begins and ends.

    Raises:
      ValueError: neither one number nor two.
    """
    if len(shares) not in (1, 2):
        raise ValueError(f"{where} takes the share of the way at which it ends, or those at which it begins and ends")
    return (0.0, *shares)[-2:]


def named(text: str) -> tuple[str, str]:
    """WORD=VALUE taken apart."""
    word, _, value = text.partition("=")
    return word, value


def number(text: str, where: str) -> float:
    """A number that was typed.

    Raises:
      ValueError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where} must be followed by = and a number, such as red=0.5") from None


def blended(model: Model, flags: EditFlags, cond: Cond) -> Blend | None:
    """Where alone the image may change; None for everywhere.

    Raises:
      ValueError: a word that is in neither prompt, or a network without maps of where words look.
    """
    if not flags.blend:
        return None
    words = model.reads.tokenizer
    found = np.zeros([2, words.length], np.float32)
    for word in flags.blend:
        there = []
        for row, prompt in zip(found, (flags.source, flags.prompt)):
            with contextlib.suppress(ValueError):  # it may be in one of them alone
                there += words.places(prompt, word)
                row[words.places(prompt, word)] = 1
        if not there:
            raise ValueError(f"--blend {word} is in neither {flags.source!r} nor {flags.prompt!r}")
    cond = cond._replace(attention_edit=editing.no_edit(1, words.length))
    said = jax.eval_shape(model.denoiser(), jax.ShapeDtypeStruct((1, *model.config.shape), jnp.float32), 1, cond)
    sides = [side for side in editing.map_sides(said.aux.maps, model.config.shape[:2]) if side <= 16]
    if not sides:
        raise ValueError(
            f"--blend needs to know where words look, and {model.config.name} does not say it at 16 or less"
        )
    return Blend(found, max(sides))
