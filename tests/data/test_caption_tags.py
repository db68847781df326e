"""Captions as a network reads them: tags shuffled and left out, one of several, a trigger in front."""

import itertools

import numpy as np
import pytest

from jaxdiff import data
from jaxdiff.data import caption_tags, captions
from jaxdiff.data.caption_tags import CaptionTags, arranged, text_of, with_trigger
from jaxdiff.data.captions import Captions

ALL = CaptionTags(shuffle=True, keep=1, dropout=0.3)
TEXTS = [f"item {i}, red, green, blue, a <b>" for i in range(6)]


def source(texts=TEXTS):
    black = {"image": np.zeros([2, 2, 1], np.uint8)}
    stored = [captions.joined([text] if isinstance(text, str) else text) for text in texts]
    return data.Source(lambda i: black, len(texts), (2, 2, 1), caption=Captions(stored.__getitem__, len(texts)))


def codes(texts):
    """Texts as numbers of their letters, int32 [B, 64]."""
    return np.array([[*map(ord, text.ljust(64))] for text in texts], np.int32)


def read(found, batch_size=2, steps=9, **options):
    """Texts and examples in the order of training."""
    stream = data.batches(found, batch_size, tokenize=codes, seed=5, **options)
    batches = [*itertools.islice(stream, steps)]
    stream.close()
    tokens = np.concatenate([batch["tokens"].reshape(-1, 64) for batch in batches])
    texts = ["".join(map(chr, row)).rstrip() for row in tokens]
    return texts, [i for batch in batches for i in batch["example"].ravel().tolist()]


def test_first_tags_and_the_trigger_stay_in_front_and_others_are_shuffled():
    rng, tags = np.random.default_rng(0), CaptionTags(shuffle=True, keep=1)
    some = {arranged("sks, a, b,c , d,", rng, tags, "sks") for _ in range(60)}
    assert len(some) == 6 and all(
        text.startswith("sks, a, ") and sorted(text) == sorted("sks, a, b, c, d") for text in some
    )
    assert arranged("a,b", rng, CaptionTags(keep=0)) == "a,b"


def test_each_tag_is_left_out_with_its_probability():
    rng, tags = np.random.default_rng(0), CaptionTags(dropout=0.25, keep=1)
    found = [arranged("a, b, c", rng, tags) for _ in range(4000)]
    assert {text[0] for text in found} == {"a"}
    assert 0.23 < np.mean(["b" not in text for text in found]) < 0.27
    assert 0.05 < np.mean([text == "a" for text in found]) < 0.075
    assert sorted({*found}) == ["a", "a, b", "a, b, c", "a, c"]


def test_texts_depend_on_seed_and_position_alone():
    whole, examples = read(source(), tags=ALL)
    assert len({*whole}) > 12 and read(source(), tags=ALL) == (whole, examples)
    assert read(source(), tags=ALL, start_step=5, steps=4) == (whole[10:], examples[10:])
    halves = [read(source(), tags=ALL, process_index=p, process_count=2)[0] for p in (0, 1)]
    assert [text for pair in zip(*halves) for text in pair] == whole
    assert read(source(), 6, 3, tags=ALL)[0] == whole
    assert whole[0] == text_of(source(), examples[0], 5, 0, ALL)
    assert read(source())[0] == [TEXTS[i] for i in examples]


def test_one_of_several_captions_is_drawn_in_each_epoch():
    found = source([["a", "b", "c"]] + ["single"] * 5)
    texts, examples = read(found, 6, 40)
    drawn = [text for text, i in zip(texts, examples) if not i]
    assert {*drawn} == {"a", "b", "c"} and {text for text, i in zip(texts, examples) if i} == {"single"}
    assert read(found, 6, 3, start_step=7)[0] == texts[42:60]
    assert list(found.captions()) == ["a"] + ["single"] * 5


def test_images_and_their_mirroring_are_those_of_a_training_without():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 4, 1), np.uint8)
    plain = data.Source(lambda i: {"image": images[i]}, 6, (4, 4, 1), caption=lambda i: TEXTS[i])
    first = next(data.batches(plain, 6, flip=True, augment=1.0))["image"]
    options = {"tokenize": codes, "tags": ALL}
    np.testing.assert_array_equal(first, next(data.batches(plain, 6, flip=True, augment=1.0, **options))["image"])


def test_contexts_are_the_tokens_of_captions_where_these_are_encoded_in_each_step():
    stream = data.batches(source(), 2, contexts=True, tokenize=lambda texts: np.array([[len(t)] for t in texts]))
    batch = next(stream)
    stream.close()
    assert "tokens" not in batch and batch["cond"].context.tolist() == [[[len(TEXTS[0])]] * 2]


def test_a_trigger_stands_before_every_caption():
    found = with_trigger(source(["a, b", ["", "c"]]), "sks dog")
    assert list(found.captions()) == ["sks dog, a, b", "sks dog"] and found[0]["caption"] == "sks dog, a, b"
    assert captions.several(found.caption, 1) == ["sks dog", "sks dog, c"]
    assert {text.split(",")[0] for text in read(found, tags=CaptionTags(True), trigger="sks dog")[0]} == {"sks dog"}
    in_examples = data.Source(lambda i: {"image": 0, "caption": "a"}, 1, (1, 1, 1), caption=lambda i: "a")
    assert with_trigger(in_examples, "x")[0]["caption"] == "x, a"
    assert with_trigger(found, "") is found


def test_a_trigger_needs_captions():
    with pytest.raises(ValueError, match=r"has no captions .*, and `data.trigger` stands in front of captions"):
        with_trigger(data.load("digits:test"), "sks")
    encoded = data.Source(lambda i: {}, 1, (1, 1, 1), encoded_by={"text_encoder": "1"}, caption=lambda i: "")
    with pytest.raises(ValueError, match="the records hold contexts: prepare them again"):
        with_trigger(encoded, "sks")


@pytest.mark.parametrize(
    "tags", [CaptionTags(keep=1), CaptionTags(dropout=1.0), CaptionTags(True, -1), CaptionTags(dropout=-0.1)]
)
def test_numbers_out_of_range(tags):
    with pytest.raises(ValueError, match="`caption_tags"):
        caption_tags.check(tags)
