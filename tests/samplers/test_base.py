"""The loop that runs samplers: compilations, randomness, conditions, collected values."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.tree_util import Partial

from jaxdiff import denoise, samplers, schedules
from jaxdiff.timesteps import grid
from jaxdiff.types import Cond, Guided, Prediction, rows

LINEAR = schedules.linear(100)
KEY = jax.random.key(0)
state_x = lambda state, prediction: state.x
predicted = lambda state, prediction: prediction.x0


# Compilations


class Net(nn.Module):
    """A network that records each run of its Python code, which under jit is once per trace."""

    traces = []  # noqa: RUF012
    features: int = 3

    @nn.compact
    def __call__(self, x, t, cond=None, keys=None):
        self.traces.append(1)
        return nn.Dense(self.features)(x) + jnp.sin(t / 10)[:, None] + cond.label[:, None]


def params(seed):
    return {
        "Dense_0": {
            "kernel": np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32),
            "bias": np.ones(3, np.float32),
        }
    }


def call(key=0, weights=0, schedule=LINEAR, sampler=None, levels=None, label=1.0, x=1.0, predict="v", batch=4):
    """A call of `sample` with new objects."""
    denoiser = denoise.denoiser(denoise.network(Net()), params(weights), schedule, predict)
    sampler = samplers.ddim(0.5) if sampler is None else sampler
    levels = grid(100, 3) if levels is None else levels
    cond, x_T = Cond(label=np.full([batch], label, np.float32)), np.full([batch, 3], x, np.float32)
    return samplers.sample(jax.random.key(key), sampler, denoiser, schedule, levels, x_T, cond)[0]


def traced(**changes):
    """The result of a call, and whether the network was traced in it; the call without changes is made before."""
    call()
    before = len(Net.traces)
    return call(**changes), len(Net.traces) > before


@pytest.mark.parametrize(
    "change",
    [
        lambda: {"key": 1},
        lambda: {"weights": 1},
        lambda: {"schedule": schedules.cosine(100)},
        lambda: {"sampler": samplers.ddim(0.9)},
        lambda: {"sampler": samplers.ddim(1)},
        lambda: {"sampler": samplers.ddim(np.float64(0.1))},
        lambda: {"sampler": samplers.ddim()},
        lambda: {"levels": grid(100, 3, "leading")},
        lambda: {"levels": jnp.array([80, 50, 20, 1])},
        lambda: {"label": 2.0},
        lambda: {"x": 2.0},
    ],
    ids=[
        "seed",
        "weights",
        "schedule",
        "eta",
        "whole eta",
        "numpy eta",
        "eta 0",
        "spacing",
        "levels",
        "condition",
        "x_T",
    ],
)
def test_another_value_does_not_recompile_and_has_effect(change):
    x, compiled = traced(**change())
    assert not compiled
    assert not np.allclose(x, call())


def test_the_same_call_with_new_objects_does_not_recompile():
    x, compiled = traced()
    assert not compiled
    chex.assert_trees_all_equal(x, call())


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ddpm_compiles_once(variance):
    call(sampler=samplers.ddpm(variance))
    _, compiled = traced(sampler=samplers.ddpm(variance), key=5, weights=3)
    assert not compiled


def test_other_shapes_and_kinds_do_compile_so_that_these_tests_can_fail():
    assert traced(levels=grid(100, 5))[1]
    assert traced(batch=5)[1]
    assert traced(predict="x0")[1]


def test_one_plain_function_compiles_once():
    @chex.assert_max_traces(n=1)
    def plain(x_t, t, cond):
        alpha, sigma = LINEAR(t)
        return Prediction(alpha * x_t, sigma * x_t)

    run = lambda seed: samplers.sample(
        jax.random.key(seed), samplers.ddim(1.0), plain, LINEAR, grid(100, 3), jnp.ones([2, 3])
    )
    x, y = run(0)[0], run(1)[0]
    chex.assert_shape([x, y], (2, 3))
    assert np.all(x != y)


# Randomness


def elementwise(x_t, t, cond=None):
    """A nonlinear denoiser in which no example depends on another."""
    alpha, sigma = LINEAR(t)
    x0 = jnp.tanh(x_t)
    return Prediction(x0, (x_t - alpha * x0) / sigma)


def run(key, x_T, sampler=None, **options):
    sampler = samplers.ddim(1.0) if sampler is None else sampler
    return samplers.sample(key, sampler, Partial(elementwise), LINEAR, grid(100, 4, end=1), x_T, **options)


@pytest.mark.parametrize("sampler", [samplers.ddim(0.5), samplers.ddpm()], ids=["ddim", "ddpm"])
def test_image_i_of_seed_k_does_not_depend_on_the_batch(sampler):
    images = {}
    for batch in (3, 7):
        x_T = samplers.noise(samplers.keys_for(KEY, batch), (3,))
        images[batch] = run(KEY, x_T, sampler)[0]
    chex.assert_trees_all_close(images[3], images[7][:3], rtol=1e-6, atol=1e-6)
    assert len(np.unique(np.asarray(images[7])[:, 0])) == 7


def test_keys_of_examples_can_be_given():
    keys = samplers.keys_for(KEY, 5)
    x_T = samplers.noise(keys, (3,))
    chex.assert_trees_all_equal(run(KEY, x_T), run(keys, x_T))
    last_two = run(keys[3:], x_T[3:])[0]  # the second device's share of a batch of five
    chex.assert_trees_all_close(last_two, run(KEY, x_T)[0][3:], rtol=1e-6)


def test_no_noise_is_used_twice():
    """x_T, the noise of every step and of every example are independent standard normals."""
    zero = Partial(lambda x_t, t, cond: Prediction(jnp.zeros_like(x_t), jnp.zeros_like(x_t)))
    keys, levels = samplers.keys_for(KEY, 32), grid(100, 5, end=1)
    x_T = samplers.noise(keys, (64,))
    chex.assert_shape(x_T, (32, 64))
    _, steps = samplers.sample(KEY, samplers.ddpm(), zero, LINEAR, levels, x_T, collect=state_x)
    draws = np.concatenate([x_T[None], steps / steps.std((1, 2), keepdims=True)])
    assert abs(draws[0].var() - 1) < 4 * np.sqrt(2 / draws[0].size) and abs(draws[0].mean()) < 4 / np.sqrt(
        draws[0].size
    )
    by_step = np.corrcoef(draws.reshape(len(draws), -1)) - np.eye(len(draws))
    by_example = np.corrcoef(draws.transpose(1, 0, 2).reshape(32, -1)) - np.eye(32)
    assert np.max(np.abs(by_step)) < 5 / np.sqrt(32 * 64)
    assert np.max(np.abs(by_example)) < 5 / np.sqrt(len(draws) * 64)


def test_a_legacy_key_is_refused():
    with pytest.raises(TypeError, match=r"jax\.random\.key and not jax\.random\.PRNGKey"):
        run(jax.random.PRNGKey(0), jnp.ones([2, 3]))


# Results


def test_collected_values_are_stacked_over_steps():
    x_T = samplers.noise(samplers.keys_for(KEY, 2), (3,))
    collect = lambda state, prediction: {"x": state.x, "mean": prediction.x0.mean(), "x0": prediction.x0}
    x_0, collected = run(KEY, x_T, collect=collect)
    chex.assert_shape([collected["x"], collected["x0"], collected["mean"]], [(4, 2, 3), (4, 2, 3), (4,)])
    chex.assert_trees_all_equal(collected["x"][-1], x_0)
    # The prediction of a step is the denoiser's at the x before it.
    before = jnp.concatenate([x_T[None], collected["x"][:-1]])
    chex.assert_trees_all_close(collected["x0"], jnp.tanh(before), rtol=1e-5)
    assert run(KEY, x_T)[1] is None


@pytest.mark.parametrize("size, count", [(1, 6), (2, 3), (4, 2), (6, 1), (50, 1)])
def test_chunks_are_the_whole(size, count):
    x_T = samplers.noise(samplers.keys_for(KEY, 3), (2,))
    arguments = KEY, samplers.ddpm(), Partial(elementwise), LINEAR, grid(100, 6), x_T
    whole, steps = samplers.sample(*arguments, collect=state_x)
    xs, collected = zip(*samplers.chunks(*arguments, size=size, collect=state_x), strict=True)
    assert len(xs) == count
    chex.assert_trees_all_close(xs[-1], whole, rtol=1e-6)
    chex.assert_trees_all_close(np.concatenate(collected), steps, rtol=1e-6)


def test_equal_chunks_are_one_compilation():
    denoiser = denoise.denoiser(denoise.network(Net()), params(0), LINEAR, "v")
    cond, x_T = Cond(label=np.ones([7], np.float32)), np.ones([7, 3], np.float32)
    before = len(Net.traces)
    list(samplers.chunks(KEY, samplers.ddim(), denoiser, LINEAR, grid(100, 6), x_T, cond, size=2))
    traces = len(Net.traces) - before
    list(samplers.chunks(KEY, samplers.ddim(0.3), denoiser, LINEAR, grid(100, 8), x_T, cond, size=2))
    assert traces > 0 and len(Net.traces) - before == traces


def test_empty_chunks_are_refused():
    with pytest.raises(ValueError, match="`size`=0"):
        next(samplers.chunks(KEY, samplers.ddim(), jnp.sin, LINEAR, grid(100, 6), jnp.ones([1, 2]), size=0))


def test_a_denoiser_is_called_at_every_level_but_the_last():
    clock = Partial(lambda x_t, t, cond: Prediction(jnp.full_like(x_t, t), jnp.zeros_like(x_t)))
    x, seen = samplers.sample(None, samplers.ddim(), clock, LINEAR, grid(100, 4), jnp.ones([1, 1]), collect=predicted)
    chex.assert_trees_all_equal(seen[:, 0, 0], jnp.array([100.0, 75.0, 50.0, 25.0]))
    assert float(x[0, 0]) == 25.0


def test_it_can_be_jitted_and_differentiated():
    """With a perfect denoiser of the point w x_0 is w on any grid: its derivative in w is 1."""

    def pointwise(w, x_t, t, cond=None):
        alpha, sigma = LINEAR(t)
        return Prediction(jnp.broadcast_to(w, x_t.shape), (x_t - alpha * w) / sigma)

    @jax.jit
    @jax.value_and_grad
    def total(w):
        return samplers.sample(KEY, samplers.ddim(0.5), Partial(pointwise, w), LINEAR, grid(100, 3), jnp.ones([2, 3]))[
            0
        ].sum()

    value, slope = total(0.25)
    np.testing.assert_allclose((value, slope), (6 * 0.25, 6.0), rtol=1e-5)


# Conditions


def predict_cond(x_t, t, cond):
    """Predicts its condition, label + mean of the context; of a `Guided`, the first plus a hundred times the second."""
    conds = cond if isinstance(cond, Guided) else (cond,)
    x0 = sum(
        weight * (cond.label + (0 if cond.context is None else cond.context.mean((1, 2))))
        for weight, cond in zip((1.0, 100.0), conds)
    )
    return Prediction(jnp.zeros_like(x_t) + rows(x0, x_t), jnp.zeros_like(x_t))


def received(cond, cond_axes=None):
    """The denoiser's conditions as numbers, [steps, examples]."""
    _, seen = samplers.sample(
        None,
        samplers.ddim(),
        Partial(predict_cond),
        LINEAR,
        grid(100, 3),
        jnp.ones([2, 1]),
        cond,
        cond_axes=cond_axes,
        collect=predicted,
    )
    return np.asarray(seen)[..., 0]


