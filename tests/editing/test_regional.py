"""Regions with their own prompts, compared with attention to these prompts only."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Cond, UNet, UNetConfig, denoiser, editing, guidance, network, schedules
from jaxdiff import model as models
from jaxdiff.nets.attention import edited
from jaxdiff.nets.transformer import Site

RNG = np.random.default_rng(0)
CONFIG = UNetConfig(out_channels=2, channels=(8, 16), blocks=1, attention=(0, 1), groups=4, num_heads=2, context_dim=6)
L, T = 5, 500


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


X, CONTEXTS, NEGATIVE = normal(2, 8, 8, 2), normal(3, L, 6), normal(L, 6)
LEFT = np.repeat(np.eye(2, dtype=bool)[:, None], 8, 1).repeat(4, 2)  # and right, [2, 8, 8]


@functools.cache
def params():
    cond = Cond(context=CONTEXTS[:2])
    shapes = jax.eval_shape(UNet(CONFIG).init, jax.random.key(0), X, jnp.zeros(2), cond)["params"]
    return jax.tree.map(lambda leaf: 0.3 * normal(*leaf.shape), shapes)


@jax.jit
def run(cond):
    return network(UNet(CONFIG))(params(), X, T, cond)[0]


def alone(context):
    """The network with one prompt and no edit."""
    return run(Cond(context=jnp.broadcast_to(context, (len(X), *context.shape[-2:]))))


def softmax(scores):
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def attended(q, k, v, tokens):
    """Attention to some of the keys only, in float64, head by head."""
    return np.stack(
        [softmax(q[:, h] @ k[tokens, h].T / np.sqrt(q.shape[-1])) @ v[tokens, h] for h in range(q.shape[1])], axis=1
    )


def probabilities(rows, size, keys, seed=0):
    p = np.random.default_rng(seed).random((rows, 2, size[0] * size[1], keys)).astype(np.float32)
    return jnp.asarray(p / p.sum(-1, keepdims=True))


def cross(size):
    return Site("cross", True, size)


@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_a_full_mask_is_that_prompt_only_in_a_whole_network(prompt):
    """For the background prompt the masks are empty."""
    masks = np.zeros([2, 8, 8], np.float32)
    masks[prompt - 1 :][:1] = prompt > 0
    edit = editing.Regions(jnp.broadcast_to(masks, (2, 2, 8, 8)))
    found = run(Cond(context=jnp.broadcast_to(CONTEXTS.reshape(-1, 6), (2, 3 * L, 6)), attention_edit=edit))
    others = [alone(context) for context in CONTEXTS]
    np.testing.assert_allclose(found, others[prompt], atol=1e-5)
    assert all(np.abs(others[prompt] - others[i]).max() > 1e-2 for i in range(3) if i != prompt)


def test_halves_overlap_and_background_are_attention_to_each_prompt():
    """4x8 pixels: left and right regions, both in the lower right corner, and the background in the top row."""
    size, heads, dim = (4, 8), 2, 4
    q, k, v = normal(2, 32, heads, dim), normal(2, 3 * L, heads, dim), normal(2, 3 * L, heads, dim)
    left, right = np.zeros([2, *size], bool)
    left[1:, :4], right[1:, 4:], left[3, 6:] = True, True, True
    edit = editing.regions(np.stack([left, right]), num=2)
    found, p = edited(q, k, v, lambda p, site: edit(p, site, jnp.array([T, T])), cross(size))
    for b in range(2):
        each = [
            attended(*(x[b].astype(np.float64) for x in (q, k, v)), slice(i * L, i * L + L)).reshape(*size, heads, dim)
            for i in range(3)
        ]
        wanted = np.where(left[..., None, None], each[1], np.where(right[..., None, None], each[2], each[0]))
        wanted[3, 6:] = (each[1] + each[2])[3, 6:] / 2
        np.testing.assert_allclose(found[b].reshape(*size, heads, dim), wanted, atol=1e-5)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)


def test_self_attention_is_unchanged_bit_for_bit():
    p = probabilities(2, (8, 8), 64)
    edit = editing.regions(LEFT, 2)
    np.testing.assert_array_equal(edit(p, Site("own", False, (8, 8)), jnp.array([T, T])), p)


@pytest.mark.parametrize("large, small", [((16, 16), (4, 4)), ((12, 24), (4, 8)), ((8, 8), (3, 3)), ((4, 4), (12, 12))])
def test_masks_at_a_site_are_means_over_areas(large, small):
    """Compared with means over a mask upsampled to a multiple of both sizes; also upsampled, and with no common divisor."""
    mask = np.random.default_rng(3).random(large) > 0.5
    fine = mask.repeat(small[0], 0).repeat(small[1], 1)
    mean = fine.reshape(small[0], large[0], small[1], large[1]).mean((1, 3))
    found = editing.regions(mask[None])(probabilities(1, small, 2), cross(small), jnp.array([T]))
    np.testing.assert_array_equal(np.asarray(found[0, 0, :, 1]).reshape(small) > 0.5, mean > 0.5)
    assert 0 < (mean > 0.5).sum() < mean.size


def test_a_small_region_does_not_vanish_at_a_small_site():
    """4 pixels of 16x16 are a quarter of a pixel at 4x4; a large region does not grow."""
    mask, wide = np.zeros([2, 16, 16], bool)
    mask[5:7, 9:11], wide[:, :9] = True, True
    found = editing.regions(np.stack([mask, wide]))(probabilities(1, (4, 4), 6), cross((4, 4)), jnp.array([T]))
    read = np.asarray(found[0, 0]).reshape(4, 4, 3, 2).sum(-1)
    wanted = np.zeros([4, 4, 3])
    wanted[:, :2, 2], wanted[:, 2:, 0] = 1, 1
    wanted[1, 2] = 0, 1, 0
    np.testing.assert_allclose(read, wanted, atol=1e-6)


def test_a_prompt_without_attention_has_uniform_attention():
    """0 / 0: all of its probabilities have underflown."""
    p = jnp.zeros([1, 1, 4, 6]).at[..., 0].set(1.0)
    found = editing.regions(np.ones([1, 2, 2]))(p, cross((2, 2)), jnp.array([T]))
    np.testing.assert_allclose(found[0, 0], [[0, 0, 0, 1 / 3, 1 / 3, 1 / 3]] * 4, rtol=1e-6)
    gradient = jax.grad(lambda p: editing.regions(np.ones([1, 2, 2]))(p, cross((2, 2)), jnp.array([T])).sum())(p)
    assert np.isfinite(gradient).all()


def test_guidance_is_that_of_both_prompts_in_one_batch():
    rows, schedule = [], schedules.linear()

    def counted(params, x, t, cond):
        rows.append(len(x))
        return network(UNet(CONFIG))(params, x, t, cond)

    whole = np.ones([1, 8, 8])
    guided = editing.regional_cond(CONTEXTS[:2], NEGATIVE, whole, num=2)
    found = jax.jit(guidance.cfg(denoiser(counted, params(), schedule), 3.0))(X, T, guided)
    assert rows == [4]
    wanted, unwanted = alone(CONTEXTS[1]), alone(NEGATIVE)
    np.testing.assert_allclose(found.eps, unwanted + 3 * (wanted - unwanted), atol=5e-5)


def test_other_masks_do_not_recompile():
    count = [0]

    @jax.jit
    def counted(cond):
        count[0] += 1
        return network(UNet(CONFIG))(params(), X, T, cond)[0]

    down = LEFT.transpose(0, 2, 1)
    found = [counted(editing.regional_cond(CONTEXTS, NEGATIVE, masks, 2).cond) for masks in (LEFT, down)]
    counted(editing.regional_cond(CONTEXTS, NEGATIVE, LEFT, 2).uncond)
    assert count == [1] and np.abs(found[0] - found[1]).max() > 1e-3


def test_masks_may_be_traced():
    p = probabilities(2, (8, 8), 15)
    at = lambda masks: editing.regions(masks, 2)(p, cross((8, 8)), jnp.array([T, T]))
    np.testing.assert_allclose(jax.jit(at)(LEFT), at(LEFT), atol=1e-6)


def test_a_shipped_network_reads_more_prompts_without_a_length_of_its_own():
    """The same parameters, and with one prompt for all the same prediction."""
    model = models.load("captioned")
    free = network(UNet(dataclasses.replace(model.config.net, context_length=0)))
    seven, two, none = model.text_encoder(["a red seven on a blue background", "a green two on a blue background", ""])
    x = normal(1, 8, 8, 6)
    guided = editing.regional_cond(jnp.stack([two, seven]), none, np.ones([1, 8, 8]))
    run = jax.jit(free)
    wanted = jax.jit(model.apply)(model.params, x, T, Cond(context=seven[None]))[0]
    np.testing.assert_allclose(run(model.params, x, T, guided.cond)[0], wanted, atol=1e-4)
    with pytest.raises(ValueError, match=r"this network needs cond\.context \[B, 24, 64\]"):
        model.apply(model.params, x, T, guided.cond)


def test_masks_and_contexts_that_are_refused():
    with pytest.raises(ValueError, match="mask 1 of `masks` is empty"):
        editing.regions(np.stack([np.ones([4, 4]), np.zeros([4, 4])]))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        editing.regions(2 * np.ones([1, 4, 4]))
    with pytest.raises(ValueError, match=r"must be \[R, H, W\]"):
        editing.regions(np.ones([4, 4]))
    with pytest.raises(ValueError, match=r"must be \[3, 5, 6\]"):
        editing.regional_cond(CONTEXTS[:2], NEGATIVE, LEFT)
    edit, t = editing.regions(LEFT), jnp.array([T])
    with pytest.raises(ValueError, match="8 tokens cannot be that of 3 prompts"):
        edit(probabilities(1, (8, 8), 8), cross((8, 8)), t)
    with pytest.raises(ValueError, match="`masks` of 8x8 do not have the proportions"):
        edit(probabilities(1, (4, 8), 15), cross((4, 8)), t)
