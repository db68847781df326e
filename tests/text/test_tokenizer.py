"""Tokenizers: token ids of transformers' CLIPTokenizer (tests/golden/make_tokenizer.py), JSON, equality and hashes."""

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdiff.text import tokenizer
from jaxdiff.types import Static

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizer.json").read_text())


@pytest.fixture
def folder(tmp_path):
    """Folder as in published models."""
    (tmp_path / "vocab.json").write_text(json.dumps(GOLDEN["vocab"]))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in GOLDEN["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(merges) + "\n")
    return tmp_path


@pytest.mark.parametrize("number", range(len(GOLDEN["texts"])))
def test_token_ids_are_those_of_transformers(folder, number):
    tokens = tokenizer.load(folder, 20)
    assert tokens.token_ids(GOLDEN["texts"][number]) == GOLDEN["words"][number]


def test_truncation_and_padding_are_those_of_transformers(folder):
    tokens = tokenizer.load(folder, 20)(GOLDEN["texts"])
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, GOLDEN["ids"])


def test_truncation_returns_both_parts(folder):
    short = tokenizer.load(folder, 5)
    assert short.truncation("a red seven") is None
    assert short.truncation("a red seven on a blue background") == ("a red seven ", "on a blue background")


@pytest.mark.parametrize("pad", ["!", {"content": "!", "lstrip": False}])
@pytest.mark.parametrize("where", ["tokenizer_config", "special_tokens_map"])
def test_stable_diffusion_2_pads_with_another_token(folder, pad, where):
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": tokenizer.END}))
    (folder / f"{where}.json").write_text(json.dumps({"pad_token": pad}))
    tokens = tokenizer.load(folder, 6)
    row = tokens(["a"])[0].tolist()
    assert row == [tokens.start_id, GOLDEN["vocab"]["a</w>"], tokens.end_id, *[GOLDEN["vocab"]["!"]] * 3]


def test_special_tokens_in_a_text_are_characters(folder):
    tokens = tokenizer.load(folder, 20)
    assert not {tokens.start_id, tokens.end_id} & set(tokens.token_ids(f"{tokenizer.START} a {tokenizer.END}"))


def test_positions_of_words(folder):
    tokens = tokenizer.load(folder, 20)
    text = "a red seven, then another red thing"
    ids = tokens([text])[0]
    red = tokens.positions(text, "red")
    assert [int(ids[position]) for position in red] == tokens.token_ids("red") * 2
    several = tokens.positions("a thought-through 45", "45")
    assert [int(tokens(["a thought-through 45"])[0][position]) for position in several] == tokens.token_ids(
        "45"
    ) and len(several) == 2
    with pytest.raises(ValueError, match="does not contain 'blue' in its first 18 tokens"):
        tokens.positions("a " * 18 + "blue", "blue")
    for absent in ("blue", ""):
        with pytest.raises(ValueError, match="does not contain"):
            tokens.positions(text, absent)


def test_trained_tokenizers_encode_any_text_and_are_reproducible():
    texts = ["a red seven on a blue background", "a blue seven"] * 3
    one, again = (tokenizer.train(texts, 560, 12) for _ in range(2))
    assert tokenizer.to_json(one) == tokenizer.to_json(again)
    assert len(one.token_ids("a red seven on a blue background")) == 7 and one.end_id == 513 and one.start_id == 512
    strange = "日本 👍 Ünïcode 'tis"
    names = "".join(one.model.id_to_token(i) for i in one.token_ids(strange)).replace("</w>", "")
    assert len(names) == len(strange.lower().replace(" ", "").encode())  # one character per byte
    assert max(one.token_ids(strange)) < one.vocab_size <= 560


def test_json_is_the_inverse(folder):
    tokens = tokenizer.load(folder, 9)
    again = tokenizer.from_json(tokenizer.to_json(tokens))
    np.testing.assert_array_equal(again(GOLDEN["texts"]), tokens(GOLDEN["texts"]))
    assert (again.length, again.pad_id, again.vocab_size) == (tokens.length, tokens.pad_id, tokens.vocab_size)


@pytest.mark.parametrize(
    ("spoil", "error", "why"),
    [
        (lambda f: (f / "merges.txt").unlink(), FileNotFoundError, "has no merges.txt: give the folder 'tokenizer'"),
        (lambda f: (f / "vocab.json").unlink(), FileNotFoundError, "has no vocab.json"),
        (lambda f: (f / "vocab.json").write_text("{"), ValueError, "holds no CLIP tokenizer"),
        (lambda f: (f / "vocab.json").write_text('{"a": 0}'), ValueError, r"lacks <\|startoftext\|>"),
        (lambda f: (f / "merges.txt").write_text("a b c"), ValueError, "holds no CLIP tokenizer"),
        (lambda f: (f / "tokenizer_config.json").write_text('{"pad_token": "?!"}'), ValueError, r"lacks \?!"),
    ],
)
def test_folders_without_a_tokenizer(folder, spoil, error, why):
    spoil(folder)
    with pytest.raises(error, match=why):
        tokenizer.load(folder)


def test_tokenizers_of_equal_content_are_equal_and_hash_equal(folder):
    one, same = tokenizer.load(folder, 9), tokenizer.load(folder, 9)
    again = tokenizer.from_json(tokenizer.to_json(one))
    assert one == same == again and hash(one) == hash(same) == hash(again)
    others = [
        tokenizer.load(folder, 10),
        dataclasses.replace(one, pad_id=0),
        tokenizer.with_new_tokens(one, ["<star>"]),
    ]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(p) for p in GOLDEN["merges"][:-1]) + "\n")
    others.append(tokenizer.load(folder, 9))
    assert len({one, *others}) == 5 and all(one != other for other in (*others, None, 3))


def test_hashing_a_tokenizer_again_does_not_serialize_it_again(folder):
    big = {**GOLDEN["vocab"], **{f"{i}x": len(GOLDEN["vocab"]) + i for i in range(50_000)}}
    (folder / "vocab.json").write_text(json.dumps(big))
    one = tokenizer.load(folder, 9)

    def seconds():
        start = time.perf_counter()
        hash(one)
        return time.perf_counter() - start

    first, later = seconds(), min(seconds() for _ in range(10))
    assert later < first / 10 and later < 1e-3, (first, later)


def test_models_with_equal_tokenizers_share_compilations(folder):
    count = [0]

    @jax.jit
    def run(tokens, x):
        count[0] += 1
        return x + tokens.value.length

    for tokens in (tokenizer.load(folder, 9), tokenizer.load(folder, 9)):
        run(Static(tokens), 1.0)
    assert count == [1]
    run(Static(tokenizer.load(folder, 8)), 1.0)
    assert count == [2]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"vocab": {"a": 0}, "merges": [], "length": 3, "fill": "a"}'])
def test_text_that_is_no_tokenizer(text):
    with pytest.raises(ValueError, match="this is no tokenizer"):
        tokenizer.from_json(text)


@pytest.mark.parametrize("size, length", [(513, 8), (600, 2)])
def test_sizes_that_are_refused(size, length):
    with pytest.raises(ValueError, match="must be at least 514"):
        tokenizer.train(["a"], size, length)
