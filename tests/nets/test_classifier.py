"""The classifier of noisy images: its pooling recomputed in NumPy, and what it shares with the U-Net."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxdiff import network
from jaxdiff.nets.classifier import AttentionPool, Classifier, Encoder
from jaxdiff.nets.unet import UNet, UNetConfig
from jaxdiff.types import Cond

SMALL = UNetConfig(out_channels=3, channels=(8, 16), blocks=1, attention=(), head_dim=4, groups=4)
RICH = dataclasses.replace(
    SMALL, context_mode="multiply", num_classes=5, vector_dim=2, time_mode="scale_shift", attention=(1,), patch=2
)
X = np.random.default_rng(0).standard_normal((2, 8, 8, 2)).astype(np.float32)
T = np.array([-1, 700])  # network times: one image is clean
KEYS = jax.vmap(jax.random.key)(jnp.arange(2))
SHAPED = Cond(label=np.array([0, 5]), vector=np.ones((2, 2), np.float32))


def shapes_of(net, x=X, cond=None):
    return jax.eval_shape(net.init, jax.random.key(0), x, T, cond)["params"]


def shaken(shapes, seed=0):
    """Parameters with nothing left at zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def trained():
    """Parameters and, by one compilation, the logits and features of `SMALL`."""
    params = shaken(shapes_of(Classifier(SMALL)))

    def both(params):
        features = Encoder(SMALL).apply({"params": params["encoder"]}, X, T)
        return network(Classifier(SMALL))(params, X, T + 1)[0], features

    return params, *jax.jit(both)(params)


def pooled_by_hand(x, params, head_dim):
    """CLIP's pooling in float64, one head and one image after the other."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    B, _, _, C = x.shape
    out = np.zeros((B, C))
    for b, pixels in enumerate(np.asarray(x, np.float64).reshape(B, -1, C)):
        tokens = np.vstack([pixels.mean(0), pixels]) + params["positional_embedding"]
        q, k, v = (tokens @ params[n]["kernel"] + params[n]["bias"] for n in ("to_q", "to_k", "to_v"))
        for first in range(0, C, head_dim):
            head = slice(first, first + head_dim)
            scores = k[:, head] @ q[0, head] / np.sqrt(head_dim)
            weights = np.exp(scores - scores.max())
            out[b, head] = weights @ v[:, head] / weights.sum()
    return out


@pytest.mark.parametrize("head_dim", [2, None])
def test_pooling_is_the_mean_s_question_answered_by_all_pixels(head_dim):
    x = 2 * np.random.default_rng(1).standard_normal((2, 3, 5, 6)).astype(np.float32)
    params = shaken(jax.eval_shape(AttentionPool(head_dim).init, jax.random.key(0), x)["params"], seed=1)
    params = jax.tree.map(lambda x: 4 * x, params)  # far from equal weights
    pooled = jax.jit(AttentionPool(head_dim).apply)({"params": params}, x)
    # A dozen roundings of numbers of order 10, sums of 6 and 16 of them.
    np.testing.assert_allclose(pooled, pooled_by_hand(x, params, head_dim or 6), rtol=1e-4, atol=1e-4)


def test_pooling_knows_where_a_pixel_is_by_its_position_only():
    x = np.random.default_rng(2).standard_normal((1, 2, 3, 4)).astype(np.float32)
    net = AttentionPool(2)
    params = shaken(jax.eval_shape(net.init, jax.random.key(0), x)["params"])
    pool = jax.jit(lambda params, x: net.apply({"params": params}, x))
    blind = params | {"positional_embedding": np.zeros_like(params["positional_embedding"])}
    turned = x[:, ::-1, ::-1]
    np.testing.assert_allclose(pool(blind, turned), pool(blind, x), atol=1e-6)
    assert np.abs(pool(params, turned) - pool(params, x)).max() > 1e-3


def test_features_are_those_of_the_unet_s_bottom(trained):
    """With the parameters that both have put into a U-Net, its bottom normalised and pooled by hand."""
    params, _, features = trained
    encoder = params["encoder"]
    unet = shaken(shapes_of(UNet(SMALL)), seed=7)
    unet = {name: encoder.get(name, values) for name, values in unet.items()}
    only = lambda module, method: module.name == "mid_block"
    run = jax.jit(lambda params: UNet(SMALL).apply({"params": params}, X, T, capture_intermediates=only)[1])
    (bottom,) = run(unet)["intermediates"]["mid_block"]["__call__"]
    groups = np.asarray(bottom, np.float64).reshape(2, -1, SMALL.groups, 4)
    normed = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + SMALL.eps)
    h = normed.reshape(bottom.shape) * encoder["norm_out"]["scale"] + encoder["norm_out"]["bias"]
    wanted = pooled_by_hand(h / (1 + np.exp(-h)), encoder["pool"], SMALL.head_dim)
    np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-5)


def test_logits_are_an_affine_map_of_the_features(trained):
    params, logits, features = trained
    chex.assert_shape(logits, (2, 3))
    head = params["head"]
    np.testing.assert_allclose(logits, np.asarray(features) @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-6)
    assert np.abs(features[0] - features[1]).max() > 1e-2


def test_dropout_needs_keys_to_act(trained):
    params, logits, _ = trained
    net = Classifier(dataclasses.replace(SMALL, dropout=0.5))
    noisy = jax.jit(lambda params: network(net)(params, X, T + 1, None, KEYS)[0])(params)
    assert np.abs(noisy - logits).max() > 1e-3


def test_all_parameters_get_finite_gradients(trained):
    params, *_ = trained
    loss = lambda params: (Classifier(SMALL).apply({"params": params}, X, T) ** 2).sum()
    grads = jax.jit(jax.grad(loss))(params)
    chex.assert_tree_all_finite(grads)
    silent = [path for path, g in traverse_util.flatten_dict(grads).items() if np.abs(g).max() < 1e-6]
    assert all(path[-2:] == ("to_k", "bias") for path in silent), silent  # softmax does not see a shift of all keys


@pytest.mark.parametrize("config, cond", [(SMALL, None), (RICH, SHAPED)], ids=["plain", "rich"])
def test_what_it_shares_with_the_unet_has_the_same_names_and_shapes(config, cond):
    unet, ours = shapes_of(UNet(config), cond=cond), shapes_of(Encoder(config), cond=cond)
    own = {"norm_out", "pool"}
    assert own.isdisjoint(unet) and own < set(ours)
    shared = {name: shapes for name, shapes in ours.items() if name not in own}
    up = {name for name in unet if name.startswith(("up_blocks", "conv_norm_out", "conv_out"))}
    chex.assert_trees_all_equal_shapes_and_dtypes(shared, {k: v for k, v in unet.items() if k not in up})


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"remat": True}, {"patch": 2, "attention": (1,)}])
def test_logits_are_float32_whatever_the_config(change):
    net = Classifier(dataclasses.replace(SMALL, **change))
    logits, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), X, T)
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    if not change.get("patch"):
        chex.assert_trees_all_equal_shapes(variables["params"], shapes_of(Classifier(SMALL)))


def test_refused_inputs(trained):
    params, *_ = trained
    run = lambda x, cond=None: jax.eval_shape(Classifier(SMALL).apply, {"params": params}, x, T, cond)
    with pytest.raises(ValueError, match="takes no label"):
        run(X, SHAPED._replace(vector=None))
    with pytest.raises(ValueError, match="made for images with 16 positions at its bottom and these have 8x8"):
        run(np.zeros((2, 16, 16, 2), np.float32))
    with pytest.raises(ValueError, match="both sides must be multiples of 2"):
        run(np.zeros((2, 9, 9, 2), np.float32))
