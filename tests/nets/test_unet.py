"""The U-Net: its size, its names, its conditions, and its output beside diffusers' with the same weights."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from helpers import load_golden

from jaxdiff import xla
from jaxdiff.nets.unet import UNet, UNetConfig, label_embedding
from jaxdiff.types import Cond

SMALL = UNetConfig(out_channels=2, channels=(8, 16), blocks=1, attention=(1,), groups=4)
X = np.random.default_rng(0).standard_normal((2, 8, 8, 2)).astype(np.float32)
T = np.array([3, 700])


def shaken(config, cond=None, seed=0):
    """Parameters with nothing left at zero."""
    shapes = jax.eval_shape(lambda: UNet(config).init(jax.random.key(0), X, T, cond))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32), shapes)


def run(config, cond=None, params=None, keys=None):
    return jax.jit(UNet(config).apply)(params or shaken(config, cond), X, T, cond, keys)


def test_ddpm_s_cifar10_network_has_its_parameters():
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(UNet(UNetConfig()).init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 35_746_307


LATENT = {
    "context_dim": 6,
    "attention": (0,),
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0.0,
    "eps": 1e-5,
}
VARIANTS = {
    "ddpm": {},
    "stable_diffusion_1": LATENT | {"num_heads": 2},
    "stable_diffusion_2": LATENT | {"head_dim": 8, "linear_projection": True, "image_channels": 3},
    "per_resolution": LATENT
    | {"attention": (0, 1), "blocks": (1, 2), "num_heads": (1, 4), "transformer_blocks": (2, 1)},
    "scale_shift": {
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0.0,
        "eps": 1e-5,
        "head_dim": 4,
        "time_mode": "scale_shift",
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_output_is_diffusers_with_the_same_weights(name):
    golden, params = load_golden(f"unet_{name}")
    config = dataclasses.replace(SMALL, **VARIANTS[name])
    x, image = np.split(golden["x"].transpose(0, 2, 3, 1), [2], axis=-1)
    cond = Cond(context=golden.get("context"), image=image if config.image_channels else None)
    shapes = jax.eval_shape(UNet(config).init, jax.random.key(0), x, golden["t"], cond)
    chex.assert_trees_all_equal_shapes(params, shapes)  # the same names, nothing missing or left over
    y = UNet(config).apply(params, x, golden["t"], cond)
    assert np.abs(golden["y"]).max() > 0.5
    chex.assert_trees_all_close(y, golden["y"].transpose(0, 2, 3, 1), atol=1e-4)


def test_starts_at_zero_and_all_parameters_get_finite_gradients():
    net = UNet(SMALL)
    params = jax.jit(net.init)(jax.random.key(0), X, T)
    chex.assert_trees_all_equal(net.apply(params, X, T), jnp.zeros((2, 8, 8, 2)))
    grads = jax.jit(jax.grad(lambda params: (net.apply(params, X, T) ** 2).sum()))(shaken(SMALL))
    chex.assert_tree_all_finite(grads)
    silent = [path for path, g in traverse_util.flatten_dict(grads).items() if not np.any(g)]
    assert all(path[-2:] == ("to_k", "bias") for path in silent), silent  # softmax does not see a shift of all keys


@pytest.mark.parametrize("mode", ["add", "multiply"])
@pytest.mark.parametrize("kind", ["label", "vector"])
def test_conditions_change_the_output_of_their_row_only(mode, kind):
    config = dataclasses.replace(
        SMALL, context_mode=mode, num_classes=3 * (kind == "label"), vector_dim=4 * (kind == "vector")
    )
    values = {"label": np.array([0, 1]), "vector": np.ones((2, 4), np.float32)}[kind]
    changed = values.copy()
    changed[1] = changed[1] + 1
    params = shaken(config, Cond(**{kind: values}))
    before, after = (run(config, Cond(**{kind: v}), params) for v in (values, changed))
    chex.assert_trees_all_close(before[0], after[0], atol=1e-5)
    assert np.abs(before[1] - after[1]).max() > 1e-3


def test_multiplied_context_starts_as_the_identity():
    config = dataclasses.replace(SMALL, context_mode="multiply", num_classes=3)
    params = jax.jit(UNet(config).init)(jax.random.key(0), X, T, Cond(label=np.array([0, 1])))["params"]
    gains = [v for path, v in traverse_util.flatten_dict(params).items() if "context_emb_proj" in path]
    assert len(gains) > 0 and not any(np.any(v) for v in gains)


def test_null_label_is_one_more_row():
    config = dataclasses.replace(SMALL, num_classes=3)
    params = shaken(config, Cond(label=np.array([0, 1])))
    assert params["params"]["class_embedding"]["embedding"].shape[0] == 4
    chex.assert_tree_all_finite(run(config, Cond(label=np.array([3, 3])), params))
    assert np.isnan(run(config, Cond(label=np.array([-1, 4])), params)).all()  # not counted from the end, nor cut


@pytest.mark.parametrize("mode", ["add", "multiply"])
def test_a_label_is_its_embedding(mode):
    """By which labels can be mixed, and one be looked for; the gradient is not lost."""
    config = dataclasses.replace(SMALL, context_mode=mode, num_classes=3)
    params, label = shaken(config, Cond(label=np.array([0, 1]))), np.array([2, 3])
    rows = label_embedding(params["params"], label)
    np.testing.assert_array_equal(run(config, Cond(label=rows), params), run(config, Cond(label=label), params))
    slope = jax.grad(lambda rows: run(config, Cond(label=rows), params).sum())(rows)
    assert np.abs(slope).max(1).min() > 0
    assert np.isnan(label_embedding(params["params"], np.array([-1, 4]))).all()


def test_dropout_needs_keys_to_act():
    config = dataclasses.replace(SMALL, dropout=0.5)
    params, keys = shaken(config), jax.vmap(jax.random.key)(jnp.arange(2))
    chex.assert_trees_all_equal(run(config, params=params), run(SMALL, params=params))
    assert np.abs(run(config, params=params, keys=keys) - run(config, params=params)).max() > 1e-3


def test_patches():
    chex.assert_shape(run(dataclasses.replace(SMALL, patch=2)), (2, 8, 8, 2))


def recomputed(B=8, **shape):
    """A network with and without remat: their configs, params -> loss of each, and the parameters' shapes."""
    x, t = np.random.default_rng(0).standard_normal((B, 16, 16, 2)).astype(np.float32), np.arange(B)
    cond, keys = Cond(label=t % 3), jax.vmap(jax.random.key)(t)
    plain = dataclasses.replace(SMALL, channels=(8,), num_classes=3, context_mode="multiply", dropout=0.3, **shape)
    nets = UNet(dataclasses.replace(plain, remat=True)), UNet(plain)
    losses = [lambda params, net=net: (net.apply(params, x, t, cond, keys) ** 2).mean() for net in nets]
    shapes = [jax.eval_shape(net.init, jax.random.key(0), x, t, cond) for net in nets]
    chex.assert_trees_all_equal_shapes_and_dtypes(*shapes)  # and names
    return losses, shapes[0]


