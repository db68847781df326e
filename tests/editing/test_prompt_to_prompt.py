"""Prompt-to-prompt: alignment of prompts, and edited attention."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Cond, Guided, editing, samplers, timesteps
from jaxdiff import model as models
from jaxdiff.editing.prompt_to_prompt import common
from jaxdiff.model import denoiser_of
from jaxdiff.nets.transformer import Site
from jaxdiff.types import Static

TOKENIZER = models.load("captioned").text_encoder.tokenizer
SOURCE, TARGET = "a red seven on a blue background", "a green seven on a blue background"
AS_USERS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    **(
        {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ["XLA_FLAGS"] else {}
    ),  # not in jaxlib 0.12
}
CROSS, OWN = Site("cross", True, (8, 8)), Site("own", False, (8, 8))


def attention(keys, seed=0, rows=4):
    p = np.random.default_rng(seed).random((rows, 2, 64, keys)).astype(np.float32)
    return jnp.asarray(p / p.sum(-1, keepdims=True))


def test_no_edit_is_the_identity_bit_for_bit():
    edit, t = editing.no_edit(4, 24), jnp.full(4, 500)
    for site, keys in ((CROSS, 24), (OWN, 64)):
        np.testing.assert_array_equal(edit(attention(keys), site, t), attention(keys))


def test_sampling_without_an_edit_and_with_one_that_changes_nothing_is_the_same_bit_for_bit():
    model = models.load("captioned")
    z, context = jax.random.normal(jax.random.key(0), [2, *model.config.shape]), model.text_encoder([SOURCE, TARGET])
    schedule, levels = model.config.diffusion.make_schedule(), timesteps.grid(1000, 3)

    told = Guided(*(Cond(context=model.text_encoder([text] * 2)) for text in (SOURCE, "")))

    @functools.partial(jax.jit, compiler_options=AS_USERS)
    def draw(model, edit, eta):
        args = (
            denoiser_of(model),
            schedule,
            levels,
            z[:1],
            jax.tree.map(lambda x: x[:1], told),
            Cond(context=context[1:]),
        )
        return editing.sample_pairs(*args, 3.0, edit=edit, sampler=samplers.ddim(eta), key=jax.random.key(1))[0]

    for eta in (0.0, 1.0):
        np.testing.assert_array_equal(draw(model, None, eta), draw(model, editing.no_edit(2, 24), eta))
    assert np.abs(draw(model, None, 0.0) - draw(model, None, 1.0)).max() > 0.1


def test_a_source_share_of_one_word():
    """A quarter of the source's attention and three quarters of its own; also with one share per step."""
    edit, p, t = editing.replace(TOKENIZER, SOURCE, TARGET, cross_attention=1.0), attention(24), jnp.full(4, 500)
    (green,) = TOKENIZER.positions(TARGET, "green")
    found = editing.pairs([editing.set_source_share(TOKENIZER, edit, TARGET, "green", 0.25)] * 2)(p, CROSS, t)[2:]
    np.testing.assert_allclose(found[..., green], (p[:2] / 4 + 3 * p[2:] / 4)[..., green], rtol=1e-5)
    np.testing.assert_allclose(found[..., green + 1], p[:2, ..., green + 1], rtol=1e-5)
    by_step = editing.pairs([edit, editing.set_source_share(TOKENIZER, edit, TARGET, "green", [0.0, 0.5, 1.0])])
    assert by_step.source_share.shape == (3, 4, 24)
    assert by_step.source_share[:, 3, green].tolist() == [0.0, 0.5, 1.0] and (by_step.source_share[:, :3] == 1).all()
    with pytest.raises(ValueError, match="the `source_share` of 'green' must lie in"):
        editing.set_source_share(TOKENIZER, edit, TARGET, "green", 1.5)


def test_self_attention_is_taken_over_at_small_sites_only():
    """`pairs` keeps `max_pixels`."""
    edit = editing.replace(TOKENIZER, SOURCE, TARGET, self_attention=1.0)._replace(max_pixels=Static(16))
    p, t = attention(64), jnp.full(4, 500)
    np.testing.assert_array_equal(editing.pairs([edit] * 2)(p, OWN, t), p)


def test_a_swapped_word_has_the_attention_of_the_old_one():
    """In the rows after the sources, above level 200 for all words and above 700 for the new one."""
    edit = editing.pairs(
        [editing.replace(TOKENIZER, SOURCE, TARGET, cross_attention=0.8, word_windows={"green": 0.3})] * 2
    )
    p, green = attention(24), TOKENIZER.positions(TARGET, "green")
    for level, old in ((900, range(24)), (500, sorted(set(range(24)) - set(green))), (100, [])):
        found = edit(p, CROSS, jnp.full(4, level))
        np.testing.assert_array_equal(found[:2], p[:2])
        for word in range(24):
            wanted = p[:2, ..., word] if word in old else p[2:, ..., word]
            np.testing.assert_allclose(found[2:, ..., word], wanted, rtol=1e-5)


def test_windows_that_start_later():
    """Below level 900 and above level 200, and for the new word below 600."""
    edit = editing.replace(
        TOKENIZER,
        SOURCE,
        TARGET,
        cross_attention=(0.1, 0.8),
        self_attention=(0.5, 1.0),
        word_windows={"green": (0.4, 0.8)},
    )
    edit, p, green = editing.pairs([edit] * 2), attention(24), TOKENIZER.positions(TARGET, "green")
    rest = sorted(set(range(24)) - set(green))
    for level, old in ((901, []), (900, rest), (601, rest), (600, range(24)), (201, range(24)), (200, [])):
        found = edit(p, CROSS, jnp.full(4, level))[2:]
        for word in range(24):
            np.testing.assert_allclose(found[..., word], (p[:2] if word in old else p[2:])[..., word], rtol=1e-5)
    for level, there in ((501, slice(2, 4)), (500, slice(2))):
        np.testing.assert_array_equal(edit(attention(64), OWN, jnp.full(4, level))[2:], attention(64)[there])


