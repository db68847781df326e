"""Diffusion transformers: the published network, its parameter counts, and what conditions and positions do."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from helpers import load_golden, tiny_config

import jaxdiff
from jaxdiff import Cond, denoise
from jaxdiff.adapt import lora
from jaxdiff.nets.dit import DiT, turned, waves_of_places
from jaxdiff.nets.dit_config import DiTConfig, dit
from jaxdiff.train.loop import fit

SMALL = DiTConfig(out_channels=3, width=16, depth=2, heads=2)
X, T = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32), jnp.array([3, 700])


def shaken(config, cond=None, x=X):
    """Parameters without zeros, which would hide what they multiply."""
    shapes = jax.eval_shape(DiT(config).init, jax.random.key(0), x, T, cond)["params"]
    values = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * values.standard_normal(leaf.shape), jnp.float32), shapes)


def run(config, params, cond=None, x=X):
    return jax.jit(DiT(config).apply)({"params": params}, x, T, cond)


def test_output_is_diffusers_with_the_same_weights():
    golden, params = load_golden("dit")
    patches = params["params"]["pos_embed"]["proj"]  # a convolution there, which is a product of patches
    patches["kernel"] = patches["kernel"].reshape(-1, patches["kernel"].shape[-1])
    config = DiTConfig(out_channels=6, width=16, depth=2, heads=2, num_classes=5, eps=1e-5)
    x, cond = golden["x"].transpose(0, 2, 3, 1), Cond(label=golden["label"])
    shapes = jax.eval_shape(DiT(config).init, jax.random.key(0), x, golden["t"], cond)
    chex.assert_trees_all_equal_shapes(params, shapes)  # the same names, nothing missing or left over
    y = DiT(config).apply(params, x, golden["t"], cond)
    assert np.abs(golden["out"]).max() > 0.3
    chex.assert_trees_all_close(y, golden["out"].transpose(0, 2, 3, 1), atol=1e-5)


COUNTS = {"S": 32_865_056, "B": 130_315_808, "L": 457_840_672, "XL": 674_834_720}  # the last as published


@pytest.mark.parametrize("size, count", COUNTS.items())
def test_parameter_counts(size, count):
    config = dit(size, patch=2, out_channels=8, num_classes=1000)
    shapes = jax.eval_shape(config.make().init, jax.random.key(0), *config.example((32, 32, 4)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_starts_at_zero_and_all_parameters_get_finite_gradients():
    config = dataclasses.replace(SMALL, qk_norm=True, num_classes=3, vector_dim=2, context_dim=5)
    cond = Cond(label=jnp.array([0, 3]), vector=jnp.ones([2, 2]), context=jnp.ones([2, 4, 5]))
    params = jax.jit(DiT(config).init)(jax.random.key(0), X, T, cond)["params"]
    chex.assert_trees_all_equal(run(config, params, cond), jnp.zeros((2, 8, 8, 3)))
    params = shaken(config, cond)
    grads = jax.jit(jax.grad(lambda params: (DiT(config).apply({"params": params}, X, T, cond) ** 2).sum()))(params)
    chex.assert_tree_all_finite(grads)
    silent = [path for path, g in traverse_util.flatten_dict(grads).items() if not np.any(g)]
    assert not silent


CONDITIONS = {
    "label": ({"num_classes": 3}, np.array([0, 1])),
    "vector": ({"vector_dim": 4}, np.ones((2, 4), np.float32)),
    "context": ({"context_dim": 6}, np.random.default_rng(2).standard_normal((2, 5, 6)).astype(np.float32)),
}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_conditions_change_the_output_of_their_row_only(kind):
    fields, values = CONDITIONS[kind]
    config = dataclasses.replace(SMALL, **fields)
    changed = values.copy()
    changed[1] = changed[1] + 1 if kind != "context" else -changed[1]
    params = shaken(config, Cond(**{kind: values}))
    before, after = (run(config, params, Cond(**{kind: v})) for v in (values, changed))
    chex.assert_trees_all_close(before[0], after[0], atol=1e-5)
    assert np.abs(before[1] - after[1]).max() > 1e-3
    with pytest.raises(ValueError, match=f"this network takes no {kind}"):
        run(SMALL, shaken(SMALL), Cond(**{kind: values}))


@pytest.mark.parametrize("positions", ["sin_cos", "rotary"])
def test_any_size_and_aspect(positions):
    """And places count: the rows and columns of an image are not exchanged without a trace."""
    config = dataclasses.replace(SMALL, positions=positions)
    params = shaken(config)
    wide = jnp.asarray(np.random.default_rng(3).standard_normal((2, 4, 12, 3)), jnp.float32)
    assert run(config, params, x=wide).shape == wide.shape
    turned_over = run(config, params, x=X.swapaxes(1, 2)).swapaxes(1, 2)
    assert np.abs(turned_over - run(config, params)).max() > 1e-2
    with pytest.raises(ValueError, match="images of 7x8 do not fit patches of 2x2"):
        run(config, params, x=X[:, :7])


def test_waves_of_places_are_those_of_their_column_and_row():
    waves = waves_of_places((3, 5), 8)
    omega = 1 / 10000 ** (np.arange(2) / 2)
    for place, (row, column) in enumerate((r, c) for r in range(3) for c in range(5)):
        halves = [np.concatenate([np.sin(p * omega), np.cos(p * omega)]) for p in (column, row)]
        np.testing.assert_allclose(waves[place], np.concatenate(halves), atol=1e-6)


def test_rotary_products_depend_on_distances():
    rng = np.random.default_rng(0)
    q, k = (jnp.broadcast_to(jnp.asarray(rng.standard_normal(8), jnp.float32), (1, 20, 1, 8)) for _ in range(2))
    products = np.einsum("bqhd,bkhd->qk", turned(q, (4, 5)), turned(k, (4, 5))).reshape(4, 5, 4, 5)
    np.testing.assert_allclose(products[0, 0, 2, 3], products[1, 1, 3, 4], atol=1e-5)
    np.testing.assert_allclose(products[2, 4, 0, 1], products[3, 3, 1, 0], atol=1e-5)
    assert abs(products[0, 0, 2, 3] - products[0, 0, 3, 2]) > 1e-3


def test_attention_edits_and_maps():
    """Prompt-to-prompt's edits reach both attentions of each block, and maps are those of the context."""
    config = dataclasses.replace(SMALL, context_dim=6)
    context = jnp.asarray(CONDITIONS["context"][1])
    params, sites = shaken(config, Cond(context=context)), []

    def edit(probabilities, site, t):
        sites.append((site.cross, site.size))
        return probabilities

    apply = denoise.network(DiT(config))
    plain, _ = apply(params, X, T + 1, Cond(context=context))
    edited, aux = apply(params, X, T + 1, Cond(context=context, attention_edit=jax.tree_util.Partial(edit)))
    np.testing.assert_allclose(plain, edited, atol=1e-5)
    assert sites == [(False, (4, 4)), (True, (4, 4))] * 2
    assert {leaf.shape for leaf in jax.tree.leaves(aux.maps)} == {(2, 16, 5)} and len(aux.maps) == 2


