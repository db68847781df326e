"""Attributes of captioned digits, read from pixels: colours, size and place, and the digit by a judge.

(1)  x = back + a (front - back),  a in [0, 1]          each pixel lies between two colours of the palette
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from jaxdiff.data.sources.captioned import ATTRIBUTES, COLOURS, PLACES, SIDE, SIZES
from jaxdiff.eval.features import Features, gathered

PALETTE = np.array(list(COLOURS.values()), np.float64)
INKED = 0.4  # a pixel with more ink than this belongs to the digit


class Shown(NamedTuple):
    """Attributes of an image, as positions in `jaxdiff.data.sources.captioned.ATTRIBUTES`.

    Attributes:
      colour: of the digit.
      background: behind it.
      size: of the digit.
      place: of the digit.
      digit: uint8 [28, 28], as MNIST has it, for a classifier to read.
      mask: bool [32, 32], the pixels that belong to the digit.
    """

    colour: int
    background: int
    size: int
    place: int
    digit: np.ndarray
    mask: np.ndarray


def read(image: np.ndarray) -> Shown:
    """Reads an image's attributes.

    The background is the palette's colour that most pixels of the border are nearest to; the digit's the one with which
    equation (1) leaves least over. The digit is the largest connected patch of ink, with what touches it within two pixels.

    Args:
      image: uint8 [32, 32, 3].

    Returns:
      `Shown`; of a picture without ink, a digit without any.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data.sources import captioned
        >>> from jaxdiff.eval import shown
        >>> one = np.zeros([28, 28], np.uint8)
        >>> one[4:24, 12:16] = 255
        >>> said = shown.read(captioned.picture(one, "red", "white", "small", "top left"))
        >>> [captioned.ATTRIBUTES[name][getattr(said, name)] for name in ("colour", "background", "size", "place")]
        ['red', 'white', 'small', 'top left']
    """
    x = image.astype(np.float64)
    border = np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])
    nearest = np.square(border[:, None] - PALETTE[None]).sum(-1).argmin(-1)
    back = int(np.bincount(nearest, minlength=len(PALETTE)).argmax())
    inks, left = zip(*(_ink(x, back, front) for front in range(len(PALETTE))))
    front = int(np.argmin([np.inf if i == back else over for i, over in enumerate(left)]))
    ink = _largest(inks[front])
    rows, columns = (np.flatnonzero((ink > INKED).any(axis)) for axis in (1, 0))
    if not len(rows):
        return Shown(front, back, 0, 0, np.zeros([28, 28], np.uint8), ink > INKED)
    box = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
    height = box[0][1] - box[0][0]
    size = int(np.argmin([abs(height - side) for side in SIZES.values()]))
    spaces = [(low, SIDE - high) for low, high in box]
    shares = np.array([low / max(1, low + high) for low, high in spaces])
    place = int(np.argmin([np.abs(shares - at).sum() for at in PLACES.values()]))
    return Shown(front, back, size, place, _as_mnist(ink[slice(*box[0]), slice(*box[1])]), ink > INKED)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks; 1 where both are empty.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.eval import shown
        >>> shown.overlap(np.array([True, True, False]), np.array([True, False, False]))
        0.5
    """
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def _ink(x, back, front):
    """Share of the front colour in each pixel [32, 32], and the squared residual of equation (1)."""
    along = PALETTE[front] - PALETTE[back]
    a = np.clip((x - PALETTE[back]) @ along / max(1.0, along @ along), 0, 1)
    return a, np.square(x - PALETTE[back] - a[..., None] * along).sum()


def _largest(ink):
    """The ink of the largest patch, patches within two pixels of one another being one."""
    patches, count = ndimage.label(ndimage.binary_dilation(ink > INKED, iterations=1), np.ones([3, 3]))
    if count < 2:
        return ink
    amounts = ndimage.sum_labels(ink, patches, range(1, count + 1))
    return np.where(patches == 1 + np.argmax(amounts), ink, 0)


def _as_mnist(ink):
    """A digit's ink, its longer side scaled to 20 pixels, its centre of mass in the middle of 28x28."""
    scale = 20 / max(ink.shape)
    width, height = (max(1, round(scale * side)) for side in ink.shape[::-1])
    scaled = Image.fromarray(np.round(255 * ink).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    digit = np.zeros([28, 28], np.float64)
    digit[4 : 4 + height, 4 : 4 + width] = np.asarray(scaled)
    down, right = (13.5 - at for at in ndimage.center_of_mass(digit))
    return np.round(ndimage.shift(digit, (round(down), round(right)), order=0)).astype(np.uint8)


def asked_for(example: dict) -> dict[str, int]:
    """Attributes that the caption of a captioned digit states: always the digit and the colours.

    Example::

        >>> from jaxdiff.eval import shown
        >>> example = {"caption": "a small red 7 on a blue background", "label": 7, "colour": 0, "background": 2, "size": 0}
        >>> shown.asked_for(example | {"place": 3})
        {'label': 7, 'colour': 0, 'background': 2, 'size': 0}
    """
    free = [name for name in ("size", "place") if ATTRIBUTES[name][example[name]] not in example["caption"]]
    return {name: example[name] for name in ATTRIBUTES if name not in free}


def right(images: np.ndarray, asked: Sequence[dict], judge: Features) -> dict[str, float]:
    """The shares of pictures that show what was asked for.

    Args:
      images: uint8 [N, 32, 32, 3].
      asked: for each its "label", "colour" and "background", and perhaps "size" and "place", as positions in `ATTRIBUTES`.
      judge: of digits uint8 [B, 28, 28, 1], by whose classes they are read.

    Returns:
      The share of each of those among those who were asked for it, of "colours" (both of them right), and of "all" that
      was asked for.
    """
    said = [read(image) for image in images]
    found = {name: [getattr(one, name) for one in said] for name in ATTRIBUTES if name != "label"}
    found["label"] = gathered(judge, [np.stack([one.digit for one in said])[..., None]]).classes
    hits = {
        name: np.array([found[name][i] == one[name] if name in one else True for i, one in enumerate(asked)])
        for name in ATTRIBUTES
    }
    counted = {name: np.array([name in one for one in asked]) for name in ATTRIBUTES}
    shares = {name: float(hits[name][counted[name]].mean()) for name in ATTRIBUTES if counted[name].any()}
    both = hits["colour"] & hits["background"]
    return shares | {"colours": float(both.mean()), "all": float(np.all(list(hits.values()), axis=0).mean())}
