"""The embedded digits in colour, with captions and the attributes that each caption describes, to measure prompts by."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from jaxdiff.data.base import SOURCES, Source
from jaxdiff.data.sources import digits

SIDE = 32
COLOURS = {
    "red": (215, 35, 40),
    "green": (40, 165, 60),
    "blue": (35, 80, 210),
    "yellow": (245, 215, 45),
    "purple": (165, 70, 200),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
SIZES = {"small": 16, "large": 24}  # height of the digit in pixels
PLACES = {
    "top left": (0, 0),
    "top right": (0, 1),
    "in the middle": (0.5, 0.5),
    "bottom left": (1, 0),
    "bottom right": (1, 1),
}
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a {colour} {digit} on a {background} background",
    "a {size} {colour} {digit} on a {background} background",
    "a {size} {colour} {digit} on a {background} background, {place}",
    "a photo of a {colour} {digit} on {background}, {place}",
    "a {colour} {digit}, {place}, the background is {background}",
    "{digit} in {colour} on {background}",
)
ATTRIBUTES = {
    "label": DIGIT_NAMES,
    "colour": tuple(COLOURS),
    "background": tuple(COLOURS),
    "size": tuple(SIZES),
    "place": tuple(PLACES),
}

# By split: the split of the digits that it uses, how many times, and whether it has the held-out combinations alone.
SPLITS = {
    "train": ("train", 8, False),
    "judge": ("judge", 2, False),
    "test": ("test", 2, False),
    "unseen": ("test", 2, True),
}
DESCRIPTION = """Real handwritten digits, 32x32x3, in seven colours, at two sizes and five places, with captions.

