"""Joint attention of image and text: the published network, its parameter counts, positions and what is refused."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import load_golden

import jaxdiff
from jaxdiff import Cond, denoise
from jaxdiff.adapt import lora
from jaxdiff.model.interop import mapping, weights
from jaxdiff.nets.mmdit import MMDiT, middle_waves
from jaxdiff.nets.mmdit_config import MMDiTConfig

TINY = MMDiTConfig(3, depth=3, heads=2, head_dim=8, context_dim=6, vector_dim=5, places=9, base_places=4, qk_norm=False)
CONFIGS = {"3": TINY, "3.5": dataclasses.replace(TINY, qk_norm=True, dual_attention=(0, 1))}
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 6, 3)), jnp.float32)
COND = Cond(context=jnp.ones([2, 5, 6]), vector=jnp.ones([2, 5]))


def shapes_of(config, shape=(8, 6, 3)):
    return jax.eval_shape(config.make().init, jax.random.key(0), *config.example(shape))["params"]


def shaken(config):
    """Parameters without zeros, which would hide what they multiply."""
    values = np.random.default_rng(1)
    shapes = shapes_of(config)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * values.standard_normal(leaf.shape), jnp.float32), shapes)


def run(config, params, x=X, cond=COND):
    return jax.jit(MMDiT(config).apply)({"params": params}, x, jnp.array([17.0, 950.5]), cond)


@pytest.mark.parametrize("name", CONFIGS)
def test_output_is_diffusers_with_the_same_weights(name):
    arrays, _ = load_golden("mmdit")
    arrays = {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}
    published = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
    positions, config = published.pop("pos_embed.pos_embed"), CONFIGS[name]
    entries = mapping.entries(shapes_of(config), patch=2)
    tensors = weights.Tensors({name: value.shape for name, value in published.items()}, published.get)
    params = weights.read(entries, tensors, name)  # the same names, nothing missing or left over
    waves = positions.reshape(9, 9, 16)[2:6, 3:6].reshape(12, 16)  # the middle, as diffusers cuts it
    np.testing.assert_allclose(middle_waves((4, 3), config), waves, atol=1e-6)
    x, out = (arrays[key].transpose(0, 2, 3, 1) for key in ("x", "out"))
    cond = Cond(context=arrays["context"], vector=arrays["vector"])
    found = MMDiT(config).apply({"params": params}, x, arrays["t"], cond)
    assert np.abs(out).max() > 1
    chex.assert_trees_all_close(found, out, atol=1e-5)


MEDIUM_3 = MMDiTConfig()
COUNTS = {  # without positions: of Stable Diffusion 3 medium, 3.5 medium and 3.5 large
    "3 medium": (MEDIUM_3, 2_028_328_000),
    "3.5 medium": (
        dataclasses.replace(MEDIUM_3, qk_norm=True, dual_attention=tuple(range(13)), places=384),
        2_243_171_520,
    ),
    "3.5 large": (dataclasses.replace(MEDIUM_3, depth=38, heads=38, qk_norm=True), 8_056_627_520),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    config, count = COUNTS[name]
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes_of(config, (128, 128, 16))))
    assert found == count


def test_starts_at_zero_and_all_parameters_get_gradients():
    config = CONFIGS["3.5"]
    params = jax.jit(MMDiT(config).init)(jax.random.key(0), X, jnp.zeros(2), COND)["params"]
    chex.assert_trees_all_equal(run(config, params), jnp.zeros((2, 8, 6, 3)))
    square = lambda params: (MMDiT(config).apply({"params": params}, X, jnp.array([3.0, 700.0]), COND) ** 2).sum()
    grads = jax.jit(jax.grad(square))(shaken(config))
    chex.assert_tree_all_finite(grads)
    silent = {"/".join(path) for path, leaf in flatten_dict(grads).items() if not np.any(leaf)}
    of_text = "transformer_blocks_2/attn/"  # the last block's queries of the text, which no output has
    assert silent == {f"{of_text}{name}" for name in ("add_q_proj/bias", "add_q_proj/kernel", "norm_added_q/scale")}


def test_rows_are_independent_and_every_condition_counts():
    params, config = shaken(TINY), TINY
    before = run(config, params)
    for changed in (
        COND._replace(context=COND.context.at[1].set(-2.0)),
        COND._replace(vector=COND.vector.at[1].set(4.0)),
    ):
        after = run(config, params, cond=changed)
        chex.assert_trees_all_close(before[0], after[0], atol=1e-5)
        assert jnp.abs(before[1] - after[1]).max() > 1e-3


def test_precision_memory_and_forward_mode():
    params = shaken(TINY)
    exact = run(TINY, params)
    chex.assert_trees_all_close(run(dataclasses.replace(TINY, remat=True), params), exact, atol=1e-5)
    half = run(dataclasses.replace(TINY, dtype="bfloat16"), params)
    assert half.dtype == jnp.float32 and 0 < jnp.abs(half - exact).max() < 0.1 * jnp.abs(exact).max()
    _, change = jax.jvp(lambda x: run(TINY, params, x), (X,), (jnp.ones_like(X),))
    step = 1e-3
    numeric = (run(TINY, params, X + step) - run(TINY, params, X - step)) / (2 * step)
    np.testing.assert_allclose(change, numeric, atol=0.03 * float(jnp.abs(numeric).max()))


def test_other_sides_and_a_lora():
    params = shaken(TINY)
    assert run(TINY, params, jnp.ones([2, 18, 4, 3])).shape == (2, 18, 4, 3)
    corrections = lora.init(jax.random.key(0), params, 2)
    assert any("add_q_proj" in path for path in corrections.factors) and any(
        "to_out_0" in p for p in corrections.factors
    )
    apply = denoise.network(MMDiT(TINY))
    chex.assert_trees_all_equal(apply(lora.merge(params, corrections), X, 5, COND)[0], apply(params, X, 5, COND)[0])


MISTAKES = {
    "odd sides": ({"x": jnp.ones([2, 7, 6, 3])}, "do not fit patches of 2x2"),
    "too large": ({"x": jnp.ones([2, 20, 6, 3])}, "larger than the 18 that have positions"),
    "no context": ({"cond": COND._replace(context=None)}, r"needs cond.context \[B, L, 6\]"),
    "no vector": ({"cond": COND._replace(vector=None)}, r"needs cond.vector \[B, 5\]"),
    "a mask": ({"cond": COND._replace(context_mask=jnp.ones([2, 5], bool))}, "takes no cond.context_mask"),
    "an edit": ({"cond": COND._replace(attention_edit=lambda p, site, t: p)}, "no cond.attention_edit"),
    "a label": ({"cond": COND._replace(label=jnp.ones(2, int))}, "takes no label"),
}


@pytest.mark.parametrize("arguments, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(arguments, message):
    arguments = {"x": X, "cond": COND} | arguments
    with pytest.raises(ValueError, match=message):
        MMDiT(TINY).apply({"params": shaken(TINY)}, arguments["x"], jnp.zeros(2), arguments["cond"])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"depth": 0}, "depth=0"),
        ({"heads": 1, "head_dim": 3}, "multiple of 4"),
        ({"dual_attention": (24,)}, "must name blocks 0..23"),
        ({"attention_kernel": "cudnn"}, "needs dtype='bfloat16'"),
        ({"context_length": -1}, "context_length=-1"),
    ],
)
def test_mistakes_of_a_specification(fields, message):
    with pytest.raises(ValueError, match=message):
        MMDiTConfig(**fields)


def test_it_is_a_choice():
    assert jaxdiff.nets.spec.NETS.choice("mmdit") == MMDiTConfig()