def test_each_pair_has_its_own_edit():
    other = "a red two on a blue background"
    each = [
        editing.replace(TOKENIZER, SOURCE, TARGET, cross_attention=0.8),
        editing.replace(TOKENIZER, SOURCE, other, cross_attention=0.3),
    ]
    p, t = attention(24), jnp.full(4, 500)
    found = editing.pairs(each)(p, CROSS, t)
    np.testing.assert_allclose(found[2], p[0], rtol=1e-5)
    np.testing.assert_array_equal(found[3], p[3])


def test_a_word_of_another_number_of_tokens_has_the_attention_of_the_old_one():
    """In sum; padding without a counterpart in the source has its own."""
    (one, five), p = (len(TOKENIZER.token_ids(word)) for word in ("red", "orange")), attention(24)
    assert one == 1 < five
    for old, new in (("red", "orange"), ("orange", "red")):
        source, target = f"a {old} seven on blue", f"a {new} seven on blue"
        edit = editing.pairs([editing.replace(TOKENIZER, source, target, cross_attention=1.0)] * 2)
        found = edit(p, CROSS, jnp.full(4, 500))
        here, there = TOKENIZER.positions(target, new), TOKENIZER.positions(source, old)
        np.testing.assert_allclose(found[2:, ..., here].sum(-1), p[:2, ..., there].sum(-1), rtol=1e-5)
        seven = TOKENIZER.positions(target, "seven"), TOKENIZER.positions(source, "seven")
        np.testing.assert_allclose(found[2:, ..., seven[0]], p[:2, ..., seven[1]], rtol=1e-5)
        if old == "orange":
            np.testing.assert_array_equal(found[2:, ..., -4:], p[2:, ..., -4:])


def test_a_new_word_has_its_own_attention():
    target = "a small red seven on a blue background"
    edit = editing.pairs([editing.refine(TOKENIZER, SOURCE, target, cross_attention=1.0)] * 2)
    p, new = attention(24), TOKENIZER.positions(target, "small")[0]
    found = edit(p, CROSS, jnp.full(4, 500))
    np.testing.assert_allclose(found[2:, ..., new], p[2:, ..., new], rtol=1e-5)
    for word in ("red", "seven", "blue"):
        here, there = TOKENIZER.positions(target, word)[0], TOKENIZER.positions(SOURCE, word)[0]
        np.testing.assert_allclose(found[2:, ..., here], p[:2, ..., there], rtol=1e-5)


def test_reweighting_scales_the_attention_to_a_word():
    same = editing.refine(TOKENIZER, SOURCE, SOURCE, cross_attention=1.0)
    edit = editing.pairs([editing.reweight(TOKENIZER, same, SOURCE, "red", 3.0)] * 2)
    p, red = attention(24), TOKENIZER.positions(SOURCE, "red")[0]
    found = edit(p, CROSS, jnp.full(4, 500))
    np.testing.assert_allclose(found[2:, ..., red], 3 * p[:2, ..., red], rtol=1e-5)
    np.testing.assert_allclose(found[2:, ..., red + 1], p[:2, ..., red + 1], rtol=1e-5)


def test_self_attention_is_taken_over_within_its_window():
    edit, p = editing.pairs([editing.replace(TOKENIZER, SOURCE, TARGET, self_attention=0.4)] * 2), attention(64)
    np.testing.assert_array_equal(edit(p, OWN, jnp.full(4, 601))[2:], p[:2])
    np.testing.assert_array_equal(edit(p, OWN, jnp.full(4, 600)), p)
    np.testing.assert_array_equal(edit(p, Site("large", False, (64, 64)), jnp.full(4, 900)), p)


def test_other_words_and_windows_do_not_recompile():
    count = [0]

    @jax.jit
    def run(edit, p, t):
        count[0] += 1
        return edit(p, CROSS, t)

    for target, cross in ((TARGET, 0.8), ("a blue seven on a red background", 0.5)):
        run(
            editing.pairs([editing.replace(TOKENIZER, SOURCE, target, cross_attention=cross)] * 2),
            attention(24),
            jnp.full(4, 500),
        )
    run(editing.no_edit(4, 24), attention(24), jnp.full(4, 500))
    assert count == [1]


def test_the_longest_common_sequence():
    assert common(list("abcde"), list("xbcye")) == [(1, 1), (2, 2), (4, 4)]
    assert common([], [1]) == []


def test_prompts_that_cannot_be_aligned():
    with pytest.raises(ValueError, match="a word swap needs prompts of as many words"):
        editing.replace(TOKENIZER, SOURCE, "a seven")
    with pytest.raises(ValueError, match="have no word in common"):
        editing.refine(TOKENIZER, "red", "seven")
    with pytest.raises(ValueError, match="does not contain 'purple'"):
        editing.replace(TOKENIZER, SOURCE, TARGET, word_windows={"purple": 0.5})
    with pytest.raises(ValueError, match="is too long"):
        editing.replace(TOKENIZER, "red " * 40, "blue " * 40)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        editing.replace(TOKENIZER, SOURCE, TARGET, cross_attention=1.5)
    with pytest.raises(ValueError, match="start and end, in this order"):
        editing.replace(TOKENIZER, SOURCE, TARGET, self_attention=(0.8, 0.2))
