"""What `jaxdiff edit` is told in words or labels, and how attention is edited by it."""

import contextlib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import editing
from jaxdiff.cli.edit.flags import EditFlags
from jaxdiff.editing import AttentionEdit
from jaxdiff.nets.unet import label_embedding
from jaxdiff.pretrained import Model
from jaxdiff.types import Cond, Guided


def check_prompt(model: Model, prompt: str | None) -> None:
    """Raises ValueError for a prompt that the model does not read as it stands; None says nothing, to any."""
    net = model.config.net
    if prompt is None:
        return
    if model.reads is not None:
        if not prompt.strip():
            raise ValueError("a prompt must say something")
        if cut := model.reads.tokenizer.truncation(prompt):
            raise ValueError(f"{prompt!r} is too long: {cut[1]!r} would not be read")
    elif not net.num_classes:
        raise ValueError(f"{model.config.name} draws neither texts nor labels: it cannot be told what to show")
    elif not (prompt.isdecimal() and int(prompt) < net.num_classes):
        raise ValueError(f"{model.config.name} draws labels: {prompt!r} must be one of 0..{net.num_classes - 1}")


def told(model: Model, prompt: str | None) -> Guided:
    """A prompt, which is a text or a label, and what stands for none of them; twice the latter where there is no prompt."""
    net = model.config.net
    vector = jnp.zeros([1, net.vector_dim]) if net.vector_dim else None
    if model.reads is not None:
        return Guided(*(Cond(context=model.reads([text]), vector=vector) for text in (prompt or "", "")))
    if not net.num_classes:
        return Guided(Cond(vector=vector), Cond(vector=vector))
    labels = (net.num_classes if prompt is None else int(prompt), net.num_classes)
    return Guided(*(Cond(label=label_embedding(model.params, jnp.array([one])), vector=vector) for one in labels))


class Blend(NamedTuple):
    """Where alone the image may change: the tokens of --blend in source and prompt, [2, L], and the side of the maps."""

    tokens: np.ndarray
    side: int


def attention_edit(model: Model, flags: EditFlags) -> AttentionEdit:
    """How attention is edited.

    Raises:
      ValueError: prompts that cannot be aligned, or a word that is not there; one line.
    """
    tokenizer, (source, target) = model.reads.tokenizer, (flags.source, flags.prompt)
    how = flags.words
    if how == "auto":
        how = "replace" if len(source.split()) == len(target.split()) else "refine"
    cross, own = window(flags.cross, "--cross"), window(flags.own, "--own")
    weights = {word: number(scale, f"--weigh {word}") for word, scale in map(named, flags.weigh)}
    held = {word: (cross[0], max(cross[1], 0.8)) for word in weights}  # a word has its weight while its window is open
    for word, shares in map(named, flags.hold):
        held[word] = window([number(share, f"--hold {word}") for share in shares.split(":")], f"--hold {word}")
    make, num_levels = {"replace": editing.replace, "refine": editing.refine}[how], model.config.diffusion.num_levels
    found = make(
        tokenizer, source, target, cross_attention=cross, self_attention=own, word_windows=held, num_levels=num_levels
    )
    for word, scale in weights.items():
        found = editing.reweight(tokenizer, found, target, word, scale)
    for word, share in map(named, flags.share):
        found = editing.set_source_share(tokenizer, found, target, word, number(share, f"--share {word}"))
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
    with contextlib.suppress(ValueError):
        if math.isfinite(found := float(text)):
            return found
    raise ValueError(f"{where} must be followed by = and a number, such as red=0.5")


def blended(model: Model, flags: EditFlags) -> Blend | None:
    """Where alone the image may change; None for everywhere.

    Raises:
      ValueError: a word that is in neither prompt, or a network without maps of where words look.
    """
    if not flags.blend:
        return None
    tokenizer = model.reads.tokenizer
    found = np.zeros([2, tokenizer.length], np.float32)
    for word in flags.blend:
        there = []
        for row, prompt in zip(found, (flags.source, flags.prompt)):
            with contextlib.suppress(ValueError):  # it may be in one of them alone
                there += tokenizer.positions(prompt, word)
                row[tokenizer.positions(prompt, word)] = 1
        if not there:
            raise ValueError(f"--blend {word} is in neither {flags.source!r} nor {flags.prompt!r}")
    cond = told(model, flags.prompt).cond._replace(attention_edit=editing.no_edit(1, tokenizer.length))
    said = jax.eval_shape(model.denoiser(), jax.ShapeDtypeStruct((1, *model.config.shape), jnp.float32), 1, cond)
    sides = [side for side in editing.maps_by_size(said.aux.maps, model.config.shape[:2]) if side <= 16]
    if not sides:
        raise ValueError(
            f"--blend needs to know where words look, and {model.config.name} does not say it at 16 or less"
        )
    return Blend(found, max(sides))
