"""Weighted words and long prompts: the syntax of web interfaces, and contexts by its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets.clip import TextConfig, TextTransformer
from jaxdiff.text import encoder, tokenizer, weighted

WORDS = tokenizer.train(["a red seven on blue, big and small"] * 3, vocab_size=600, length=8)
NET = TextTransformer(TextConfig(8, 2, 2, vocabulary=600, length=8, end_token=WORDS.end_id))


@pytest.fixture(scope="module")
def text():
    params = jax.jit(NET.init)(jax.random.key(0), jnp.full([1, 8], WORDS.end_id))["params"]
    params["final_layer_norm"]["bias"] = jnp.linspace(0.5, 1.5, 8)  # as trained ones, whose mean is not 0
    return encoder.text_encoder(WORDS, NET, params)


@pytest.mark.parametrize(
    "prompt, parts",
    [
        ("a red seven", [("a red seven", 1.0)]),
        ("a (red) seven", [("a ", 1.0), ("red", 1.1), (" seven", 1.0)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 0.9091)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(a (red:2) seven:0.5)", [("a ", 0.5), ("red", 1.0), (" seven", 0.5)]),
        (r"\(red\)", [("(red)", 1.0)]),
        ("(red", [("red", 1.1)]),
        ("red)", [("red)", 1.0)]),
        ("time 10:30", [("time 10:30", 1.0)]),
        ("a BREAK b", [("a ", 1.0), (None, 1.0), (" b", 1.0)]),
        ("Blue", [("Blue", 1.0)]),
        ("", []),
    ],
)
def test_the_syntax(prompt, parts):
    assert weighted.parse(prompt) == parts


def test_a_weight_that_is_no_number():
    with pytest.raises(ValueError, match=r"the weight '1.2.3' in a prompt is not a number"):
        weighted.parse("(red:1.2.3)")


def test_long_prompts_are_read_in_chunks_with_their_weights():
    ids = WORDS.token_ids("a red seven on blue")
    rows, weights = weighted.chunks(WORDS, "a red seven on (blue:2) a red")
    assert len(ids) == 5
    assert rows.tolist() == [
        [WORDS.start_id, *ids, *WORDS.token_ids("a"), WORDS.end_id],
        [WORDS.start_id, *WORDS.token_ids("red"), WORDS.end_id, *[WORDS.pad_id] * 5],
    ]
    assert weights.tolist() == [[1, 1, 1, 1, 1, 2, 1, 1], [1] * 8]
    assert len(weighted.chunks(WORDS, "a BREAK b")[0]) == 2 and len(weighted.chunks(WORDS, "")[0]) == 1


def test_contexts_are_weighted_and_keep_their_mean(text):
    """Prompts without weights are what the text encoder says of them, bit for bit; shorter ones are filled up."""
    plain = "a red seven"
    read = weighted.read(text, [plain, "a (red:1.5) seven", "a red seven on blue a red seven"])
    assert read.tokens.shape == (3, 16, 8)
    np.testing.assert_allclose(read.tokens[0, :8], text([plain])[0], atol=1e-6)
    np.testing.assert_allclose(read.tokens[:2, 8:], np.stack([text([""])[0]] * 2), atol=1e-6)
    factors = np.ones([8, 1])
    factors[WORDS.positions(plain, "red")] = 1.5
    c = np.asarray(text([plain])[0], np.float64)
    wanted = c * factors * c.mean() / (c * factors).mean()
    np.testing.assert_allclose(read.tokens[1, :8], wanted, atol=1e-5)
    np.testing.assert_allclose(read.tokens[2, 8:], text(["red seven"])[0], atol=1e-6)
    np.testing.assert_allclose(read.pooled[:1], text.read([plain]).pooled, atol=1e-6)