def test_recomputing_blocks_changes_memory_and_nothing_else():
    losses, shapes = recomputed(attention=(0,), blocks=2)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: 0.2 * rng.standard_normal(s.shape).astype(np.float32), shapes)
    ours, plain = (
        jax.jit(jax.value_and_grad(loss)).lower(params).compile(compiler_options=xla.CPU_FLAGS) for loss in losses
    )
    assert ours.memory_analysis().temp_size_in_bytes < 0.65 * plain.memory_analysis().temp_size_in_bytes
    # Dropout's masks too: they are drawn again, from the same keys and names.
    (loss, grads), (wanted, wanted_grads) = ours(params), plain(params)
    chex.assert_trees_all_close(loss, wanted, rtol=1e-6)
    atol = 1e-6 * max(float(jnp.abs(g).max()) for g in jax.tree.leaves(wanted_grads))
    chex.assert_trees_all_close(grads, wanted_grads, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("attention", [(), (0,)], ids=["blocks", "blocks and attention"])
def test_little_is_kept_of_blocks_that_are_recomputed(attention):
    losses, shapes = recomputed(attention=attention, mid_attention=bool(attention), blocks=3)
    kept = [jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], shapes) for loss in losses]
    ours, plain = (sum(x.size for x in jax.tree.leaves(pull)) for pull in kept)
    assert ours < 0.25 * plain


