"""Sources made of sources: other captions, images of a class beside those of an instance, control images."""

import dataclasses
import json
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxdiff.arguments import check_text
from jaxdiff.data import captions, example_checks
from jaxdiff.data.base import Source
from jaxdiff.data.captions import Captions
from jaxdiff.data.control_inputs import CONTROL_INPUTS
from jaxdiff.data.texts import Texts
from jaxdiff.registry import Choice

PRIOR_FRACTION = 0.5  # of examples of the class in `with_prior`
HELD = {"codec": "latents", "text_encoder": "contexts"}  # of encoded records, by what made them


def checked(source: Source) -> Source:
    """The same examples, each checked when it is read: images are uint8 of the source's shape, and labels whole numbers.

    Args:
      source: examples from anywhere.

    Raises:
      ValueError: when an example is read that is something else.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, derived
        >>> source = Source(lambda i: {"image": np.zeros([2, 2, 1])}, 1, (2, 2, 1))
        >>> derived.checked(source)[0]
        Traceback (most recent call last):
        ValueError: the image of example 0 must be uint8 (2, 2, 1), not float64 (2, 2, 1)
    """

    def read(i, *centre):
        example, shape = source.read(i, *centre), tuple(source.shape_of(i))
        example_checks.check_has(example, i, *(("image", "label") if source.classes else ("image",)))
        image = example["image"]
        found = getattr(image, "dtype", type(image).__name__), np.shape(image)
        if found != (np.uint8, shape):
            raise ValueError(f"the image of example {i} must be uint8 {shape}, not {found[0]} {found[1]}")
        example_checks.check_label(example.get("label", 0), i, len(source.classes))
        return example

    return dataclasses.replace(source, read=read)


def changed(source: Source, change: Callable[[dict], dict], **fields) -> Source:
    """The same examples, each changed when it is read, whatever the size that it is read in.

    Args:
      source: any.
      change: example -> changed example.
      **fields: other fields of the result.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, derived
        >>> black = Source(lambda i: {"image": np.zeros([2, 2, 1], np.uint8)}, 1, (2, 2, 1))
        >>> derived.changed(black, lambda example: example | {"label": 7}, classes=("a",) * 8)[0]["label"]
        7
    """
    of = lambda known: known and (lambda i, *how: change(known(i, *how)))
    return dataclasses.replace(source, read=of(source.read), fitted=of(source.fitted), **fields)


def held(source: Source) -> str:
    """The encoded parts of a source in words, such as "latents and contexts"; "" where none is encoded."""
    return " and ".join(text for name, text in HELD.items() if name in (source.encoded_by or {}))


def check_plain(source: Source, reason: str, of: Sequence[str] = tuple(HELD)) -> None:
    """Refuses encoded records where images or captions are needed as they were.

    Args:
      source: any source.
      reason: a clause of the message that says what needs them.
      of: parts that must not have been encoded, of `HELD`.

    Raises:
      ValueError: it holds latents or contexts.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, derived
        >>> latents = Source(lambda i: {"image": np.zeros([1, 1, 4])}, 1, (8, 8, 3), encoded_by={"codec": "6b7f"})
        >>> derived.check_plain(latents, "edges need pixels", ["codec"])
        Traceback (most recent call last):
        ValueError: edges need pixels, and the records hold latents: prepare them again without --codec and --text-encoder
    """
    if any(name in (source.encoded_by or {}) for name in of):
        raise ValueError(
            f"{reason}, and the records hold {held(source)}: prepare them again without --codec and --text-encoder"
        )


