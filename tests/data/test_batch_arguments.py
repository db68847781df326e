"""Wrong arguments of `data.batches`, and data sets of one's own with mistakes: each is named."""

import functools
import re

import jax
import numpy as np
import pytest

from jaxdiff import data
from jaxdiff.data import Source, augment, caption_tags

IMAGE = np.zeros([2, 2, 1], np.uint8)
EXAMPLES = [{"image": IMAGE, "label": i % 2, "caption": "a"} for i in range(6)]
SOURCE = Source(lambda i: EXAMPLES[i], 6, (2, 2, 1), ("a", "b"), caption=lambda i: "a")
WITHOUT = Source(lambda i: {"image": IMAGE}, 6, (2, 2, 1))
NAN = float("nan")


def tokens(texts):
    return np.ones([len(texts), 3], np.int32)


def first(source=EXAMPLES, batch_size=2, **given):
    """The first batch."""
    stream = data.batches(source, batch_size, **given)
    try:
        return next(stream)
    finally:
        stream.close()


def of(**changes):
    """Six examples with other values, which may be functions of their number."""
    return [
        example | {name: value(i) if callable(value) else value for name, value in changes.items()}
        for i, example in enumerate(EXAMPLES)
    ]


SOURCES = {
    "NoneType": None,
    "str": "digits",
    "dict": {"image": IMAGE},
    "ndarray": np.zeros([6, 2, 2, 1]),
    "set": {1, 2},
}
REFUSED = {
    # the source
    **{
        f"a source of {kind}": (
            {"source": source},
            f"`source` must be a jaxdiff.data.Source or a list of dicts.* {kind}",
        )
        for kind, source in SOURCES.items()
    },
    "a class of sources": ({"source": Source}, "`source` must be .*, not the class Source"),
    "a list of arrays": ({"source": [IMAGE] * 4}, r"example \d must be a dict with 'image'"),
    "no examples": ({"source": []}, "`source` is empty"),
    # numbers and flags
    **{
        f"{name}={value!r}": ({name: value}, f"`{name}`={re.escape(repr(value))} must be of type int")
        for name, values in {
            "num_threads": (1.5, "2", True),
            "batch_size": (True, "2", 2.0),
            "steps_per_call": (1.5, True),
            "start_step": (1.0, "1", None),
            "process_index": (0.5, False),
            "seed": ("a", 1.5, True, None),
            "hard_negatives": (1.5, "1", True),
        }.items()
        for value in values
    },
    **{
        f"{name}={value!r}": ({name: value}, f"`{name}`={re.escape(repr(value))} must be of type bool")
        for name in ("labels", "flip", "augment_cond", "contexts")
        for value in ("no", 1, None)
    },
    "no threads": ({"num_threads": 0}, "`num_threads`=0 must be at least 1"),
    "a seed below 0": ({"seed": -1}, "`seed`=-1 must be at least 0"),
    "a key as seed": ({"seed": jax.random.key(0)}, "`seed`=PRNGKeyArray must be of type int"),
    "a batch without end": ({"batch_size": 2**60}, f"`batch_size`={2**60} must be at most"),
    **{
        f"augmented by {getattr(value, '__name__', repr(value))}": (
            {"augment": value},
            r"`augment`=.* must lie in \[0, 3\]",
        )
        for value in (NAN, np.inf, -1.0, 4.0, "1", tokens)
    },
    # captions
    "a number for a tokenizer": ({"tokenize": 5}, "`tokenize` must be a function of texts"),
    "captions that a source has not": (
        {"source": WITHOUT, "tokenize": tokens},
        "`tokenize` reads captions, and the data set has no captions",
    ),
    "captions that a list has not": (
        {"source": [{"image": IMAGE}] * 4, "tokenize": tokens},
        r"example \d must be a dict with 'caption'",
    ),
    "captions that are none": (
        {"source": of(caption=None), "tokenize": tokens},
        r"the caption of example \d must be a text, not NoneType",
    ),
    **{
        f"tokens of {name}": (
            {"tokenize": lambda texts, made=made: made},
            r"`tokenize` must return int32 \[1, L\], not ",
        )
        for name, made in {
            "a list": [[1, 2]],
            "text": "ab",
            "floats": np.zeros([1, 2]),
            "one row": np.zeros([2], np.int32),
            "two texts": np.zeros([2, 2], np.int32),
        }.items()
    },
    "wrong captions without a tokenizer": (
        {"source": SOURCE, "hard_negatives": 2},
        "`hard_negatives`=2 are captions: give `tokenize`",
    ),
    "wrong captions of none": (
        {"source": SOURCE, "hard_negatives": 2, "tokenize": tokens},
        "`hard_negatives`=2 is for sources that make wrong captions",
    ),
    "tags of another type": ({"tags": "shuffle"}, "`tags`='shuffle' must be of type CaptionTags"),
    "tags out of range": ({"tags": caption_tags.CaptionTags(dropout=2.0)}, r"`tags.dropout`=2.0 must lie in \[0, 1\)"),
    "a trigger of another type": ({"trigger": 1}, "`trigger`=1 must be of type str"),
    # examples
    "contexts that are missing": ({"contexts": True}, r"example \d must be a dict with 'context'"),
    "contexts of texts": (
        {"source": of(context="a red seven"), "contexts": True},
        r"the context of example \d must be an array of numbers, not str",
    ),
    "labels in half": (
        {"source": [EXAMPLES[0]] + [{"image": IMAGE}] * 3, "labels": True, "batch_size": 4},
        r"example \d must be a dict with 'label'",
    ),
    **{
        f"a label of {label!r}": (
            {"source": of(label=label), "labels": True},
            r"the label of example \d must be an int",
        )
        for label in (1.5, "a", None, True)
    },
    "labels below 0": ({"source": of(label=-1), "labels": True}, r"example \d has label -1, and labels are 0, 1"),
    "images of nan": (
        {"source": of(image=np.full([2, 2, 1], NAN, np.float32))},
        r"the image of example \d is not finite",
    ),
    **{
        f"an image of {type(image).__name__}": (
            {"source": of(image=image)},
            rf"the image of example \d must be an array of numbers, not {type(image).__name__}",
        )
        for image in (None, "a.png", [[1]])
    },
    "images without channels": (
        {"source": of(image=IMAGE[..., 0])},
        r"the image of example \d must be \[H, W, C\], not of shape \[2, 2\]",
    ),
    "images of two sizes": (
        {"source": of(image=lambda i: np.zeros([2, 2 + i, 1], np.uint8)), "batch_size": 6},
        r"examples \d and \d differ in image, uint8 \[2, \d, 1\] and uint8 \[2, \d, 1\]",
    ),
    "images of two dtypes": (
        {"source": of(image=lambda i: np.zeros([2, 2, 1], [np.uint8, np.float32][i % 2])), "batch_size": 6},
        r"examples \d and \d differ in image, (uint8|float32) \[2, 2, 1\] and (uint8|float32)",
    ),
    "contexts of two lengths": (
        {"source": of(context=lambda i: np.zeros([1 + i, 2], np.float32)), "contexts": True, "batch_size": 6},
        r"examples \d and \d differ in cond\.context, float32 \[\d, 2\] and",
    ),
    "latents augmented": (
        {"source": of(image=np.zeros([2, 2, 1], np.float32)), "augment": 1.0},
        r"`image` must be uint8 \[H, W, C\] to be augmented, not float32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_of_batches_are_named(case):
    given, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        first(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [iter, lambda examples: (one for one in examples)])
def test_what_can_be_read_once_is_no_data_set(make):
    with pytest.raises(TypeError, match="`source` must be a jaxdiff"):
        data.batches(make(EXAMPLES), 2)


def test_lists_of_dicts_have_captions():
    np.testing.assert_array_equal(first(tokenize=tokens)["tokens"], np.ones([1, 2, 3]))
    np.testing.assert_array_equal(first(tuple(EXAMPLES), np.int64(2), tokenize=tokens)["tokens"], np.ones([1, 2, 3]))


@pytest.mark.parametrize(
    "call, message",
    [
        (functools.partial(augment.amounts, 0), "`rng` must be a NumPy generator"),
        (functools.partial(augment.amounts, np.random.default_rng(0), NAN), "`strength`=nan must be at least 0"),
        (functools.partial(augment.affine, IMAGE, [NAN] * 6), "`amounts` must be 6 finite numbers"),
        (functools.partial(augment.affine, IMAGE, [1.0]), "`amounts` must be 6 finite numbers"),
        (functools.partial(augment.affine, IMAGE / 2, np.ones(6)), "`image` must be uint8 .* not float64"),
    ],
)
def test_wrong_arguments_of_augmentation_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