def test_rematerialised_it_is_the_same():
    config = dataclasses.replace(SMALL, num_classes=3)
    cond = Cond(label=jnp.array([0, 1]))
    params = shaken(config, cond)
    same = run(dataclasses.replace(config, remat=True), params, cond)
    chex.assert_trees_all_close(run(config, params, cond), same, atol=1e-6)


def test_loras_find_its_attention():
    params = shaken(SMALL)
    factors = lora.init(jax.random.key(0), params, 2, lora.pattern("attention")).factors
    assert len(factors) == 2 * 4


def test_trains_from_a_config(tmp_path):
    """As any network: labels, checkpoints, previews."""
    config = tiny_config(steps=4, save_every=4, log_every=2)
    net = DiTConfig(out_channels=1, width=32, depth=1, heads=2, patch=4, num_classes=10)
    diffusion = dataclasses.replace(
        config.diffusion, schedule="rectified_flow", predict="flow", levels="logit_normal", cond_dropout=0.1
    )
    state = fit(dataclasses.replace(config, net=net, diffusion=diffusion), run=tmp_path / "run")
    assert int(state.step) == 4
    images = jaxdiff.generate(jaxdiff.load(str(tmp_path / "run")), labels=[3], num=8, guidance=2.0, steps=2)
    assert images.shape == (8, 28, 28, 1)


BAD = {
    "heads": ({"heads": 3}, "width=16 must be a multiple of heads=3"),
    "rotary": ({"positions": "rotary", "width": 12, "heads": 2}, "heads of 6 channels cannot be turned"),
    "context": ({"context_length": 3}, "context_length=3 is of networks with context_dim"),
    "cudnn": ({"attention_kernel": "cudnn"}, "needs dtype='bfloat16'"),
    "patch": ({"patch": 0}, "must be above 0"),
    "dropout": ({"dropout": 1.0}, r"must lie in \[0, 1\)"),
}


@pytest.mark.parametrize("fields, message", BAD.values(), ids=BAD)
def test_mistakes(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **fields)