def with_prompts(source: Source, prompts: Sequence[str]) -> Source:
    """The images with other captions: each image once with each of the prompts, one after the other.

    Args:
      source: of the images.
      prompts: at least one.

    Raises:
      ValueError: records with contexts or latents; no prompts, or one text in place of a list.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, derived
        >>> grey = Source(lambda i: {"image": np.full([2, 2, 1], i, np.uint8)}, 2, (2, 2, 1))
        >>> [example["caption"] for example in derived.with_prompts(grey, ["a photo of <dusk>", "<dusk>"])]
        ['a photo of <dusk>', '<dusk>', 'a photo of <dusk>', '<dusk>']
    """
    check_plain(source, "other prompts are encoded anew")
    if not isinstance(prompts, list | tuple) or not prompts:
        raise ValueError(f"`prompts`={prompts!r} must be a list of at least one text")
    for prompt in prompts:
        check_text("prompts", prompt)
    count = len(prompts)
    of_image = lambda known: known and (lambda i, *centre: known(i // count, *centre))
    buckets = source.buckets
    return dataclasses.replace(
        source,
        read=of_image(source.read),
        size=len(source) * count,
        buckets=buckets and buckets._replace(of=np.repeat(buckets.of, count)),
        identity=_mixed(source.identity, list(prompts)),
        caption=lambda i: prompts[i % count],
        hard_negative=None,
        encoded=of_image(source.encoded),
        where=of_image(source.where),
        label=of_image(source.label),
        fitted=of_image(source.fitted),
    )


def with_prior(source: Source, prior: Source) -> Source:
    """Images of an instance and of its class in turn (DreamBooth), each with "prior", bool: whether it is of the class.

    Args:
      source: of the instance.
      prior: of the class. The smaller one of the two is repeated. Captions are used if both have captions.

    Raises:
      ValueError: records with latents.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, derived
        >>> grey = lambda n, size: Source(lambda i: {"image": np.full([1, 1, 1], n + i, np.uint8)}, size, (1, 1, 1))
        >>> both = derived.with_prior(grey(0, 1), grey(100, 2))
        >>> [(int(one["image"].max()), bool(one["prior"])) for one in both]
        [(0, False), (100, True), (0, False), (101, True)]
    """
    for half in (source, prior):
        check_plain(half, "images of an instance and of its class are encoded together", ["codec"])
        if half.buckets or half.crops:
            raise ValueError(
                "images of an instance and of its class are of one size: leave sizes and crops of `data` out"
            )
    halves, size = (source, prior), 2 * max(len(source), len(prior))

    def read(i):
        half = halves[i % 2]
        return {"image": half.read(i // 2 % len(half))["image"], "prior": np.bool_(i % 2)}

    def caption(i):
        half = halves[i % 2]
        return captions.joined(captions.several(half.caption, i // 2 % len(half)))

    def stored():
        texts = [captions.of(half).stored for half in halves]
        return Texts.of(texts[i % 2][i // 2 % len(texts[i % 2])] for i in range(size))

    def of_half(name):
        known = [getattr(half, name) for half in halves]
        return (lambda i: known[i % 2](i // 2 % len(halves[i % 2]))) if all(known) else None

    return Source(
        read,
        size,
        source.image_shape,
        no_labels_reason="images of an instance beside those of its class have no labels",
        identity=_mixed(source.identity, [len(source), prior.identity, len(prior)]),
        caption=Captions(caption, size, stored) if source.captioned and prior.captioned else None,
        contents=lambda: zlib.crc32(repr((source.contents(), prior.contents())).encode()),
        fingerprint=lambda: source.fingerprint() + prior.fingerprint(),
        no_captions_reason=source.no_captions_reason if not source.captioned else prior.no_captions_reason,
        extra_arrays=("prior",),
        encoded=of_half("encoded"),
        where=of_half("where"),
    )


def with_classes(source: Source, classes: Sequence[str]) -> Source:
    """The same examples with labels that are positions in given names, such as those that a model has learned.

    Args:
      source: with labels.
      classes: names, in the order of the new labels.

    Raises:
      ValueError: a class of the source that is none of them; it is named.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import derived
        >>> from jaxdiff.data.base import Source
        >>> image = np.zeros([2, 2, 1], np.uint8)
        >>> source = Source(lambda i: {"image": image, "label": i}, 2, (2, 2, 1), classes=("green", "red"))
        >>> derived.with_classes(source, ("blue", "green", "red"))[1]["label"]
        2
    """
    if source.classes == tuple(classes):
        return source
    if lost := [name for name in source.classes if name not in classes]:
        raise ValueError(f"the class {lost[0]!r} is none of those that were learned: {', '.join(classes)}")
    labels = [list(classes).index(name) for name in source.classes]

    relabel = lambda example: example | {"label": labels[int(example["label"])]}
    return changed(source, relabel, classes=tuple(classes), label=None)


def as_learned(source: Source, classes: Sequence[str], of_folder: bool) -> Source:
    """The same examples with the labels of a model.

    Args:
      source: any.
      classes: names of the model's labels; () of models from before names were kept.
      of_folder: whether the source is a folder, whose names were then in the order of texts, also where they are numbers.

    Raises:
      ValueError: as `with_classes`.
    """
    if not source.classes or not (classes or of_folder):
        return source
    return with_classes(source, classes or sorted(source.classes))


def with_control(source: Source, control_input: str | Choice) -> Source:
    """The same examples with "control", the control image of a ControlNet.

    Args:
      source: of the images.
      control_input: name in `control_inputs.CONTROL_INPUTS`, or a choice of it.

    Raises:
      ValueError: unknown name, or records with latents.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, derived
        >>> grey = Source(lambda i: {"image": np.full([8, 8, 1], i, np.uint8)}, 2, (8, 8, 1))
        >>> derived.with_control(grey, "edges")[1]["control"].shape
        (8, 8, 3)
    """
    check_plain(source, "control images are made of pixels", ["codec"])
    make = CONTROL_INPUTS.choice(control_input)
    options = dataclasses.asdict(make)
    add = lambda example: example | {"control": make(example["image"])}
    identity = _mixed(source.identity, [make.kind, options] if options else make.kind)
    return changed(source, add, identity=identity, extra_arrays=("control",))


def taken(source: Source, chosen: np.ndarray) -> Source:
    """Some of the examples of a source.

    Args:
      source: any.
      chosen: their indices, in the order in which they are to come.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import Source, derived
        >>> grey = Source(lambda i: {"image": np.full([2, 2, 1], i, np.uint8)}, 9, (2, 2, 1))
        >>> [int(example["image"].max()) for example in derived.taken(grey, np.array([2, 5]))]
        [2, 5]
    """
    chosen = np.asarray(chosen, np.int64)
    of = lambda known: known and (lambda i, *more: known(int(chosen[i]), *more))
    texts = lambda: Texts.of(map(captions.of(source).stored.__getitem__, chosen.tolist()))
    alone = source.caption.read if isinstance(source.caption, Captions) else source.caption
    return dataclasses.replace(
        source,
        read=of(source.read),
        size=len(chosen),
        identity=_mixed(source.identity, zlib.crc32(chosen.tobytes())),
        caption=source.caption and Captions(of(alone), len(chosen), texts),
        encoded=of(source.encoded),
        where=of(source.where),
        label=of(source.label),
        fitted=of(source.fitted),
        buckets=source.buckets and source.buckets._replace(of=source.buckets.of[chosen]),
    )


def _mixed(identity, more):
    return identity ^ zlib.crc32(json.dumps(more).encode())
