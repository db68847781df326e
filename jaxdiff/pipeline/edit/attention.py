"""Options of the methods that edit an image through its attention, and the attention edit that they describe."""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import editing
from jaxdiff.editing import AttentionEdit
from jaxdiff.model import denoiser_of
from jaxdiff.pipeline.edit.base import EditMethod, Job

KINDS = {"replace": editing.replace, "refine": editing.refine}


@dataclasses.dataclass(frozen=True)
class AttentionOptions(EditMethod):
    """Base of the methods that take attention over from the source image, as prompt-to-prompt does.

    Shares of the way count from the noise down.

    Attributes:
      alignment: "replace" (word for word), "refine" (words added, left out or changed), or "auto": replace where both
        prompts have equally many words.
      cross_attention: share of the way, in [0, 1], at which the window of the cross-attention ends; or at which it begins
        and ends.
      self_attention: the same for self-attention.
      word_window: WORD=SHARE or WORD=BEGIN:END, words of the prompt with a window of their own for cross-attention.
      source_share: WORD=SHARE, words of the prompt that take over only this share of the source's attention, in [0, 1].
      reweight: WORD=SCALE, words of the prompt whose attention is scaled, up (above 1) or down, for 0.8 of the way or
        `cross_attention`.
      blend: words of both prompts at which alone the image may change.
    """

    alignment: Literal["auto", "replace", "refine"] = "auto"
    cross_attention: tuple[float, ...] = (0.2,)
    self_attention: tuple[float, ...] = (1.0,)
    word_window: tuple[str, ...] = ()
    source_share: tuple[str, ...] = ()
    reweight: tuple[str, ...] = ()
    blend: tuple[str, ...] = ()

    def check(self, job: Job) -> None:
        default = AttentionOptions
        given = [field.name for field in dataclasses.fields(default)]
        changed = [name for name in given if getattr(self, name) != getattr(default, name)]
        if job.model.text_encoder is None:
            if changed:
                raise ValueError(
                    f"`{changed[0]}` needs a model with a text encoder, and {job.model.config.name} has none"
                )
            return
        job.model.config.net.check_attention_edits()
        attention_edit(job)
        blend_of(job)


class Blend(NamedTuple):
    """Region in which alone the image may change.

    Attributes:
      token_mask: tokens of the words in source and prompt that span it, float32 [2, L].
      side: side of the cross-attention maps that it is found in.
    """

    token_mask: np.ndarray
    side: int


def attention_edit(job: Job) -> AttentionEdit:
    """The attention edit of a job.

    Raises:
      ValueError: prompts that cannot be aligned, or a word that is missing; one line.
    """
    options, source, target = job.method, job.source_prompt, job.prompt
    tokenizer, kind = job.model.text_encoder.tokenizer, options.alignment
    if kind == "auto":
        kind = "replace" if len(source.split()) == len(target.split()) else "refine"
    cross, own = (_window(getattr(options, name), name) for name in ("cross_attention", "self_attention"))
    weights = {word: _number(scale, f"`reweight` {word}") for word, scale in _pairs(options.reweight, "reweight")}
    windows = {
        word: (cross[0], max(cross[1], 0.8)) for word in weights
    }  # a weight holds while the word's window is open
    for word, shares in _pairs(options.word_window, "word_window"):
        where = f"`word_window` {word}"
        windows[word] = _window([_number(share, where) for share in shares.split(":")], where)
    edit = KINDS[kind](
        tokenizer,
        source,
        target,
        cross_attention=cross,
        self_attention=own,
        word_windows=windows,
        num_levels=job.schedule.num_levels,
    )
    for word, scale in weights.items():
        edit = editing.reweight(tokenizer, edit, target, word, scale)
    for word, share in _pairs(options.source_share, "source_share"):
        edit = editing.set_source_share(tokenizer, edit, target, word, _number(share, f"`source_share` {word}"))
    return editing.pairs([edit])


def blend_of(job: Job) -> Blend | None:
    """The region in which alone the image may change; None for everywhere.

    Raises:
      ValueError: a word that is in neither prompt, or a network without cross-attention maps of at most 16x16.
    """
    if not job.method.blend:
        return None
    model, tokenizer = job.model, job.model.text_encoder.tokenizer
    mask = np.zeros([2, tokenizer.length], np.float32)
    for word in job.method.blend:
        positions = []
        for row, prompt in zip(mask, (job.source_prompt, job.prompt)):
            with contextlib.suppress(ValueError):  # it may be in one of them alone
                positions += tokenizer.positions(prompt, word)
                row[tokenizer.positions(prompt, word)] = 1
        if not positions:
            raise ValueError(f"`blend` {word} is in neither {job.source_prompt!r} nor {job.prompt!r}")
    cond = job.target.cond._replace(attention_edit=editing.no_edit(1, tokenizer.length))
    x = jax.ShapeDtypeStruct((1, *model.shape), jnp.float32)
    maps = jax.eval_shape(denoiser_of(model), x, 1, cond).aux.maps
    sides = [side for side in editing.maps_by_size(maps, model.shape[:2]) if side <= 16]
    if not sides:
        raise ValueError(f"`blend` needs cross-attention maps of at most 16x16, and {model.config.name} has none")
    return Blend(mask, max(sides))


def _window(shares, where: str) -> tuple[float, float]:
    """Begin and end of a window.

    Raises:
      ValueError: neither one number nor two.
    """
    if len(shares) not in (1, 2):
        where = where if where.startswith("`") else f"`{where}`"
        raise ValueError(f"{where} takes the share of the way at which it ends, or those at which it begins and ends")
    return (0.0, *shares)[-2:]


def _pairs(texts: Sequence[str], name: str) -> list[tuple[str, str]]:
    """Texts WORD=VALUE taken apart; words in small letters, as the tokenizer reads them.

    Raises:
      ValueError: a word is given twice.
    """
    pairs = [(word.lower(), value) for word, _, value in (text.partition("=") for text in texts)]
    words = [word for word, _ in pairs]
    if twice := next((word for word in words if words.count(word) > 1), None):
        raise ValueError(f"`{name}` {twice} is given twice: give each word once")
    return pairs


def _number(text: str, where: str) -> float:
    """A finite number in text form.

    Raises:
      ValueError: it is none.
    """
    with contextlib.suppress(ValueError):
        if math.isfinite(found := float(text)):
            return found
    raise ValueError(f"{where} must be followed by = and a number, such as red=0.5")