def test_kernels_of_attention_give_the_same_output():
    params = shaken(SMALL)
    config = dataclasses.replace(SMALL, attention_kernel="xla")
    chex.assert_trees_all_close(run(config, params=params), run(SMALL, params=params), rtol=1e-4, atol=1e-4)
    lowered = jax.jit(UNet(config).apply).lower(params, X, T).as_text()
    assert lowered != jax.jit(UNet(SMALL).apply).lower(params, X, T).as_text()


CUDNN = {"attention_kernel": "cudnn", "dtype": "bfloat16"}


def test_cudnn_is_asked_for_by_name_and_in_16_bits(monkeypatch):
    asked = []

    def instead(q, k, v, mask, implementation):
        asked.append((implementation, q.shape, {x.dtype for x in (q, k, v)}))
        return q

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    jax.eval_shape(UNet(dataclasses.replace(SMALL, head_dim=8, **CUDNN)).init, jax.random.key(0), X, T)
    assert asked == [("cudnn", (2, 16, 2, 8), {jnp.dtype("bfloat16")})] * 4


def test_cudnn_is_refused_off_gpus():
    config = dataclasses.replace(SMALL, **CUDNN)
    config.check_platform("gpu")
    for platform in ("cpu", "tpu"):
        with pytest.raises(ValueError, match=f"^attention_kernel='cudnn' runs on GPUs only.* {platform.upper()}.*$"):
            config.check_platform(platform)
        for kernel in ("plain", "xla"):
            dataclasses.replace(SMALL, attention_kernel=kernel).check_platform(platform)


REFUSED = {
    "groups": ({"channels": (8, 18)}, "channels=18 cannot be divided into groups=4: groups=2 would do"),
    "heads": ({"head_dim": 3}, "channels=8 cannot be divided into heads of head_dim=3"),
    "heads of a resolution": ({"num_heads": (1, 3)}, "channels=16 cannot be divided into num_heads=3"),
    "resolutions": ({"blocks": (1, 2, 1)}, "blocks=(1, 2, 1) must be one number, or one for each of the 2 resolutions"),
    "no blocks": ({"blocks": (1, 0)}, "blocks=(1, 0) must be at least 1"),
    "attention": ({"attention": (2,)}, "must name positions 0..1"),
    "dropout": ({"dropout": 1.0}, "dropout in"),
    "cudnn in float32": ({"attention_kernel": "cudnn"}, "attention_kernel='cudnn' needs dtype='bfloat16'"),
    "cudnn, uneven heads": ({**CUDNN, "head_dim": 4}, "a head_dim that is a multiple of 8 up to 256, not 4"),
    "cudnn, wide heads": ({**CUDNN, "channels": (8, 264)}, "a head_dim that is a multiple of 8 up to 256, not 264"),
}


@pytest.mark.parametrize("fields, message", REFUSED.values(), ids=REFUSED)
def test_refused_configs(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(SMALL, **fields)


def test_refused_inputs():
    for config, cond, message in (
        (SMALL, Cond(label=T), "takes no label"),
        (SMALL, Cond(context=X), "takes no context"),
        (dataclasses.replace(SMALL, num_classes=3), None, "needs cond.label"),
        (dataclasses.replace(SMALL, num_classes=3), Cond(label=np.ones([2, 7])), r"needs cond.label \[B, 32\]"),
        (dataclasses.replace(SMALL, patch=8), None, "both sides must be multiples of 16"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(UNet(config).init, jax.random.key(0), X, T, cond)
