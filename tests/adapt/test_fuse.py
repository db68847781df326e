"""Fusion of LoRAs compared with numpy's least squares and with averaging; its result is a LoRA like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.adapt import activations, adapter, fuse, lora

RNG = np.random.default_rng(0)
PATH, OTHER = "attn1/to_q/kernel", "conv_in/kernel"


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def small(rank=3, scale=0.7, size=12, paths=(PATH,)):
    """LoRA of layers with `size` inputs and 5 outputs."""
    factors = {path: lora.Factors(normal(size, rank), normal(rank, 5)) for path in paths}
    return lora.Lora(factors, dict.fromkeys(factors, jnp.float32(scale)))


def change(some, path=PATH):
    """s A B in float64."""
    down, up = (np.asarray(factor, np.float64) for factor in some.factors[path])
    return float(some.scale[path]) * down @ up


def grams(x, *more):
    """Gram matrices of one layer, or of two."""
    return {path: activations.gram(inputs) for path, inputs in zip((PATH, OTHER), (x, *more))}


def error(found, wanted, x):
    """Relative error at the inputs."""
    x = np.asarray(x, np.float64)
    return float(np.linalg.norm(x @ (change(found) - wanted)) / np.linalg.norm(x @ wanted))


def test_it_is_least_squares_of_the_stacked_system():
    xs, loras = [normal(40, 12) for _ in range(3)], [small(1, 0.5), small(2), small(4, 1.5)]
    found = fuse.fused(loras, [grams(x) for x in xs], ridge=0.0)
    stacked = np.concatenate(xs).astype(np.float64)
    y = np.concatenate([x.astype(np.float64) @ change(one) for x, one in zip(xs, loras)])
    np.testing.assert_allclose(change(found), np.linalg.lstsq(stacked, y, rcond=None)[0], atol=2e-5)
    down, up = found.factors[PATH]
    assert down.shape == (12, 7) and up.shape == (7, 5) and float(found.scale[PATH]) == 1
    assert down.dtype == up.dtype == found.scale[PATH].dtype == jnp.float32


def test_a_ridge_is_least_squares_with_more_rows():
    """Rows sqrt(ridge) 1 below the inputs and 0 below the outputs; the ridge is a fraction of the mean diagonal."""
    xs, loras, ridge = [normal(40, 12), normal(40, 12)], [small(), small()], 0.3
    found = fuse.fused(loras, [grams(x) for x in xs], ridge)
    stacked = np.concatenate(xs).astype(np.float64)
    rows = np.sqrt(ridge * np.square(stacked).sum() / 12) * np.eye(12)
    y = np.concatenate([*(x.astype(np.float64) @ change(one) for x, one in zip(xs, loras)), np.zeros([12, 5])])
    np.testing.assert_allclose(change(found), np.linalg.lstsq(np.concatenate([stacked, rows]), y)[0], atol=2e-5)


def test_one_concept_is_reproduced_at_its_inputs():
    one, x = small(), normal(60, 12)
    assert error(fuse.fused([one], [grams(x)], ridge=1e-12), change(one), x) < 1e-6
    alike = normal(60, 12) * np.geomspace(1, 1e-5, 12, dtype=np.float32) @ normal(12, 12)  # singular in float32
    assert error(fuse.fused([one], [grams(alike)], ridge=1e-12), change(one), alike) < 1e-3


def test_concepts_of_other_inputs_are_all_reproduced_and_not_by_their_average():
    """With inputs in four dimensions each: fused LoRAs reproduce each update, averaged ones a third of it."""
    axes = np.linalg.qr(RNG.standard_normal((12, 12)))[0]
    xs, loras = [normal(40, 4) @ axes[i : i + 4].astype(np.float32) for i in (0, 4, 8)], [small() for _ in range(3)]
    found, average = fuse.fused(loras, [grams(x) for x in xs], ridge=1e-9), fuse.averaged(loras)
    for x, one in zip(xs, loras):
        assert error(found, change(one), x) < 1e-5 and error(average, change(one), x) > 0.5
    left = lora.Lora({PATH: lora.Factors(np.eye(12, 6, dtype=np.float32), normal(6, 5))}, {PATH: jnp.float32(1)})
    right = lora.Lora({PATH: lora.Factors(np.eye(12, 6, -6, dtype=np.float32), normal(6, 5))}, {PATH: jnp.float32(1)})
    x = normal(40, 12) * (np.arange(12) < 6)
    assert (
        error(fuse.averaged([left, right]), change(left) / 2, x) < 1e-6
    )  # halved, because the other update is zero there
    assert error(fuse.fused([left, right], [grams(x), grams(x[:, ::-1])], 1e-9), change(left), x) < 1e-5


def test_other_inputs_are_unchanged():
    one, x = small(), normal(40, 12) * (np.arange(12) < 6)
    found = change(fuse.fused([one], [grams(x)]))
    np.testing.assert_allclose(found[6:], 0, atol=1e-6)
    np.testing.assert_allclose(found[:6], change(one)[:6], atol=2e-2)
    assert (change(fuse.fused([one], [grams(0 * x)])) == 0).all()  # all inputs are 0


def test_a_layer_without_an_update_is_unchanged_at_that_concept_s_inputs():
    both, one = small(paths=(PATH, OTHER)), small()
    x, y = normal(40, 12) * (np.arange(12) < 6), normal(40, 12) * (np.arange(12) >= 4)  # two dimensions are shared
    found = fuse.fused([both, one], [grams(x, x), grams(y, y)], ridge=0.0)
    stacked = np.concatenate([x, y]).astype(np.float64)
    wanted = np.concatenate([x.astype(np.float64) @ change(both, OTHER), np.zeros([40, 5])])
    np.testing.assert_allclose(change(found, OTHER), np.linalg.lstsq(stacked, wanted)[0], atol=1e-4)
    without = fuse.fused([both, one], [grams(x, x), grams(y)], ridge=0.0)
    np.testing.assert_allclose(change(without, OTHER)[:6], change(both, OTHER)[:6], atol=1e-4)
    np.testing.assert_allclose(change(without), change(found), atol=1e-6)


def test_updates_of_zero_change_nothing_bit_for_bit():
    params = {"attn1": {"to_q": {"kernel": normal(12, 5)}}, "conv_in": {"kernel": normal(2, 2, 3, 5)}}
    loras = [lora.init(jax.random.key(i), params, rank, "kernel$") for i, rank in enumerate((2, 3))]
    products = [grams(normal(40, 12), normal(40, 12)) for _ in loras]
    for joined in (fuse.fused(loras, products), fuse.averaged(loras), fuse.averaged(loras, [3.0, -2.0])):
        merged = lora.merge(params, joined)
        for after, before in zip(jax.tree.leaves(merged), jax.tree.leaves(params)):
            np.testing.assert_array_equal(np.asarray(after).view(np.int32), before.view(np.int32))


def test_it_is_saved_and_merged_like_any_other():
    params = {"attn1": {"to_q": {"kernel": normal(12, 5)}}}
    found = fuse.fused([small(), small()], [grams(normal(40, 12)), grams(normal(40, 12))])
    content = adapter.to_bytes(adapter.Adapter({}, {"unet": found}), "float32")
    merged = lora.merge(params, adapter.from_bytes(content).loras["unet"], 0.5)["attn1"]["to_q"]["kernel"]
    np.testing.assert_allclose(merged, params["attn1"]["to_q"]["kernel"] + change(found) / 2, atol=1e-5)


def test_an_average_is_the_weighted_sum_of_updates_and_other_weights_do_not_recompile():
    loras, run = [small(2, 0.5, paths=(PATH, OTHER)), small(4, 1.5)], jax.jit(fuse.averaged)
    for weights in ([0.2, 0.9], [1.0, -3.0]):
        found = run(loras, jnp.array(weights))
        np.testing.assert_allclose(
            change(found), weights[0] * change(loras[0]) + weights[1] * change(loras[1]), atol=1e-5
        )
        np.testing.assert_allclose(change(found, OTHER), weights[0] * change(loras[0], OTHER), atol=1e-5)
    assert run._cache_size() == 1
    mean = (change(loras[0]) + change(loras[1])) / 2
    np.testing.assert_allclose(change(fuse.averaged(loras)), mean, atol=1e-5)


def test_arguments_that_are_refused():
    one, x = small(), normal(40, 12)
    with pytest.raises(ValueError, match="1 sets of Gram matrices for 2 LoRAs"):
        fuse.fused([one, one], [grams(x)])
    with pytest.raises(ValueError, match="LoRA 1 updates attn1/to_q/kernel, which"):
        fuse.fused([one, one], [grams(x), {}])
    with pytest.raises(ValueError, match="must be 12x12 for attn1/to_q/kernel, and not"):
        fuse.fused([one], [grams(x[:, :6])])
    with pytest.raises(ValueError, match="different networks: attn1/to_q/kernel is 12x5 in one and 6x5"):
        fuse.averaged([one, small(size=6)])
    with pytest.raises(ValueError, match="`ridge`=-1 must be at least 0"):
        fuse.fused([one], [grams(x)], ridge=-1)
    for loras, weights in (([], None), ([one], [0.5, 0.5])):
        with pytest.raises(ValueError, match="give one per LoRA"):
            fuse.averaged(loras, weights)
