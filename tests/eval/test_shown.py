"""What pictures of captioned digits show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import data
from jaxdiff.data.sources import captioned
from jaxdiff.eval import shown
from jaxdiff.eval.features import Features

NAMES = captioned.ATTRIBUTES


@pytest.fixture(scope="module")
def examples():
    source = data.load("captioned:test")
    return [source[i] for i in range(200)]


def test_real_pictures_are_read_right(examples):
    said = [shown.read(example["image"]) for example in examples]
    for name, least in (("colour", 1.0), ("background", 1.0), ("size", 0.98), ("place", 0.97)):
        hits = np.mean([getattr(one, name) == example[name] for one, example in zip(said, examples)])
        assert hits >= least, (name, hits)


def test_the_digit_comes_back_as_it_was(examples):
    """Drawn large and taken out again, real digits are nearly the pixels that they were."""
    digits, alike = data.load("digits:test"), []
    for i in range(20):
        before = digits[i]["image"][..., 0]
        after = shown.read(captioned.picture(before, "red", "white", "large", "in the middle")).digit
        assert after.shape == (28, 28) and after.dtype == np.uint8
        moved = [np.roll(after, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        alike.append(max(np.corrcoef(before.ravel(), one.ravel())[0, 1] for one in moved))
    assert np.mean(alike) > 0.85 and min(alike) > 0.6, alike  # they were resampled twice


def test_the_mask_is_where_the_digit_was_drawn(examples):
    """By the colours that it was drawn in, which the reader is not told."""
    found = []
    for example in examples:
        palette = np.array(list(captioned.COLOURS.values()), float)
        ink, paper = palette[example["colour"]], palette[example["background"]]
        drawn = (example["image"] - paper) @ (ink - paper) / ((ink - paper) @ (ink - paper)) > shown.INKED
        found.append(shown.overlap(shown.read(example["image"]).mask, drawn))
    assert np.mean(found) > 0.99  # of a digit in pieces it is the largest
    assert shown.overlap(drawn, np.roll(drawn, 8, 1)) < 0.5


def test_noise_and_specks_do_not_matter(examples):
    rng = np.random.default_rng(0)
    for example in examples[:20]:
        image = example["image"].astype(float) + rng.normal(0, 12, (32, 32, 3))
        image[0, 15] = 255 - image[0, 15]
        said = shown.read(np.clip(image, 0, 255).astype(np.uint8))
        assert (said.colour, said.background) == (example["colour"], example["background"])


def test_a_picture_of_nothing(examples):
    said = shown.read(np.full([32, 32, 3], captioned.COLOURS["green"], np.uint8))
    assert NAMES["background"][said.background] == "green" and not said.digit.any()


def test_shares(examples):
    """Of four pictures one has another digit, one another colour, and size counts where it was asked for."""
    few = examples[:4]
    asked = [shown.asked_for(example) for example in few]
    asked = [{name: one[name] for name in ("label", "colour", "background")} for one in asked]
    asked[2] |= {"size": few[2]["size"]}
    asked[3] |= {"size": 1 - few[3]["size"]}
    asked[1] |= {"colour": (few[1]["colour"] + 1) % 7}
    labels = np.array([example["label"] for example in few])
    labels[0] = (labels[0] + 1) % 10
    judge = Features(lambda digits: (jnp.zeros([8, 1]), jax.nn.one_hot(jnp.resize(labels, 8), 10)), "of these four")
    found = shown.right(np.stack([example["image"] for example in few]), asked, judge)
    assert found == {"label": 0.75, "colour": 0.75, "background": 1.0, "size": 0.5, "colours": 0.75, "all": 0.25}


def test_what_a_caption_says(examples):
    for example in examples:
        said = shown.asked_for(example)
        assert {"label", "colour", "background"} <= set(said)
        assert ("size" in said) == ("small" in example["caption"] or "large" in example["caption"])
        assert ("place" in said) == any(place in example["caption"] for place in captioned.PLACES)