``train`` (20,000) is made of the digits' train split, ``judge`` (4,000) of their judge split, ``test`` (1,000) of their
test split. One combination in ten of digit, colour and background is in none of them but in ``unseen`` (1,000), which
is made of the test split, too. Prepared and read without TensorFlow."""


@SOURCES.register("captioned", judge="captioned_judge")
def load(image_shape: tuple[int, int, int] | None, split: str = "train", resize: bool = False) -> Source:
    """The handwritten digits in colour with captions such as "a red seven on a blue background", 32x32x3.

    Args:
      image_shape: height, width and channels of the images; None for 32x32x3.
      split: "train" (20,000 images), "judge" (4,000), "test" (1,000), or "unseen" (1,000) with those combinations of digit,
        colour and background that the others do not have.
      resize: crop and resize the images to `image_shape`.

    Raises:
      ValueError: unknown split, or images that do not fit `image_shape`.
    """
    from jaxdiff.data import prepared  # imports tensorflow-datasets

    labels = tuple(ATTRIBUTES)
    source = prepared.open_split(prepare(), "captioned_digits", split, image_shape, resize, labels)
    return dataclasses.replace(source, hard_negative=hard_negative)


def prepare():
    """Returns the tensorflow-datasets builder of the captioned digits, prepared on first use."""
    import tensorflow_datasets as tfds

    from jaxdiff.data import prepared

    labels = {name: tfds.features.ClassLabel(names=list(values)) for name, values in ATTRIBUTES.items()}
    features = {"image": tfds.features.Image(shape=(SIDE, SIDE, 3)), "caption": tfds.features.Text(), **labels}
    splits = {split: functools.partial(examples, split) for split in SPLITS}
    return prepared.prepare("captioned_digits", features, splits, DESCRIPTION)


def examples(split: str) -> Iterator[tuple[int, dict]]:
    """Yields keys and examples of a split: {"image": uint8 [32, 32, 3], "caption": str, attribute: int, ...}."""
    digits_split, times, held_out = SPLITS[split]
    source, rng = digits.load(None, digits_split), np.random.default_rng([*SPLITS].index(split))
    allowed = combinations()[held_out]
    for i in range(times * len(source)):
        example = source[i % len(source)]
        chosen = {name: int(rng.integers(len(values))) for name, values in ATTRIBUTES.items()}
        fitting = allowed[allowed[:, 0] == example["label"]]
        chosen |= dict(zip(("label", "colour", "background"), fitting[rng.integers(len(fitting))].tolist()))
        looks = {name: ATTRIBUTES[name][n] for name, n in chosen.items() if name != "label"}
        image = picture(example["image"][..., 0], **looks)
        yield i, {"image": image, "caption": caption(rng, **chosen)} | chosen


def combinations() -> tuple[np.ndarray, np.ndarray]:
    """Combinations of digit, colour and background, [N, 3] of "train", "judge" and "test" and [M, 3] of "unseen".

    One in ten is held out for "unseen", four or five of the 42 of each digit. All digits, colours and backgrounds, and most
    of their pairs, are in both.
    """
    colours = range(len(COLOURS))
    combined = np.array([c for c in itertools.product(range(10), colours, colours) if c[1] != c[2]])
    held_out = np.zeros(len(combined), bool)
    for digit in range(10):
        own = np.flatnonzero(combined[:, 0] == digit)
        held_out[np.random.default_rng(digit).permutation(own)[: 4 + (digit < 2)]] = True
    return combined[~held_out], combined[held_out]


def picture(digit: np.ndarray, colour: str, background: str, size: str, place: str) -> np.ndarray:
    """Image of a digit in one colour on a background of another.

    Args:
      digit: uint8 [28, 28], brighter for more ink.
      colour: name of the digit's colour, a key of `COLOURS`.
      background: name of the background's colour.
      size: key of `SIZES`.
      place: key of `PLACES`.

    Returns:
      uint8 [32, 32, 3].

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data.sources import captioned
        >>> one = np.zeros([28, 28], np.uint8)
        >>> one[4:24, 12:16] = 255
        >>> image = captioned.picture(one, "red", "white", "small", "top left")
        >>> image.shape, image[8, 2].tolist() == list(captioned.COLOURS["red"]), image[20, 20].tolist()
        ((32, 32, 3), True, [245, 245, 245])
    """
    from PIL import Image

    rows, columns = (np.flatnonzero((digit > 30).any(axis)) for axis in (1, 0))
    cut = Image.fromarray(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    height = SIZES[size]
    width = min(height, max(2, round(height * cut.width / cut.height)))
    ink = np.zeros([SIDE, SIDE, 1])
    top, left = (1 + round(share * (SIDE - 2 - side)) for share, side in zip(PLACES[place], (height, width)))
    ink[top : top + height, left : left + width, 0] = np.asarray(cut.resize((width, height), Image.Resampling.BOX))
    front, back = (np.array(COLOURS[name], np.float64).reshape(1, 1, 3) for name in (colour, background))
    return np.round(back + ink / 255 * (front - back)).astype(np.uint8)


def caption(rng: np.random.Generator, label: int, colour: int, background: int, size: int, place: int) -> str:
    """Caption of an image with these attributes, by a random template.

    Args:
      rng: NumPy generator, of the template and of "seven" or "7".
      label: index of the digit in `ATTRIBUTES`.
      colour: index of the colour, and likewise for the other attributes.
      background: index.
      size: index.
      place: index.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data.sources import captioned
        >>> captioned.caption(np.random.default_rng(2), label=7, colour=0, background=2, size=0, place=1)
        'a red seven on a blue background'
    """
    words = {"colour": colour, "background": background, "size": size, "place": place}
    words = {name: ATTRIBUTES[name][n] for name, n in words.items()}
    digit = DIGIT_NAMES[label] if rng.random() < 0.5 else str(label)
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(digit=digit, **words)


def prompts(num: int, seed: int = 0, subjects: Sequence[str] = DIGIT_NAMES) -> tuple[list[str], np.ndarray]:
    """Random captions in the style of the data set, with the subjects in turn.

    Args:
      num: number of captions.
      seed: of the attributes and the templates.
      subjects: names of the subjects, in place of the digits.

    Returns:
      The captions, and the attributes of each, int [num, 5]: indices into `subjects` and into the rest of `ATTRIBUTES`.

    Example::

        >>> from jaxdiff.data.sources import captioned
        >>> texts, attributes = captioned.prompts(2, seed=3, subjects=["star"])
        >>> texts[0], attributes[0].tolist()
        ('a photo of a white star on black, in the middle', [0, 5, 6, 0, 2])
    """
    rng, texts, attributes = np.random.default_rng(seed), [], []
    for i in range(num):
        colour, background = rng.permutation(len(COLOURS))[:2].tolist()
        one = [i % len(subjects), colour, background, int(rng.integers(len(SIZES))), int(rng.integers(len(PLACES)))]
        named = {name: values[n] for (name, values), n in zip([*ATTRIBUTES.items()][1:], one[1:])}
        texts.append(TEMPLATES[rng.integers(len(TEMPLATES))].format(digit=subjects[one[0]], **named))
        attributes.append(one)
    return texts, np.array(attributes)


def descriptions() -> tuple[list[str], np.ndarray]:
    """One full caption for each combination of attributes.

    Returns:
      N captions, and the attributes of each, int [N, 5]: indices into `ATTRIBUTES`.

    Example::

        >>> from jaxdiff.data.sources import captioned
        >>> texts, attributes = captioned.descriptions()
        >>> len(texts), texts[7], attributes[7].tolist()
        (4200, 'a large red zero on a green background, in the middle', [0, 0, 1, 1, 2])
    """
    attributes = [one for one in itertools.product(*map(range, map(len, ATTRIBUTES.values()))) if one[1] != one[2]]
    words = [{name: values[n] for (name, values), n in zip(ATTRIBUTES.items(), one)} for one in attributes]
    return [TEMPLATES[2].format(digit=one["label"], **one) for one in words], np.array(attributes)


def hard_negative(example: dict, rng: np.random.Generator) -> str:
    """A wrong caption: that of the example with one attribute replaced, which is the digit with probability 1/2.

    Args:
      example: has "caption" and the attributes, as indices into `ATTRIBUTES`.
      rng: NumPy generator.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data.sources import captioned
        >>> example = {"caption": "a red seven on white", "label": 7, "colour": 0, "background": 5, "size": 0, "place": 3}
        >>> [captioned.hard_negative(example, np.random.default_rng(seed)) for seed in (1, 2)]
        ['a red seven on black', 'a red zero on white']
    """
    words = {name: ATTRIBUTES[name][example[name]] for name in ATTRIBUTES}
    if not re.search(rf"\b{words['label']}\b", example["caption"]):
        words["label"] = str(example["label"])
    stated = [name for name in ATTRIBUTES if name != "label" and words[name] in example["caption"]]
    name = "label" if rng.random() < 0.5 else stated[rng.integers(len(stated))]
    numeral = words["label"].isdigit() and name == "label"
    others = [str(n) for n in range(10)] if numeral else ATTRIBUTES[name]
    taken = {words[other] for other in ("colour", "background", name)}
    others = [other for other in others if other not in taken]
    return re.sub(rf"\b{words[name]}\b", others[rng.integers(len(others))], example["caption"])
