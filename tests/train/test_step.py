"""The training step: what it computes, on one device and on eight, alone and scanned, at once and in parts."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import TINY, batch, tiny_training, with_dropout

from jaxdiff import UNet, network, objectives, schedules
from jaxdiff.train import ema, optim, parallel
from jaxdiff.train.state import init
from jaxdiff.train.step import make_train_step, scanned

KEY = jax.random.key(7)


def quadratic(params, extra, keys, batch):
    """|w - x|^2 per example: gradient 2 (w - mean x)."""
    loss = jnp.square(params["w"][None] - batch["image"]).sum(-1)
    return loss, (extra, {"loss": loss})


@chex.variants(with_jit=True, without_jit=True)
class TestStep(chex.TestCase):
    def test_is_gradient_descent_on_the_mean_loss(self):
        x = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
        step = self.variant(make_train_step(quadratic, optax.sgd(0.1), ema_decay=0.5))
        state = init({"w": jnp.zeros(2)}, optax.sgd(0.1))
        state, metrics = step(state, KEY, {"image": x, "index": np.arange(2)})
        chex.assert_trees_all_close(state.params["w"], 0.2 * x.mean(0), rtol=1e-6)
        chex.assert_trees_all_close(metrics["loss"], np.square(x).sum(-1).mean(), rtol=1e-6)
        chex.assert_trees_all_close(metrics["grad_norm"], 2 * np.linalg.norm(x.mean(0)), rtol=1e-6)
        # first update: decay min(0.5, 1 / 10)
        chex.assert_trees_all_close(state.ema["w"], 0.9 * 0.2 * x.mean(0), rtol=1e-6)
        assert int(state.step) == 1


def test_what_is_frozen_is_joined_and_not_trained():
    """w = f + u p, of which p alone is trained: its gradient is u 2 (w - mean x), on eight devices as on one."""
    frozen = {"f": jnp.array([1.0, -1.0]), "u": jnp.array([3.0, 0.5])}
    join = lambda frozen, params, key: {"w": frozen["f"] + frozen["u"] * params["p"]}
    step, x = make_train_step(quadratic, optax.sgd(1.0), accumulate=2, join=join), np.random.default_rng(0)
    x = x.standard_normal((32, 2)).astype(np.float32)
    state, examples = init({"p": jnp.array([2.0, 4.0])}, optax.sgd(1.0)), {"image": x, "index": np.arange(32)}
    alone, _ = jax.jit(step)(state, KEY, examples, frozen=frozen)
    wanted = np.array([2.0, 4.0]) - np.array([3.0, 0.5]) * 2 * (np.array([7.0, 1.0]) - x.mean(0))
    chex.assert_trees_all_close(alone.params, {"p": wanted.astype(np.float32)}, rtol=1e-5)
    run = parallel.data_parallel(scanned(step), frozen=True)
    batches = parallel.split(jax.tree.map(lambda rows: rows[None], examples), axis=1)
    spread, _ = run(parallel.replicate(state), KEY, batches, parallel.replicate(frozen))
    chex.assert_trees_all_close(parallel.first(spread).params, alone.params, rtol=1e-5)


def test_a_step_has_one_key_for_what_is_joined():
    """Another one in each step, and no example's."""
    seen = lambda frozen, params, key: {"w": params["w"] + jax.random.normal(key, [2])}
    step, state = make_train_step(quadratic, optax.sgd(0.0), join=seen), init({"w": jnp.zeros(2)}, optax.sgd(0.0))
    losses = []
    for number in range(2):
        _, metrics = step(
            state._replace(step=jnp.int32(number)), KEY, {"image": jnp.zeros([4, 2]), "index": np.arange(4)}
        )
        losses.append(float(metrics["loss"]))
        own = jax.random.fold_in(jax.random.fold_in(KEY, number), 2**32 - 1)
        np.testing.assert_allclose(losses[-1], np.square(jax.random.normal(own, [2])).sum(), rtol=1e-5)
    assert losses[0] != losses[1]


