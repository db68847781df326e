"""LoRA: the identity at initialisation, the sum of both paths when merged, and no recompilation for another weight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from jaxdiff import Cond
from jaxdiff import model as models
from jaxdiff.adapt import lora

MODEL = models.load("captioned")
WHERE = lora.ATTENTION + "|" + lora.CONVOLUTIONS


def trained(rank=2, where=lora.ATTENTION, **how):
    """LoRA with random factors."""
    fresh = lora.init(jax.random.key(0), MODEL.params, rank, where, **how)
    rng = np.random.default_rng(0)
    up = lambda both: both._replace(up=jnp.asarray(rng.standard_normal(both.up.shape), jnp.float32))
    return fresh._replace(factors={path: up(both) for path, both in fresh.factors.items()})


def test_at_initialisation_it_is_the_identity_bit_for_bit():
    merged = lora.merge(MODEL.params, lora.init(jax.random.key(0), MODEL.params, 4, WHERE), 1.0)
    assert jax.tree.structure(merged) == jax.tree.structure(MODEL.params)
    for after, before in zip(jax.tree.leaves(merged), jax.tree.leaves(MODEL.params)):
        np.testing.assert_array_equal(np.asarray(after).view(np.int32), np.asarray(before).view(np.int32))


@pytest.mark.parametrize("rank_stabilised, scale", [(False, 6 / 4), (True, 6 / 2)])
def test_a_dense_layer_is_the_sum_of_both_paths(rank_stabilised, scale):
    """W x + w s B A x, computed in float64."""
    path = "mid_block/attentions_0/transformer_blocks_0/attn1/to_q/kernel"
    small = trained(4, alpha=6.0, rank_stabilised=rank_stabilised)
    x = np.random.default_rng(1).standard_normal((5, 96))
    kernel = flatten_dict(lora.merge(MODEL.params, small, 0.7), sep="/")[path]
    down, up = (np.asarray(factor, np.float64) for factor in small.factors[path])
    base = flatten_dict(MODEL.params, sep="/")[path].astype(np.float64)
    np.testing.assert_allclose(x @ np.asarray(kernel, np.float64), x @ base + 0.7 * scale * (x @ down) @ up, atol=1e-5)


def test_a_convolution_is_the_sum_of_both_paths():
    """A is a convolution to r channels, and B one of 1x1."""
    path, small = "conv_in/kernel", trained(3, "conv_in")
    convolve = lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.random.normal(jax.random.key(2), [2, 8, 8, 6])
    merged = lora.merge(MODEL.params, small, 0.5)["conv_in"]["kernel"]
    down, up = small.factors[path]
    apart = convolve(convolve(x, down.reshape(3, 3, 6, 3)), up.reshape(1, 1, 3, 64))
    wanted = convolve(x, jnp.asarray(MODEL.params["conv_in"]["kernel"])) + 0.5 * apart
    np.testing.assert_allclose(convolve(x, merged), wanted, atol=1e-4)


def test_merging_is_undone_and_several_are_merged():
    one, other = trained(2), trained(3, WHERE)
    both = lora.merge(lora.merge(MODEL.params, one, 0.3), other, -0.2)
    back = lora.merge(lora.merge(both, other, 0.2), one, -0.3)
    for after, before in zip(jax.tree.leaves(back), jax.tree.leaves(MODEL.params)):
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_another_weight_does_not_recompile():
    count = []

    @jax.jit
    def run(small, weight):
        count.append(0)
        return lora.merge(MODEL.params, small, weight)["conv_in"]["kernel"]

    run(trained(2), 0.5)
    run(trained(2, alpha=9.0), 0.9)
    assert len(count) == 1


def test_training_changes_the_factors_only():
    """Gradients and the optimizer's state are of the factors, and reach all of them after the first step."""
    small = lora.init(jax.random.key(0), MODEL.params, 2)
    x, context = (
        jax.random.normal(jax.random.key(1), [2, *MODEL.config.shape]),
        MODEL.text_encoder(["a red seven", "a blue two"]),
    )

    def loss(factors):
        params = lora.merge(MODEL.params, small._replace(factors=factors))
        out, _ = MODEL.apply(params, x, jnp.array([10, 500]), Cond(context=context))
        return jnp.square(out).mean()

    optimizer = optax.adam(1e-2)
    state = optimizer.init(small.factors)
    count = sum(leaf.size for leaf in jax.tree.leaves(small.factors))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * count + 1
    step = jax.jit(jax.value_and_grad(loss))
    factors, losses = small.factors, []
    for i in range(3):
        value, grads = step(factors)
        losses.append(float(value))
        moved = {path: [bool((slope != 0).any()) for slope in both] for path, both in grads.items()}
        assert all(up and (down or i == 0) for down, up in moved.values())  # A has no gradient while B is 0
        updates, state = optimizer.update(grads, state)
        factors = optax.apply_updates(factors, updates)
    assert losses[2] < losses[1] < losses[0]


def test_rank_dropout_keeps_the_mean():
    small = trained(8)
    path = next(iter(small.factors))
    change = lambda factors: factors[path].down @ factors[path].up
    found = jax.vmap(
        lambda i: change(lora.rank_dropout(jax.random.fold_in(jax.random.key(3), i), small.factors, 0.25))
    )(jnp.arange(4000))
    whole = change(small.factors)
    np.testing.assert_allclose(found.mean(0), whole, atol=5 * float(found.std(0).max()) / 4000**0.5)
    assert float(found.std(0).max()) > 0.01
    np.testing.assert_array_equal(change(lora.rank_dropout(jax.random.key(0), small.factors, 0.0)), whole)


def test_arguments_that_are_refused():
    with pytest.raises(ValueError, match="`rank`=7 must be from 1 to 6: conv_out/kernel is 576x6"):
        lora.init(jax.random.key(0), MODEL.params, 7, "conv_out")
    with pytest.raises(ValueError, match="no kernel's path matches 'nowhere'"):
        lora.init(jax.random.key(0), MODEL.params, 2, "nowhere")
    digits = models.load("digits").params
    with pytest.raises(ValueError, match="of another network"):
        lora.merge(digits, trained())
    small = trained(2, "conv_in")
    with pytest.raises(ValueError, match=r"conv_in/kernel must be \d+x\d+ for this one, and is 54x64 in it"):
        lora.merge(digits, small)