EACH = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)  # [steps, examples]
SAME = np.array([7.0, 8.0], np.float32)
CONTEXT = np.arange(3 * 2 * 5 * 4, dtype=np.float32).reshape(3, 2, 5, 4)  # one per step


def test_one_condition_holds_for_all_steps():
    np.testing.assert_array_equal(received(Cond(label=SAME)), [[7, 8]] * 3)


@pytest.mark.parametrize("axes", [Cond(label=0), 0], ids=["leaf", "whole"])
def test_a_marked_leaf_has_one_row_per_step(axes):
    np.testing.assert_array_equal(received(Cond(label=EACH), axes), EACH)


def test_unmarked_leaves_are_the_same_at_all_steps():
    got = received(Cond(label=SAME, context=CONTEXT), Cond(context=0))
    np.testing.assert_allclose(got, SAME + CONTEXT.mean((2, 3)), rtol=1e-6)
    got = received(Cond(label=EACH, context=CONTEXT[0]), Cond(label=0))
    np.testing.assert_allclose(got, EACH + CONTEXT[0].mean((1, 2)), rtol=1e-6)


def test_one_half_of_a_guided_condition_can_vary():
    """As null-text inversion replays: only the unconditional half's context has a row per step."""
    guided = Guided(Cond(label=SAME, context=CONTEXT[1]), Cond(label=SAME, context=CONTEXT))
    want = SAME + CONTEXT[1].mean((1, 2)) + 100 * (SAME + CONTEXT.mean((2, 3)))
    np.testing.assert_allclose(received(guided, Guided(None, Cond(context=0))), want, rtol=1e-6)


def test_a_prefix_marks_all_below_it():
    guided = Guided(Cond(label=EACH, context=CONTEXT), Cond(label=SAME))
    want = EACH + CONTEXT.mean((2, 3)) + 100 * SAME
    np.testing.assert_allclose(received(guided, Guided(0, None)), want, rtol=1e-6)


def test_rows_must_be_as_many_as_steps():
    with pytest.raises(ValueError, match="scan"):
        received(Cond(label=EACH[:2]), Cond(label=0))