def test_eight_devices_equal_one():
    """With dropout, whose masks are of each example, as its noise and its level are."""
    params, step = tiny_training(optax.sgd(1.0), with_dropout(0.3))  # the update is minus the gradient
    state, examples = init(params, optax.sgd(1.0)), batch(16)
    alone, metrics = jax.jit(step)(state, KEY, examples)
    spread, spread_metrics = parallel.data_parallel(step)(parallel.replicate(state), KEY, parallel.split(examples))
    gradient = jax.tree.map(jnp.subtract, state.params, alone.params)
    assert optax.tree.norm(gradient) > 0.1
    chex.assert_trees_all_close(parallel.first(spread), alone, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(parallel.first(spread_metrics), metrics, rtol=1e-5)
    for leaf in map(np.asarray, jax.tree.leaves(spread.params)):  # every device holds the same
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


@pytest.fixture(scope="module")
def adam():
    """A tiny training that is compiled once for several tests: state, jitted step, pure step."""
    optimizer = optim.optimizer(3e-3, steps=60, warmup=5)
    params, step = tiny_training(optimizer)

    def counted(*args, **names):
        counted.count += 1
        return step(*args, **names)

    counted.count = 0
    return init(params, optimizer), jax.jit(counted), counted


def test_noise_depends_on_step_and_index_only(adam):
    state, run, _ = adam
    loss = lambda state, examples: float(run(state, KEY, examples)[1]["loss"])
    examples = batch(16)
    order = np.random.default_rng(0).permutation(16)
    shuffled = jax.tree.map(lambda x: x[order], examples)
    assert loss(state, examples) == pytest.approx(loss(state, shuffled), rel=1e-5)
    assert loss(state, examples) != pytest.approx(loss(state._replace(step=state.step + 1), examples), rel=1e-3)
    assert loss(state, examples) != pytest.approx(loss(state, examples | {"index": examples["index"] + 16}), rel=1e-3)


def test_scanned_equals_one_by_one(adam):
    state, run, step = adam
    batches = [batch(16, seed=i, start=16 * i) for i in range(3)]
    together, metrics = jax.jit(scanned(step))(state, KEY, jax.tree.map(lambda *x: np.stack(x), *batches))
    each = []
    for one in batches:
        state, m = run(state, KEY, one)
        each.append(m)
    chex.assert_trees_all_close(together.params, state.params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(metrics, jax.tree.map(lambda *x: np.stack(x), *each), rtol=1e-5)  # [3]


def in_parts(config, optimizer, accumulate):
    """The step of `tiny_training` that works through its batch in parts."""
    loss = objectives.denoising(network(UNet(config)), schedules.linear(50))
    return make_train_step(loss, optimizer, accumulate=accumulate)


@pytest.mark.parametrize("accumulate", [2, 16])
def test_a_batch_in_parts_equals_the_whole(accumulate):
    config, optimizer = with_dropout(0.3), optax.sgd(1.0)  # the update is minus the gradient
    params, step = tiny_training(optimizer, config)
    state, examples = init(params, optimizer), batch(16)
    whole = jax.jit(step)(state, KEY, examples)
    parts = jax.jit(in_parts(config, optimizer, accumulate))(state, KEY, examples)
    chex.assert_trees_all_close(parts, whole, atol=1e-5, rtol=1e-5)  # parameters, averages, metrics
    assert whole[1]["grad_norm"] > 0.1


def test_a_batch_in_parts_equals_the_whole_on_eight_devices_and_scanned():
    config, optimizer = with_dropout(0.3), optax.sgd(0.1)
    params, step = tiny_training(optimizer, config)
    stacked = jax.tree.map(lambda *x: np.stack(x), *[batch(32, seed=i, start=32 * i) for i in range(2)])

    def on_all(step):
        run = parallel.data_parallel(scanned(step))
        state, metrics = run(parallel.replicate(init(params, optimizer)), KEY, parallel.split(stacked, axis=1))
        return parallel.first(state), parallel.first(metrics)

    chex.assert_trees_all_close(on_all(in_parts(config, optimizer, 4)), on_all(step), atol=1e-5, rtol=1e-5)


def test_extra_goes_from_part_to_part():
    def loss_fn(params, extra, keys, batch):  # the running sum of squares, which the next part's metric reads
        loss = jnp.square(params - batch["image"])
        return loss, (extra + loss.sum(), {"before": jnp.broadcast_to(extra, loss.shape)})

    step = make_train_step(loss_fn, optax.sgd(0.0), accumulate=2)
    state = init(jnp.zeros(()), optax.sgd(0.0), extra=jnp.float32(10))
    state, metrics = step(state, KEY, {"image": jnp.arange(1.0, 5.0), "index": np.arange(4)})
    assert float(state.extra) == 10 + 1 + 4 + 9 + 16
    assert float(metrics["before"]) == (10 + 20) / 2  # the first part has the first and the third


@pytest.mark.parametrize("accumulate", [3, 0, -4])
def test_parts_that_do_not_divide_the_batch_are_refused(accumulate):
    step = make_train_step(quadratic, optax.sgd(0.1), accumulate=accumulate)
    state = init({"w": jnp.zeros(2)}, optax.sgd(0.1))
    with pytest.raises(ValueError, match=f"^accumulate={accumulate} does not divide the 16 examples"):
        jax.eval_shape(step, state, KEY, {"image": np.zeros([16, 2]), "index": np.arange(16)})


def test_parts_take_less_memory():
    config = dataclasses.replace(TINY, channels=(16,), attention=(0,))
    optimizer = optax.sgd(0.1)
    params, _ = tiny_training(optimizer, config)
    state, examples = init(params, optimizer), batch(64)

    def temporary(accumulate):
        compiled = jax.jit(in_parts(config, optimizer, accumulate)).lower(state, KEY, examples).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(4) < 0.35 * temporary(1)


def test_training_lowers_the_loss_and_compiles_once(adam):
    state, run, step = adam
    losses, traces = [], []
    for i in range(60):
        state, metrics = run(state, jax.random.key(i), batch(16))
        losses.append(float(metrics["loss"]))
        traces.append(step.count)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert len(set(traces)) == 1


def test_the_step_of_the_loop_compiles_once(adam):
    """On every device and scanned, as `loop.fit` runs it: the state that comes back is no new kind of argument."""
    state, _, step = adam
    run = parallel.data_parallel(scanned(chex.assert_max_traces(step, n=1)))
    state, keys, compiled = parallel.replicate(state), [jax.random.key(i) for i in range(4)], []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    counts = []
    for i, key in enumerate(keys):
        batches = [batch(16, seed=2 * i + j, start=32 * i + 16 * j) for j in range(2)]
        stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
        state, _ = run(state, key, parallel.split(stacked, axis=1))
        counts.append(compiled.count("/jax/core/compile/backend_compile_duration"))
    assert counts == [1] * 4  # all of them in the first call


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="12 does not divide by 8 devices"):
        parallel.split(batch(12))


def test_ema_follows_its_warm_up():
    average, w = {"w": jnp.zeros(())}, 0.0
    for n in range(30):
        d = min(0.7, (1 + n) / (10 + n))
        average, w = ema.update(average, {"w": jnp.ones(())}, jnp.asarray(n), 0.7), d * w + (1 - d)
    chex.assert_trees_all_close(average["w"], np.float32(w), rtol=1e-6)


def test_learning_rate_warms_up_and_decays():
    transform = optim.optimizer(1.0, steps=100, warmup=10, decay_to=0.1, clip=1e9)
    params = {"w": jnp.zeros(())}
    state, rates = transform.init(params), []
    for _ in range(100):
        updates, state = transform.update({"w": jnp.ones(())}, state, params)
        rates.append(-float(updates["w"]))  # Adam's update of a constant gradient is the rate
    assert rates[0] == pytest.approx(0.0, abs=1e-6)
    assert rates[5] == pytest.approx(0.5, rel=1e-3)
    assert max(rates) == pytest.approx(1.0, rel=1e-3)
    assert rates[55] == pytest.approx(0.1 + 0.9 * 0.5, rel=1e-2)  # half-way down the cosine
    assert rates[-1] == pytest.approx(0.1, rel=1e-2)


def test_gradients_are_clipped_by_their_global_norm():
    transform = optim.optimizer(1.0, steps=10, clip=1.0, b1=0.0)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    small = {"a": jnp.array([0.3, 0.0]), "b": jnp.array(0.4)}  # norm 0.5
    _, state = transform.update(small, transform.init(params), params)
    large = jax.tree.map(lambda x: 100 * x, small)
    _, clipped = transform.update(large, transform.init(params), params)
    first = lambda state: optax.tree.get(state, "mu")
    chex.assert_trees_all_close(first(state), small, rtol=1e-6)
    chex.assert_trees_all_close(first(clipped), jax.tree.map(lambda x: 2 * x, small), rtol=1e-5)  # norm 1


def test_muon_orthogonalises_inner_kernels_and_leaves_the_rest_to_adam():
    key, rate = jax.random.key(0), 0.01
    gradients = {
        "encoder": {"conv_in": {"kernel": jax.random.normal(key, (3, 3, 4, 8))}},
        "head": {"kernel": jax.random.normal(key, (8, 3))},
        "mid": {"conv": {"kernel": jax.random.normal(key, (3, 3, 4, 8)), "bias": jnp.array([1.0, -2.0])}},
    }
    params = jax.tree.map(jnp.zeros_like, gradients)
    transform = optim.optimizer(rate, steps=10, clip=1e9, method="muon")
    updates, _ = transform.update(gradients, transform.init(params), params)
    singular = jnp.linalg.svd(updates["mid"]["conv"]["kernel"].reshape(36, 8), compute_uv=False)
    # The Newton-Schulz polynomial brings every singular value between 0.68 and 1.14; 0.2 sqrt(36) gives Adam's size.
    scale = rate * 0.2 * 6
    assert 0.6 * scale < singular.min() and singular.max() < 1.2 * scale
    rest = lambda tree: (tree["encoder"]["conv_in"]["kernel"], tree["head"]["kernel"], tree["mid"]["conv"]["bias"])
    nesterov = 1 + 0.9 * (1 - 0.9) / (1 - 0.9**2)  # Adam's first step is the rate; Nesterov's looks one step ahead
    wanted = jax.tree.map(lambda g: -rate * nesterov * jnp.sign(g), rest(gradients))
    chex.assert_trees_all_close(rest(updates), wanted, rtol=1e-4)


def test_sgd_has_momentum_and_decays_weights():
    transform = optim.optimizer(0.1, steps=10, clip=1e9, b1=0.5, weight_decay=0.01, method="sgd")
    w, v, gradient = 2.0, 0.0, 3.0
    params, state = {"w": jnp.asarray(w)}, transform.init({"w": jnp.asarray(w)})
    for _ in range(4):
        updates, state = transform.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        v = 0.5 * v + gradient
        w -= 0.1 * (v + 0.01 * w)
    assert float(params["w"]) == pytest.approx(w, rel=1e-6)
    with pytest.raises(ValueError, match="`moment_dtype`=bfloat16 is for adamw and muon"):
        optim.optimizer(0.1, steps=10, method="sgd", moment_dtype="bfloat16")
    with pytest.raises(ValueError, match=r"`b2`=0.9 is for adamw and muon"):
        optim.optimizer(0.1, steps=10, method="sgd", b2=0.9)


def nbytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("method, distance", [("adamw", 0.003), ("muon", 0.015)])
def test_first_moment_in_bfloat16(method, distance):
    key = jax.random.key(0)
    params = {name: {"conv": {"kernel": jnp.ones((3, 3, 8, 8)), "bias": jnp.ones(8)}} for name in ("conv_in", "mid")}
    noise = lambda key, x: jax.random.normal(key, x.shape) + 0.3

    def trained(**how):
        transform = optim.optimizer(1e-2, steps=100, clip=1e9, method=method, **how)

        def body(carry, key):
            params, state = carry
            keys = jax.tree.unflatten(jax.tree.structure(params), list(jax.random.split(key, 4)))
            updates, state = transform.update(jax.tree.map(noise, keys, params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.jit(jax.lax.scan, static_argnums=0)(
            body, (params, transform.init(params)), jax.random.split(key, 50)
        )

    ((wanted, full), _), ((low, half), _) = trained(), trained(moment_dtype="bfloat16")
    moments = lambda state, name: [
        leaf for _, tree in optax.tree.get_all_with_path(state, name) for leaf in jax.tree.leaves(tree)
    ]
    assert {leaf.dtype for leaf in moments(half, "mu")} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in moments(full, "mu")} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in moments(half, "nu")} == {jnp.dtype("float32")}
    assert len(moments(half, "mu")) == 4
    chex.assert_trees_all_equal_dtypes(low, params)
    assert nbytes(full) - nbytes(half) == nbytes(params) // 2
    moved = optax.tree.norm(optax.tree.sub(wanted, params))
    assert 0 < optax.tree.norm(optax.tree.sub(low, wanted)) < distance * moved


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="unknown optimizer 'lion'"):
        optim.optimizer(0.1, steps=10, method="lion")
    with pytest.raises(ValueError, match="unknown moment_dtype 'float16'"):
        optim.optimizer(0.1, steps=10, moment_dtype="float16")
