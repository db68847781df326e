"""A whole training run: what it leaves behind, and how it is resumed."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest
from helpers import tiny_config
from PIL import Image

from jaxdiff import config as configs
from jaxdiff.train import checkpoint, loop


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    return directory, loop.train(tiny_config(), directory)


def test_leaves_config_checkpoints_pictures_and_events(run):
    directory, state = run
    assert int(state.step) == 4
    assert configs.read_run(directory) == tiny_config()
    assert {path.name for path in (directory / "checkpoints").iterdir()} >= {"2", "4"}
    assert Image.open(directory / "samples" / "step_0000004.png").size[0] > 28
    assert list(directory.glob("events.out.tfevents.*"))


def test_restores_what_was_saved(run):
    directory, state = run
    manager = checkpoint.manager(directory / "checkpoints")
    like = loop.new_state(tiny_config(), loop.make_optimizer(tiny_config()))
    chex.assert_trees_all_equal(checkpoint.restore(manager, like), jax.device_get(state))
    ema = checkpoint.restore_ema(directory / "checkpoints", loop.param_shapes(tiny_config()))
    chex.assert_trees_all_equal(ema, jax.device_get(state.ema))
    manager.close()


def test_resumed_run_equals_an_uninterrupted_one(run, tmp_path):
    directory, straight = run
    halted = shutil.copytree(directory, tmp_path / "halted")
    shutil.rmtree(halted / "checkpoints" / "4")  # as if it had been stopped after step 2
    resumed = loop.train(tiny_config(), halted, resume=True)
    chex.assert_trees_all_equal(jax.device_get(resumed), jax.device_get(straight))


def test_never_overwrites_a_run(run):
    directory, _ = run
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    with pytest.raises(FileExistsError, match="--resume"):
        loop.train(tiny_config(), directory)
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_refuses_to_resume_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        loop.train(tiny_config(), tmp_path / "nothing", resume=True)


def test_config_survives_json():
    config = tiny_config()
    assert configs.from_json(configs.to_json(config)) == config
    broken = json.loads(configs.to_json(config)) | {"trian": {}}
    with pytest.raises(ValueError, match="did you mean 'train'"):
        configs.from_json(json.dumps(broken))


def test_memory_of_metrics_is_flushed():
    calls, advanced = [], []

    class Writer:
        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

    log = loop.Log(Writer(), lambda step, means: advanced.append((step, means["loss"])), batch_size=4)
    log.add({"loss": np.float32([1.0])})
    log.add({"loss": np.float32([3.0])})
    log.flush(2)
    assert advanced == [(2, 2.0)] and log.waiting == [] and ("loss", 2.0, 2) in calls
