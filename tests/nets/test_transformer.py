"""Cross-attention: what it reads, what it is edited by, and the published networks that are made of it."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxdiff
from jaxdiff import config as configs
from jaxdiff.nets.unet import UNet, UNetConfig
from jaxdiff.types import Cond

SMALL = UNetConfig(out_channels=2, channels=(8, 16), blocks=1, attention=(1,), groups=4, num_heads=2, context_dim=6)
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((3, 8, 8, 2)).astype(np.float32), 500
CONTEXT = RNG.standard_normal((3, 5, 6)).astype(np.float32)
SITES = ["down_blocks_1/attentions_0", "mid_block/attentions_0", "up_blocks_0/attentions_0", "up_blocks_0/attentions_1"]


@functools.cache
def params(config=SMALL):
    shapes = jax.eval_shape(UNet(config).init, jax.random.key(0), X, jnp.zeros(3), Cond(context=CONTEXT))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnames="config")
def run(cond, t=T, config=SMALL, weights=None):
    return jaxdiff.network(UNet(config))(params() if weights is None else weights, X, t, cond)


def keep(p, site, t):
    return p


def late_shift(shift, until, p, site, t):
    """Moves the cross-attention of each row by so many tokens, at levels up to a row's own."""
    moved = jax.vmap(lambda p, n: jnp.roll(p, n, axis=-1))(p, shift)
    return jnp.where((t <= until)[:, None, None, None], moved, p) if site.cross else p


STABLE_DIFFUSION_1 = configs.load("stable_diffusion_1").net
STABLE_DIFFUSION_2 = dataclasses.replace(
    STABLE_DIFFUSION_1, num_heads=1, head_dim=64, context_dim=1024, linear_projection=True
)


@pytest.mark.parametrize("config, count", [(STABLE_DIFFUSION_1, 859_520_964), (STABLE_DIFFUSION_2, 865_910_724)])
def test_stable_diffusion_has_its_parameters(config, count):
    cond = Cond(context=jax.ShapeDtypeStruct((1, 77, config.context_dim), jnp.float32))
    x, t = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    shapes = jax.eval_shape(UNet(config).init, jax.random.key(0), x, t, cond)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_inpainting_takes_the_mask_and_the_masked_image():
    config = dataclasses.replace(STABLE_DIFFUSION_1, image_channels=5)
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    cond = Cond(context=struct(1, 77, 768), image=struct(1, 64, 64, 5))
    shapes = jax.eval_shape(UNet(config).init, jax.random.key(0), struct(1, 64, 64, 4), struct(1), cond)
    assert shapes["params"]["conv_in"]["kernel"].shape == (3, 3, 9, 320)


def test_an_edit_that_does_nothing_is_the_identity():
    plain, none = run(Cond(context=CONTEXT))
    kept, aux = run(Cond(context=CONTEXT, attention_edit=Partial(keep)))
    assert none.maps is None and sorted(aux.maps) == [f"{site}/transformer_blocks_0/attn2" for site in SITES]
    chex.assert_trees_all_close(kept, plain, atol=1e-5)
    for probabilities in aux.maps.values():
        assert probabilities.shape == (3, 16, 5)
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


def test_an_edit_acts_on_its_row_at_its_levels_and_other_numbers_compile_nothing():
    plain, _ = run(Cond(context=CONTEXT))
    edited = jax.jit(chex.assert_max_traces(lambda *args: run(*args), n=1))
    with_edit = lambda shift, until: Cond(
        context=CONTEXT, attention_edit=Partial(late_shift, jnp.array(shift), jnp.array(until))
    )
    moved, _ = edited(with_edit([0, 2, 2], [T, T, T - 1]), jnp.full(3, T))
    chex.assert_trees_all_close(moved[0], plain[0], atol=1e-5)  # moved by nothing
    chex.assert_trees_all_close(moved[2], plain[2], atol=1e-5)  # only later
    assert np.abs(moved[1] - plain[1]).max() > 1e-3
    # What the tokens are called makes no difference: moving the probabilities is moving the values, not the keys.
    same, _ = edited(with_edit([0, 5, 2], [T, T, T - 1]), jnp.full(3, T))
    chex.assert_trees_all_close(same, plain, atol=1e-5)


def test_masked_tokens_are_not_read():
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    other = np.where(mask[..., None], CONTEXT, 7.0).astype(np.float32)
    some, all_of = run(Cond(context=CONTEXT, context_mask=mask))[0], run(Cond(context=CONTEXT))[0]
    chex.assert_trees_all_close(run(Cond(context=other, context_mask=mask))[0], some, atol=1e-6)
    chex.assert_trees_all_close(some[::2], all_of[::2], atol=1e-5)
    assert np.abs(some[1] - all_of[1]).max() > 1e-3
    edited = run(Cond(context=other, context_mask=mask, attention_edit=Partial(keep)))[0]
    chex.assert_trees_all_close(edited, some, atol=1e-5)
    short = run(Cond(context=CONTEXT[:, :2]))[0][1]
    chex.assert_trees_all_close(some[1], short, atol=1e-5)
    fused = run(Cond(context=other, context_mask=mask), config=dataclasses.replace(SMALL, attention_kernel="xla"))[0]
    chex.assert_trees_all_close(fused, some, atol=1e-5)


def test_checkpointing_changes_neither_outputs_nor_gradients_and_lets_edits_through():
    edit = Partial(late_shift, jnp.array([1, 2, 3]), jnp.array([T, T, 0]))
    cond = Cond(context=CONTEXT, attention_edit=edit)

    def loss(weights, config):
        return (run(cond, config=config, weights=weights)[0] ** 2).sum()

    config = dataclasses.replace(SMALL, channels=(8,), attention=(0,), mid_attention=False)
    plain, again = (
        jax.value_and_grad(loss)(params(config), dataclasses.replace(config, remat=remat)) for remat in (False, True)
    )
    chex.assert_trees_all_close(again, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "cond, words",
    [
        (Cond(), r"needs cond.context \[B, L, 6\]"),
        (Cond(context=CONTEXT[..., :5]), r"needs cond.context \[B, L, 6\], and this one is \(3, 5, 5\)"),
        (Cond(context=CONTEXT, label=jnp.zeros(3, int)), "takes no label"),
        (Cond(context=CONTEXT, context_mask=jnp.ones([3, 1], bool)), r"must be of the tokens \(3, 5\)"),
        (Cond(context=CONTEXT, image=X), "takes no image"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(cond, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(UNet(SMALL).apply, {"params": params()}, X, jnp.zeros(3), cond)


def test_attention_cannot_be_edited_where_there_is_no_context():
    net = UNet(dataclasses.replace(SMALL, context_dim=0))
    cond = Cond(attention_edit=Partial(keep))
    with pytest.raises(ValueError, match="takes no attention_edit"):
        jax.eval_shape(net.init, jax.random.key(0), X, jnp.zeros(3), cond)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"num_heads": 3}, "num_heads=3"),
        ({"num_heads": 2, "head_dim": 4}, "leave one out"),
        ({"context_dim": -1}, "at least 0"),
        ({"transformer_blocks": 0}, "at least 1"),
        ({"attention": (), "mid_attention": False}, "read by attention"),
        ({"context_dim": 0, "context_length": 77}, "networks with context_dim"),
    ],
)
def test_shapes_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **options)
