"""Adapters as files: a round trip, and files that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import model as models
from jaxdiff import tensor_files
from jaxdiff.adapt import adapter, lora, new_tokens
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.model import shipped

MODEL = models.load("captioned")


def trained(rank):
    fresh = lora.init(jax.random.key(0), MODEL.params, rank, alpha=3.0)
    up = lambda path, both: both._replace(up=0.01 * jax.random.normal(jax.random.key(len(path)), both.up.shape))
    return fresh._replace(factors={path: up(path, both) for path, both in fresh.factors.items()})


def test_a_round_trip_through_a_file():
    """Tens of kilobytes; parameters are rounded to float16."""
    small, row = trained(1), jax.random.normal(jax.random.key(1), [64])
    whole = Adapter({"base": "captioned", "step": 5}, {"unet": small}, {"<star>": row}, {"conv_in": {"bias": row}})
    content = adapter.to_bytes(whole)
    assert len(content) < 50_000
    again = adapter.from_bytes(content)
    assert again.metadata == whole.metadata and set(again.loras["unet"].factors) == set(small.factors)
    for path, both in small.factors.items():
        assert float(again.loras["unet"].scale[path]) == 3.0
        for after, before in zip(again.loras["unet"].factors[path], both):
            np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(again.new_tokens["<star>"], row)  # token embeddings are not rounded
    np.testing.assert_allclose(again.control["conv_in"]["bias"], row, rtol=1e-3)
    exact = adapter.from_bytes(adapter.to_bytes(whole, "float32"))
    for after, before in zip(jax.tree.leaves(exact), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(after, before)


def test_a_changed_bit_is_noticed():
    """In the tensors, and in the header; files without checksums, as those that ship, are read."""
    content = adapter.to_bytes(Adapter({"base": "captioned"}, {"unet": trained(1)}))
    start = 8 + int.from_bytes(content[:8], "little")
    for place, what in ((start + 100, "the checksum of unet:"), (content.index(b"captioned"), "of its header")):
        wrong = bytearray(content)
        wrong[place] ^= 1
        with pytest.raises(ValueError, match=rf"is damaged \(.*{what}.*: export or copy it again"):
            adapter.from_bytes(bytes(wrong))
    assert tensor_files.CHECKSUMS.encode() not in (shipped.ADAPTERS / "star.safetensors").read_bytes()


def test_files_that_are_no_adapter():
    content = adapter.to_bytes(Adapter({}, {"unet": trained(1)}))
    for wrong in (b"", content[:-10], (shipped.WEIGHTS / "digits.safetensors").read_bytes()):
        with pytest.raises(ValueError, match="is no LoRA, new token or ControlNet that jaxdiff has trained"):
            adapter.from_bytes(wrong)
    with pytest.raises(ValueError, match="are not finite as float16: choose `dtype`=float32"):
        adapter.to_bytes(Adapter({}, control={"conv_in": {"bias": jnp.array([1e6])}}))


def test_new_words_stand_behind_the_others():
    text = MODEL.submodels["text_encoder"].params
    rows = jnp.arange(128.0).reshape(2, 64)
    table, old = new_tokens.token_embeddings(new_tokens.insert(text, rows, 639)), new_tokens.token_embeddings(text)
    assert table.shape == (641, 64)
    np.testing.assert_array_equal(table[:639], old[:639])
    np.testing.assert_array_equal(table[639:], rows)
    # where the table has rows that no token uses
    within = new_tokens.token_embeddings(new_tokens.insert(text, rows, 603))
    np.testing.assert_array_equal(within[605:], old[605:])
    initial = lambda token_ids: new_tokens.initial_embeddings(jax.random.key(0), text, token_ids)
    np.testing.assert_array_equal(initial([[5], [5, 7]]), [old[5], (old[5] + old[7]) / 2])
    random, five = initial([[], [5]])  # the two words of a concept of Mix-of-Show
    np.testing.assert_array_equal(five, old[5])
    assert abs(random - old.mean(0)).max() > 0.5 * old.std() and abs(random).max() < 10 * abs(old).max()
    with pytest.raises(ValueError, match="do not fit a table of embeddings"):
        new_tokens.insert(text, rows, 641)
