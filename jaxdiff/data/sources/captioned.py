"""The digits in colour, with captions: what a picture shows is known, so what a prompt asked for can be measured."""

import dataclasses
import itertools
import re
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxdiff.data import paths, prepared
from jaxdiff.data.base import Source
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

# Split: which digits it is made of, how often each is used, and whether its combinations are those that are left out.
SPLITS = {
    "train": ("train", 8, False),
    "judge": ("judge", 2, False),
    "test": ("test", 2, False),
    "unseen": ("test", 2, True),
}


def combinations() -> tuple[np.ndarray, np.ndarray]:
    """(digit, colour, background) [N, 3] that are in "train", "judge" and "test", and those that are only in "unseen".

    One in ten is left out, four or five of each digit's 42; all digits, colours and backgrounds, and most of their pairs,
    are in both.
    """
    kinds = range(len(COLOURS))
    every = np.array([c for c in itertools.product(range(10), kinds, kinds) if c[1] != c[2]])
    out = np.zeros(len(every), bool)
    for digit in range(10):
        own = np.flatnonzero(every[:, 0] == digit)
        out[np.random.default_rng(digit).permutation(own)[: 4 + (digit < 2)]] = True
    return every[~out], every[out]


class CaptionedDigits(tfds.core.GeneratorBasedBuilder):
    """Real handwritten digits, 32x32x3, in seven colours, on other ones, at two sizes and five places, with captions.

    ``train`` (20,000) is made of the digits' train split, ``judge`` (4,000) of their judge split, ``test`` (1,000) of their
    test split. One combination in ten of digit, colour and background is in none of them but in ``unseen`` (1,000), which
    is made of the test split, too. Prepared and read without TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        labels = {name: tfds.features.ClassLabel(names=list(names)) for name, names in ATTRIBUTES.items()}
        image = tfds.features.Image(shape=(SIDE, SIDE, 3))
        return self.dataset_info_from_configs(
            description=CaptionedDigits.__doc__,
            features=tfds.features.FeaturesDict({"image": image, "caption": tfds.features.Text(), **labels}),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._examples(i, *of) for i, (split, of) in enumerate(SPLITS.items())}

    def _generate_examples(self):
        raise NotImplementedError("each split has its own generator, see _split_generators")

    def _examples(self, seed, of, times, unseen):
        source, rng = digits.load(of, None, False), np.random.default_rng(seed)
        allowed = combinations()[unseen]
        for i in range(times * len(source)):
            example = source[i % len(source)]
            drawn = {name: int(rng.integers(len(names))) for name, names in ATTRIBUTES.items()}
            fitting = allowed[allowed[:, 0] == example["label"]]
            drawn |= dict(zip(("label", "colour", "background"), fitting[rng.integers(len(fitting))].tolist()))
            image = picture(
                example["image"][..., 0], **{name: ATTRIBUTES[name][n] for name, n in drawn.items() if name != "label"}
            )
            yield i, {"image": digits.png(image), "caption": caption(rng, **drawn)} | drawn


def picture(digit: np.ndarray, colour: str, background: str, size: str, place: str) -> np.ndarray:
    """A digit in a colour on another one.

    Args:
      digit: uint8 [28, 28], the brighter the more ink.
      colour: of `COLOURS`.
      background: of `COLOURS`.
      size: of `SIZES`.
      place: of `PLACES`.

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
    """What a picture shows, in one of several ways; arguments are positions in `ATTRIBUTES`.

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
    """Captions of pictures that there are not: words in turn, all else at random.

    Args:
      num: how many.
      seed: of what they say.
      subjects: what is on the pictures, in place of the digits.

    Returns:
      The captions, and what each would say in full: positions in `subjects` and in the rest of `ATTRIBUTES`, int [num, 5].

    Example::

        >>> from jaxdiff.data.sources import captioned
        >>> texts, said = captioned.prompts(2, seed=3, subjects=["star"])
        >>> texts[0], said[0].tolist()
        ('a photo of a white star on black, in the middle', [0, 5, 6, 0, 2])
    """
    rng, texts, said = np.random.default_rng(seed), [], []
    for i in range(num):
        colour, background = rng.permutation(len(COLOURS))[:2].tolist()
        one = [i % len(subjects), colour, background, int(rng.integers(len(SIZES))), int(rng.integers(len(PLACES)))]
        named = {name: names[n] for (name, names), n in zip([*ATTRIBUTES.items()][1:], one[1:])}
        texts.append(TEMPLATES[rng.integers(len(TEMPLATES))].format(digit=subjects[one[0]], **named))
        said.append(one)
    return texts, np.array(said)


def descriptions() -> tuple[list[str], np.ndarray]:
    """All captions that say everything there is to say, and what each says: N texts, positions in `ATTRIBUTES` int [N, 5].

    Example::

        >>> from jaxdiff.data.sources import captioned
        >>> texts, said = captioned.descriptions()
        >>> len(texts), texts[7], said[7].tolist()
        (4200, 'a large red zero on a green background, in the middle', [0, 0, 1, 1, 2])
    """
    said = [one for one in itertools.product(*map(range, map(len, ATTRIBUTES.values()))) if one[1] != one[2]]
    words = [{name: names[n] for (name, names), n in zip(ATTRIBUTES.items(), one)} for one in said]
    return [TEMPLATES[2].format(digit=one["label"], **one) for one in words], np.array(said)


def hard_negative(example: dict, rng: np.random.Generator) -> str:
    """The caption with one word changed, so that it is wrong: every other time the digit, else anything that it says.

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
    said = [name for name in ATTRIBUTES if name != "label" and words[name] in example["caption"]]
    name = "label" if rng.random() < 0.5 else said[rng.integers(len(said))]
    numeral = words["label"].isdigit() and name == "label"
    others = [str(n) for n in range(10)] if numeral else ATTRIBUTES[name]
    taken = {words[other] for other in ("colour", "background", name)}
    others = [other for other in others if other not in taken]
    return re.sub(rf"\b{words[name]}\b", others[rng.integers(len(others))], example["caption"])


def load(split: str, image_shape: tuple[int, int, int] | None, resize: bool) -> Source:
    """Opens a split of the captioned digits, see `jaxdiff.data.load`."""
    builder = digits.prepare(paths.data_dir(), CaptionedDigits)
    source = prepared.open_split(
        builder, "captioned_digits", split or "train", image_shape, resize, extra_labels=tuple(ATTRIBUTES)
    )
    return dataclasses.replace(source, hard_negative=hard_negative)
