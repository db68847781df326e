"""Captions as a network reads them: one of several, tags shuffled and left out anew in each epoch, a trigger in front."""

import dataclasses
import functools

import numpy as np

from jaxdiff.data import captions, derived
from jaxdiff.data.base import Source
from jaxdiff.data.captions import Captions
from jaxdiff.data.texts import Texts

STREAM = 0x74616773  # of the random numbers, beside those of other uses of the seed


@dataclasses.dataclass(frozen=True)
class CaptionTags:
    """Random changes of captions that are tags with commas between, such as "1girl, red hair, smile".

    Attributes:
      shuffle: shuffle the tags, anew in each epoch.
      keep: number of first tags that stay in their places and are not left out.
      dropout: probability with which each of the other tags is left out.
    """

    shuffle: bool = False
    keep: int = 0
    dropout: float = 0.0

    @property
    def active(self) -> bool:
        """Whether captions are changed at all."""
        return self.shuffle or self.dropout > 0


UNCHANGED = CaptionTags()


def check(tags: CaptionTags, name: str = "caption_tags") -> None:
    """Raises ValueError, with the name of the argument, for numbers out of range, or tags to keep where none is changed."""
    if not 0 <= tags.dropout < 1:
        raise ValueError(f"`{name}.dropout`={tags.dropout} must lie in [0, 1)")
    if tags.keep < 0 or (tags.keep and not tags.active):
        raise ValueError(
            f"`{name}.keep`={tags.keep} is a number of first tags that `{name}.shuffle` and `{name}.dropout` leave in "
            "place: give one of these, or 0"
        )


def arranged(text: str, rng: np.random.Generator, tags: CaptionTags, trigger: str = "") -> str:
    """A caption with its tags shuffled and some of them left out.

    Args:
      text: the caption, with the trigger in front.
      rng: NumPy generator.
      tags: the changes; inactive ones return the text as it is.
      trigger: it stays in front, and is none of the tags that `tags.keep` counts.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data.caption_tags import CaptionTags, arranged
        >>> arranged("1girl, red, blue, green", np.random.default_rng(3), CaptionTags(shuffle=True, keep=1, dropout=0.4))
        '1girl, green, blue'
    """
    if not tags.active:
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    count = tags.keep + (len([part for part in trigger.split(",") if part.strip()]) if trigger else 0)
    first, rest = parts[:count], parts[count:]
    order = rng.permutation(len(rest)) if tags.shuffle else np.arange(len(rest))
    stay = rng.random(len(rest)) >= tags.dropout
    return ", ".join(first + [rest[i] for i in order if stay[i]])


def text_of(source: Source, i: int, seed: int, position: int, tags: CaptionTags = UNCHANGED, trigger: str = "") -> str:
    """The caption of an example as a network reads it at a position of the global order; a function of these alone.

    Args:
      source: with captions; of several of one example, one is drawn.
      i: index of the example.
      seed: of the training.
      position: of the example in the order of all epochs.
      tags: changes of its tags.
      trigger: of the source, see `with_trigger`.
    """
    texts = captions.several(source.caption, i)
    if len(texts) == 1 and not tags.active:
        return texts[0]
    rng = np.random.default_rng([STREAM, seed, position])
    text = texts[int(rng.integers(len(texts)))]
    return arranged(text, rng, tags, trigger)


def with_trigger(source: Source, trigger: str) -> Source:
    """The same examples, with a trigger word and a comma in front of every caption.

    Args:
      source: with captions.
      trigger: such as "sks"; "" returns the source as it is.

    Raises:
      ValueError: no captions, or records whose captions are encoded.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, caption_tags
        >>> black = {"image": np.zeros([2, 2, 1], np.uint8)}
        >>> source = Source(lambda i: black, 2, (2, 2, 1), caption=lambda i: ["red, round", ""][i])
        >>> list(caption_tags.with_trigger(source, "sks").captions())
        ['sks, red, round', 'sks']
    """
    if not trigger:
        return source
    derived.check_plain(source, "`data.trigger` changes captions", ["text_encoder"])
    if not source.captioned:
        raise ValueError(f"{source.no_captions_reason}, and `data.trigger` stands in front of captions")
    old = captions.of(source)
    put = functools.partial(_in_front, trigger)

    def changed(example):
        return example | {"caption": put(example["caption"])} if "caption" in example else example

    alone = lambda i: captions.joined(map(put, old.several(i)))
    all_stored = lambda: Texts.of(captions.joined(map(put, text.split(captions.BETWEEN))) for text in old.stored)
    negative = source.hard_negative
    return derived.changed(
        source,
        changed,
        caption=Captions(old.read and alone, len(source), all_stored, old.kinds),
        hard_negative=negative and (lambda example, rng: put(negative(example, rng))),
    )


def _in_front(trigger, text):
    return f"{trigger}, {text}" if text.strip() else trigger
