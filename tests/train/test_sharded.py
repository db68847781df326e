"""Training with arrays that are split over a mesh: the numbers of `jax.pmap`, less memory, checkpoints for any mesh."""

import dataclasses
import functools
import shutil

import chex
import jax
import numpy as np
import optax
import pytest
from helpers import batch, damage, tiny_config, tiny_training
from tiny import tiny_autoencoder, tiny_clip

import jaxdiff
from jaxdiff import config as configs
from jaxdiff import meshes
from jaxdiff.model import checkpoints, runs
from jaxdiff.model.frozen_models import open_models
from jaxdiff.train import checkpoint, initial, optim, parallel, setup
from jaxdiff.train.loop import fit
from jaxdiff.train.state import init
from jaxdiff.train.step import scanned

KEY, STEPS, CALLS = jax.random.key(7), 10, 5
SMALL = (meshes.parse_rule("kernel=fsdp(64)"), *meshes.RULES)  # else the tiny network's arrays would all be small
MESHES = {"fsdp=8": SMALL, "data=2,fsdp=4": SMALL, "data=4,tensor=2": meshes.RULES}
OPTIMIZERS = {"sgd": optax.sgd(0.1), "adam": optim.optimizer(1e-3, steps=60, warmup=5)}


def trained(optimizer, devices):
    """The state on the host after 50 steps, and their losses."""
    params, step = tiny_training(OPTIMIZERS[optimizer])
    step, state = devices.step(scanned(step), frozen=False), devices.place(init(params, OPTIMIZERS[optimizer]))
    run, losses = None, []
    for call in range(CALLS):
        examples = [batch(16, seed=n, start=16 * n) for n in range(STEPS * call, STEPS * (call + 1))]
        rows = devices.rows(jax.tree.map(lambda *x: np.stack(x), *examples), axis=1)
        run = run or devices.compiled(step, devices.lower(step, state, KEY, rows))
        state, metrics = run(state, KEY, rows)
        losses.append(devices.on_host(metrics)["loss"])
    return devices.on_host(state), np.concatenate(losses)


@functools.cache
def by_pmap(optimizer):
    return trained(optimizer, parallel.Pmap())


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_agrees_with_pmap_over_50_steps(optimizer, mesh):
    devices = parallel.Sharded(jaxdiff.mesh(**meshes.parse(mesh)), MESHES[mesh])
    wanted, losses = by_pmap(optimizer)
    state, found = trained(optimizer, devices)
    assert losses[-1] < 0.9 * losses[0] and int(state.step) == STEPS * CALLS
    if optimizer == "sgd":
        chex.assert_trees_all_close(found, losses, rtol=1e-5)
        chex.assert_trees_all_close(state, wanted, rtol=1e-5, atol=1e-5)
    else:  # which turns rounding into steps where a gradient is 0
        chex.assert_trees_all_close(found, losses, rtol=1e-4)


def test_each_device_has_its_part_and_no_more():
    """State and its copies: (what is split) / 8 + the rest, in the arguments and in the results of the program."""
    params, step = tiny_training(OPTIMIZERS["adam"])
    devices = parallel.Sharded(jaxdiff.mesh(fsdp=8), SMALL)
    state, rows = devices.place(init(params, OPTIMIZERS["adam"])), devices.rows(batch(16))
    run = devices.compiled(None, devices.lower(devices.step(step, frozen=False), state, KEY, rows))
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    split = sum(x.nbytes for x in jax.tree.leaves(state) if x.sharding.spec)
    assert split > 0.8 * size
    mine, examples = split / 8 + size - split, sum(x.nbytes for x in jax.tree.leaves(rows)) / 8
    found = run.memory_analysis()
    assert found.argument_size_in_bytes == pytest.approx(mine + examples, rel=0.02)
    assert found.output_size_in_bytes < mine + 10 * len(jax.tree.leaves(state))  # a table of pointers, and metrics
    assert found.alias_size_in_bytes == pytest.approx(mine, rel=0.02)  # donated


def with_train(config, **train):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


