"""The digits in colour: held-out combinations, and that images and captions agree with the attributes."""

import itertools
import re

import numpy as np
import pytest

from jaxdiff import data
from jaxdiff.data.sources import captioned
from jaxdiff.data.sources.captioned import ATTRIBUTES, COLOURS, DIGIT_NAMES


@pytest.fixture(scope="module")
def examples():
    sources = {split: data.load(f"captioned:{split}") for split in ("judge", "test", "unseen")}
    return {split: [source[i] for i in range(0, len(source), 4)] for split, source in sources.items()}


def combination(example):
    return example["label"], example["colour"], example["background"]


def test_sizes_and_splits():
    sizes = {split: len(data.load(f"captioned:{split}")) for split in captioned.SPLITS}
    assert sizes == {"train": 20_000, "judge": 4_000, "test": 1_000, "unseen": 1_000}
    source = data.load("captioned:test")
    assert source.image_shape == (32, 32, 3) and source.classes == DIGIT_NAMES and source.captioned


def test_one_combination_in_ten_is_held_out_and_all_of_its_parts_are_elsewhere():
    seen, unseen = ([tuple(row) for row in part.tolist()] for part in captioned.combinations())
    kinds = range(len(COLOURS))
    assert sorted(seen + unseen) == [c for c in itertools.product(range(10), kinds, kinds) if c[1] != c[2]]
    assert 0.09 < len(unseen) / len(seen + unseen) < 0.11
    for a, b in itertools.combinations(range(3), 2):
        pairs = {(c[a], c[b]) for c in unseen}
        assert pairs <= {(c[a], c[b]) for c in seen}
    assert [{c[i] for c in unseen} for i in range(3)] == [set(range(10)), set(kinds), set(kinds)]


def test_held_out_combinations_are_in_their_split_alone(examples):
    left_out = {tuple(row) for row in captioned.combinations()[1].tolist()}
    assert {combination(example) for example in examples["unseen"]} <= left_out
    assert len({combination(example) for example in examples["unseen"]}) > 30
    train = data.load("captioned")
    for part in (examples["judge"], examples["test"], [train[i] for i in range(0, 20_000, 20)]):
        assert not left_out & {combination(example) for example in part}


def nearest_colour(pixel):
    return int(np.abs(np.array(list(COLOURS.values())) - np.asarray(pixel)[None]).sum(1).argmin())


def test_images_show_their_attributes(examples):
    for example in examples["test"]:
        image, back = example["image"].astype(int), np.array(list(COLOURS.values())[example["background"]])
        assert nearest_colour(np.median(image.reshape(-1, 3), axis=0)) == example["background"]
        ink = np.abs(image - back).sum(-1)
        assert nearest_colour(image.reshape(-1, 3)[ink.argmax()]) == example["colour"]
        rows, columns = (np.flatnonzero((ink > 20).any(axis)) for axis in (1, 0))
        assert np.ptp(rows) < captioned.SIZES[ATTRIBUTES["size"][example["size"]]] + 1
        down, right = list(captioned.PLACES.values())[example["place"]]
        room = 30 - captioned.SIZES[ATTRIBUTES["size"][example["size"]]]
        assert abs(rows[0] - 1 - down * room) <= 2
        assert {0: columns[0] <= 3, 1: columns[-1] >= 28, 0.5: abs(columns.mean() - 15.5) < 3}[right]


def test_captions_name_their_attributes(examples):
    kinds = set()
    for example in examples["judge"]:
        text = f" {example['caption']} ".replace(",", " ")
        assert f" {DIGIT_NAMES[example['label']]} " in text or f" {example['label']} " in text
        for name in ("colour", "background"):
            assert f" {ATTRIBUTES[name][example[name]]} " in text
        assert all(ATTRIBUTES["size"][example["size"]] in text for word in ATTRIBUTES["size"] if word in text)
        assert all(ATTRIBUTES["place"][example["place"]] in text for word in ATTRIBUTES["place"] if word in text)
        kinds.add(text.replace(ATTRIBUTES["colour"][example["colour"]], "").split()[0])
    assert len({example["caption"] for example in examples["judge"]}) > 800 and len(kinds) > 3


def test_prepared_examples_are_those_that_are_generated_today():
    """Stale files would be seen here: delete and prepare them again."""
    generated = sorted((one["caption"], one["image"].tobytes()) for _, one in captioned.examples("test"))
    assert generated == sorted((one["caption"], one["image"].tobytes()) for one in data.load("captioned:test"))


def test_hard_negatives_differ_in_one_stated_attribute(examples):
    rng, changed = np.random.default_rng(0), []
    for example in examples["judge"]:
        text = captioned.hard_negative(example, rng)
        before, after = (re.sub(",", "", one) for one in (example["caption"], text))
        for name in ("colour", "background", "size", "place"):
            for word in ATTRIBUTES[name]:
                before, after = (one.replace(word, f"<{name}>") for one in (before, after))
        digit = re.compile(rf"\b({'|'.join(DIGIT_NAMES)}|\d)\b")
        assert digit.sub("<digit>", before) == digit.sub("<digit>", after)  # the same template
        assert text != example["caption"]
        own = digit.search(example["caption"])[0], digit.search(text)[0]
        assert own[0].isdigit() == own[1].isdigit()
        changed.append(own[0] != own[1])
        colours = [word for word in ATTRIBUTES["colour"] if f" {word}" in f" {text}"]
        assert len(colours) == 2  # the digit never has the colour of its background
    assert 0.4 < np.mean(changed) < 0.6


def test_hard_negatives_reach_the_batches():
    source, words = data.load("captioned:test"), {}
    tokenize = lambda texts: np.array([[words.setdefault(text, len(words))] for text in texts], np.int32)
    batch = next(data.batches(source, 50, tokenize=tokenize, hard_negatives=3))
    named = {number: text for text, number in words.items()}
    assert batch["tokens"].shape == (1, 50, 1) and batch["hard_negatives"].shape == (1, 50, 3, 1)
    for i, right, wrong in zip(batch["example"][0], batch["tokens"][0], batch["hard_negatives"][0]):
        assert named[right[0]] == source[i]["caption"]
        assert all(named[one] != source[i]["caption"] for one in wrong[:, 0])
    again = next(data.batches(source, 50, tokenize=tokenize, hard_negatives=3))
    np.testing.assert_array_equal(again["hard_negatives"], batch["hard_negatives"])  # the seed and the position decide
