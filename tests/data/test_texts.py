"""Compact texts behave as the list of them does."""

import numpy as np
import pytest

from jaxdiff.data.texts import CHUNK, Texts


def words(count, seed=0):
    """Random texts, some of them empty, in several alphabets."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("aBü日.\udc80\n"), rng.integers(6))) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 50])
def test_they_are_a_sequence(count):
    plain = words(count)
    texts = Texts.of(iter(plain))
    assert list(texts) == [texts[i] for i in range(count)] == plain and len(texts) == count
    assert texts[3:40:3] == plain[3:40:3] and texts[::-1] == plain[::-1]
    assert [texts[-1 - i] for i in range(count)] == plain[::-1]
    for i in (count, -count - 1):
        with pytest.raises(IndexError, match=f"there is no text {i} among {count}"):
            texts[i]


def test_some_are_taken_and_shortened():
    plain = [f"{word}.png" for word in words(2 * CHUNK + 10)]
    chosen = np.random.default_rng(1).permutation(len(plain))
    texts = Texts.of(plain)
    assert list(texts.take(chosen)) == [plain[i] for i in chosen]
    drop = np.arange(len(plain)) % 5
    ascii_ends = [plain[i][: len(plain[i]) - n] for i, n in enumerate(drop)]
    assert list(texts.take(np.arange(len(plain)), drop)) == ascii_ends
    assert list(texts.take(np.array([], np.int64))) == []


def test_endings():
    plain = ["a.png", "b.PNG", ".png", "png", "", "c.PnG", "d.jpeg", "é.png", "e\x0epng", "f.png.txt"]
    texts = Texts.of(plain)
    assert texts.end_with(".png").tolist() == [text.endswith(".png") for text in plain]
    assert texts.end_with(".png", any_case=True).tolist() == [text.lower().endswith(".png") for text in plain]