CONFIGS = {
    "codebook": tiny_autoencoder(words=16, steps_per_call=2),
    "clip": tiny_clip(steps_per_call=2),
    "importance": dataclasses.replace(
        tiny_config(accumulate=2),
        diffusion=dataclasses.replace(tiny_config().diffusion, levels=configs.Diffusion(levels="importance").levels),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_whatever_is_trained(name):
    """Two steps of each objective: what goes from device to device in one, and is a sum over whole arrays in the other."""

    def after(config):
        devices = parallel.of(config.train)
        state, key = devices.place(initial.new_state(config)), initial.step_key(config)
        source = setup.open_source(config)
        frozen = open_models(config, source)
        rows, _ = next(setup.batches(config, source, 0, frozen))
        step, flops, _ = setup.compiled(config, state, key, rows)
        state, metrics = step(state, key, rows)
        return devices.on_host((state, metrics)), flops

    config = CONFIGS[name]
    wanted, flops = after(config)
    rules = ("kernel=fsdp(64)",)
    found, others = after(with_train(config, parallel="sharded", mesh="data=2,fsdp=4", rules=rules))
    assert 0.8 * flops < others < 1.1 * flops  # of one device, which shares the optimizer's
    chex.assert_trees_all_close(found[1]["loss"], wanted[1]["loss"], rtol=1e-4)
    chex.assert_trees_all_close(found[0].extra, wanted[0].extra, rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_close(found[1]["grad_norm"], wanted[1]["grad_norm"], rtol=1e-3)
    apart = [
        np.abs(a - b).reshape(-1) > 1e-4 for a, b in zip(*map(jax.tree.leaves, (found[0].params, wanted[0].params)))
    ]
    assert np.concatenate(apart).mean() < 0.01  # Adam's sign of what is 0 but for rounding


SHARDED = {"parallel": "sharded", "mesh": "fsdp=8", "rules": ("kernel=fsdp(64)",)}
OTHER = SHARDED | {"mesh": "data=2,fsdp=2,tensor=2"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sharded") / "run"
    return directory, fit(tiny_config(**SHARDED), run=directory)


def shapes_on(train):
    config = tiny_config(**train)
    return parallel.of(config.train).like(initial.state_shapes(config))


@pytest.mark.parametrize("train", [{}, SHARDED, OTHER], ids=["pmap", "same", "other mesh"])
def test_is_read_back_onto_any_mesh_bit_for_bit(run, train):
    directory, state = run
    found = checkpoint.restore(runs.checkpoint_dir(directory), shapes_on(train))
    chex.assert_trees_all_equal(meshes.on_host(found.tree), meshes.on_host(state))
    if train:
        kernel, wanted = found.tree.params["conv_in"]["kernel"], initial.new_state(tiny_config(**train))
        assert kernel.sharding == wanted.params["conv_in"]["kernel"].sharding and kernel.sharding.spec


def test_what_pmap_saved_is_read_onto_a_mesh(tmp_path):
    state = initial.new_state(tiny_config())
    with checkpoint.manager(tmp_path / "checkpoints") as manager:
        checkpoint.save(manager, state, {})
    found = checkpoint.restore(tmp_path / "checkpoints", shapes_on(SHARDED))
    chex.assert_trees_all_equal(meshes.on_host(found.tree), state)


def test_the_average_alone_is_read(run):
    directory, state = run
    like = initial.state_shapes(tiny_config()).ema
    found = checkpoints.restore_ema(runs.checkpoint_dir(directory), like).tree
    chex.assert_trees_all_equal(found, meshes.on_host(state.ema))
    assert jaxdiff.generate(jaxdiff.load(str(directory)), num=8).shape == (8, 28, 28, 1)
    assert (directory / "samples" / "step_0000004.png").exists()


def test_a_codebook_is_read_wherever_it_was_trained(tmp_path):
    """Not onto the devices that it was saved on, which there may not be."""
    config = with_train(tiny_autoencoder(words=8, steps=2, save_every=2, log_every=2), **SHARDED)
    state = fit(config, run=tmp_path / "run")
    like = initial.state_shapes(config).ema
    rest = checkpoints.restore_raw(runs.checkpoint_dir(tmp_path / "run"), like).tree["rest"]
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(rest))
    found = jaxdiff.load(str(tmp_path / "run")).params["quantize"]["embedding"]
    np.testing.assert_array_equal(found, meshes.on_host(state.extra.words))


def test_a_damaged_one_is_passed_over(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    damage(tmp_path / "run", 4)
    for train in ({}, OTHER):
        found = checkpoint.restore(runs.checkpoint_dir(tmp_path / "run"), shapes_on(train))
        assert (found.step, found.corrupt) == (2, (4,))


def test_goes_on_as_if_never_stopped(run, tmp_path):
    """Another mesh is another order of sums; the same mesh is the same bits."""
    ways = {}
    for name, train in {"same": SHARDED, "other": OTHER, "pmap": {}}.items():
        shutil.copytree(run[0], tmp_path / name)
        ways[name] = meshes.on_host(fit(tiny_config(**train | {"steps": 8}), run=tmp_path / name, resume=True))
    straight = meshes.on_host(fit(tiny_config(**SHARDED, steps=8), run=tmp_path / "straight"))
    chex.assert_trees_all_equal(ways["same"], straight)
    for name in ("other", "pmap"):
        chex.assert_trees_all_close(ways[name].params, straight.params, atol=1e-3)


def test_compiles_once(run, tmp_path):
    """Four calls, with the state that was made and with those that came back."""
    config = with_train(tiny_config(steps=8), **SHARDED)
    devices = parallel.of(config.train)
    state, key = devices.place(initial.new_state(config)), initial.step_key(config)
    rows, _ = next(setup.batches(config, setup.open_source(config), 0))
    step = setup.make_step(config)
    with jax.set_mesh(devices.mesh):
        for _ in range(3):
            state, _ = step(state, key, rows)
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    "train, message",
    [
        ({"mesh": "fsdp=8"}, "`train.mesh` and `train.rules` are of `train.parallel` sharded"),
        ({"rules": ("a=fsdp",)}, "`train.mesh` and `train.rules` are of `train.parallel` sharded"),
        ({"parallel": "sharded", "mesh": "fsdp=3"}, "is of 6 devices, and there are 8"),
        ({"parallel": "sharded", "mesh": "fsdq=8"}, "unknown axis of a mesh 'fsdq'"),
        ({"parallel": "sharded", "rules": ("a",)}, "a rule is PATTERN=TACTIC"),
        ({"parallel": "sharded", "mesh": "fsdp=4", "batch_size": 12}, "does not divide by the 8 devices: 16 would do"),
    ],
)
def test_mistakes(train, message):
    with pytest.raises(ValueError, match=message):
        configs.check(tiny_config(**train))


def test_a_rule_for_nothing_is_refused(tmp_path):
    config = tiny_config(**SHARDED | {"rules": ("to_kk=fsdp",)})
    with pytest.raises(ValueError, match="no array has the pattern 'to_kk' of a rule in its path"):
        fit(config, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_a_batch_for_fewer_rows_than_devices():
    """With tensor=2 four devices have rows."""
    configs.check(tiny_config(**OTHER, batch_size=4, steps_per_call=1))
