"""A whole training run: what it leaves behind, and how it is resumed."""

import dataclasses
import itertools
import json
import shutil

import chex
import jax
import numpy as np
import pytest
from helpers import damage, fill, read_events, read_scalars, tiny_config
from PIL import Image

from jaxdiff import config as configs
from jaxdiff.model import checkpoints, runs
from jaxdiff.train import checkpoint, initial, parallel, rundir, setup, watch
from jaxdiff.train.loop import fit
from jaxdiff.train.stop import Stop, Stopped


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    return directory, fit(tiny_config(), run=directory)


def test_leaves_config_checkpoints_pictures_and_events(run):
    directory, state = run
    assert int(state.step) == 4
    assert configs.read_run(directory) == tiny_config()
    assert {path.name for path in (directory / "checkpoints").iterdir()} >= {"2", "4"}
    assert Image.open(directory / "samples" / "step_0000004.png").size[0] > 28
    assert list(directory.glob("events.out.tfevents.*"))


def newest(directory, config=None):
    return checkpoint.restore(runs.checkpoint_dir(directory), initial.state_shapes(config or tiny_config()))


def test_restores_what_was_saved(run):
    directory, state = run
    found = newest(directory)
    chex.assert_trees_all_equal(found.tree, state)
    ema = checkpoints.restore_ema(runs.checkpoint_dir(directory), initial.state_shapes(tiny_config()).ema)
    chex.assert_trees_all_equal(ema.tree, state.ema)
    assert configs.from_json(json.dumps(found.about["config"])) == tiny_config()
    identity = setup.open_source(tiny_config()).identity
    assert found.about["data"] == {"position": 4 * 16, "seed": 0, "examples": 2500, "identity": identity, "contents": 0}


def test_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    """20 steps = 12 steps, stop, resume, 8 steps, bit for bit, on 8 devices; on one, see test_kills."""
    config = tiny_config(steps=20, save_every=10, log_every=10)
    straight = fit(config, run=tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", lambda self, call: (setattr(self, "signum", 15), call == 6)[1])
        with pytest.raises(Stopped, match="stopped after step 12 of 20, which is saved in") as stopped:
            fit(config, run=tmp_path / "halted")
    assert stopped.value.signum == 15
    assert checkpoints.steps(runs.checkpoint_dir(tmp_path / "halted")) == [12, 10]
    resumed = fit(config, run=tmp_path / "halted", resume=True)
    chex.assert_trees_all_equal(resumed, straight)
    chex.assert_trees_all_equal(newest(tmp_path / "halted").tree, straight)
    assert int(resumed.step) == 20


def test_a_start_killed_before_its_first_checkpoint_is_started_again(tmp_path):
    (tmp_path / "run" / "checkpoints" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    assert not rundir.holds_run(tmp_path / "run")
    assert int(fit(tiny_config(steps=2), run=tmp_path / "run").step) == 2


def test_resumes_from_the_checkpoint_before_a_damaged_one(run, tmp_path, caplog):
    directory, straight = run
    damaged = shutil.copytree(directory, tmp_path / "damaged")
    damage(damaged, 4)
    with caplog.at_level("INFO", "jaxdiff"):
        resumed = fit(tiny_config(), run=damaged, resume=True)
    chex.assert_trees_all_equal(resumed, straight)
    assert "step 4" in caplog.text and "is corrupt" in caplog.text and "going on from step 2" in caplog.text
    assert (damaged / "corrupt" / "4").is_dir() and checkpoints.steps(damaged / "checkpoints") == [4, 2]


def test_where_every_checkpoint_is_damaged_nothing_is_started(run, tmp_path):
    damaged = shutil.copytree(run[0], tmp_path / "damaged")
    for step in (2, 4):
        damage(damaged, step)
    before = {path: path.read_bytes() for path in damaged.rglob("*") if path.is_file()}
    with pytest.raises(OSError, match="none of the checkpoints"):
        fit(tiny_config(steps=6), run=damaged, resume=True)
    after = {path: path.read_bytes() for path in damaged.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == {path: content for path, content in before.items() if path.name != ".lock"}


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    """An image that is NaN at one position of the stream."""
    make = setup.batches

    def poisoned(config, source, *start):
        for batch, examples in make(config, source, *start):
            image, there = batch["image"].astype(np.float32) / 127.5 - 1, batch["index"] == 9 * 16 + 3
            yield batch | {"image": np.where(there[..., None, None, None], np.nan, image)}, examples

    monkeypatch.setattr(setup, "batches", poisoned)
    for per_call in (1, 2):
        run = tmp_path / str(per_call)
        config = tiny_config(steps=20, save_every=4, log_every=20, steps_per_call=per_call)
        with pytest.raises(watch.NotFinite, match="loss is nan at step 10: the checkpoint of step 8 in") as stopped:
            fit(config, run=run)
        assert stopped.value.step == 10  # positions 144 to 159 are its
        found = newest(run, config)
        assert found.step == 8 and all(np.isfinite(x).all() for x in jax.tree.leaves(found.tree))


def test_data_that_cannot_be_read_stops_the_run_after_saving_it(tmp_path):
    config = tiny_config(steps=40, save_every=40, log_every=40, log_examples=True)
    source = setup.open_source(config)
    *_, (_, examples) = itertools.islice(setup.batches(config, source, 0), 7)
    broken = examples[1, 5]  # in step 14

    def read(i):
        if i == broken:
            raise ValueError(f"photos/{i}.png is broken")
        return source.read(i)

    with pytest.raises(ValueError, match=f"photos/{broken}.png is broken"):
        fit(config, dataclasses.replace(source, read=read), tmp_path / "run")
    last = (tmp_path / "run" / "examples_0.tsv").read_text().splitlines()[-1]
    assert newest(tmp_path / "run", config).step == int(last.split()[0]) == 12
    short = dataclasses.replace(config.train, steps=12, save_every=12, log_every=12)
    config = dataclasses.replace(config, train=short)
    fit(config, dataclasses.replace(source, read=read), tmp_path / "short")  # never comes to it


def test_a_disk_that_is_full_while_it_is_written_to_keeps_what_was_there(run, small_disk, monkeypatch):
    """Where the room ends only after it was looked for."""
    directory = small_disk / "run"
    shutil.copytree(run[0], directory)
    before = newest(directory).tree
    fill(small_disk)
    monkeypatch.setattr(checkpoint.disk, "check_room", lambda *_: None)
    with pytest.raises(
        OSError, match=r"no space is left for .*; the checkpoint of step 4 is kept: make room, then go on"
    ):
        fit(tiny_config(steps=8), run=directory, resume=True)
    chex.assert_trees_all_equal(newest(directory).tree, before)
    (small_disk / "filler").unlink()
    resumed = fit(tiny_config(steps=8), run=directory, resume=True)
    assert checkpoints.steps(runs.checkpoint_dir(directory))[0] == int(resumed.step) == 8


def test_the_examples_of_each_step_are_logged(tmp_path):
    fit(tiny_config(log_examples=True), run=tmp_path / "run")
    lines = [line.split() for line in (tmp_path / "run" / "examples_0.tsv").read_text().splitlines()]
    assert [int(line[0]) for line in lines] == [1, 2, 3, 4]
    batches = list(itertools.islice(setup.batches(tiny_config(), setup.open_source(tiny_config()), 0), 2))
    expected = np.concatenate([examples for _, examples in batches])
    np.testing.assert_array_equal([list(map(int, line[1:])) for line in lines], expected)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"size": 2499}, "had 2500 examples when the run began, and now has 2499"),
        ({"identity": 7}, "holds other examples"),
    ],
)
def test_other_examples_are_refused(change, message, run, tmp_path, monkeypatch):
    copy = shutil.copytree(run[0], tmp_path / "copy")
    source = dataclasses.replace(setup.open_source(tiny_config()), **change)
    monkeypatch.setattr(setup.data, "load", lambda *args, **more: source)
    with pytest.raises(ValueError, match=message):
        fit(tiny_config(steps=6), run=copy, resume=True)


def test_examples_of_ones_own_are_refused_in_place_of_named_ones(run, tmp_path):
    copy = shutil.copytree(run[0], tmp_path / "copy")
    with pytest.raises(ValueError, match=r"`resume` cannot change data\.source from"):
        fit(tiny_config(steps=6), setup.open_source(tiny_config()), copy, resume=True)


def test_examples_are_not_logged_to_where_nothing_can_be_appended():
    with pytest.raises(
        ValueError, match=r"`train\.log_examples` appends to files, which gs://bucket/run does not allow"
    ):
        fit(tiny_config(log_examples=True), run="gs://bucket/run")


def test_two_trainings_in_one_directory_are_refused(tmp_path):
    with rundir.locked(tmp_path / "run"), pytest.raises(FileExistsError, match="another process is training"):
        fit(tiny_config(), run=tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock"}


def test_more_classes_than_labels_are_refused(tmp_path):
    config = dataclasses.replace(tiny_config(), net=dataclasses.replace(tiny_config().net, num_classes=9))
    with pytest.raises(ValueError, match=r"digits has 10 classes, and the network labels for 9: `net\.num_classes` 10"):
        fit(config, run=tmp_path / "run")


def test_traces_on_request(tmp_path):
    fit(tiny_config(steps=8), run=tmp_path / "run", profile=2)
    assert [path.suffixes[-1] for path in (tmp_path / "run" / "profile").rglob("*.pb")] == [".pb"]


def test_what_an_interrupted_life_wrote_is_hidden(run, tmp_path):
    """TensorBoard drops what stands before a START event at its step or later."""
    resumed = shutil.copytree(run[0], tmp_path / "resumed")
    shutil.rmtree(resumed / "checkpoints" / "4")
    fit(tiny_config(), run=resumed, resume=True)
    starts = [event.step for event in read_events(resumed) if event.session_log.status == 1]
    assert starts == [1, 3]  # of steps 1 and 2 nothing is hidden


def test_accumulation_does_not_change_the_count_of_flops():
    counts = []
    for parts in (1, 2):
        config = tiny_config(accumulate=parts)
        batch, _ = next(setup.batches(config, setup.open_source(config), 0))
        state = parallel.replicate(initial.new_state(config))
        counts.append(setup.compiled(config, state, initial.step_key(config), batch)[1])
    assert counts[0] == counts[1] > 0


def test_a_config_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    rundir.write_config(tmp_path, tiny_config())
    monkeypatch.setattr("os.replace", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        rundir.write_config(tmp_path, tiny_config(steps=10))
    assert configs.read_run(tmp_path) == tiny_config()


def test_writes_what_tensorboard_shows(run):
    scalars = read_scalars(run[0])
    assert {"loss", "grad_norm", "seconds_per_step", "images_per_second_per_device", "memory_gib", "data_wait_per_step",
            "teraflops_per_device"} <= set(scalars)  # fmt: skip
    assert list(scalars["loss"]) == [2, 4] and list(scalars["compile_seconds"]) == [2]
    assert scalars["images_per_second"][4] == pytest.approx(16 / scalars["seconds_per_step"][4], rel=1e-5)


def test_never_overwrites_a_run(run):
    directory, _ = run
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    with pytest.raises(FileExistsError, match="add `resume` to go on with it"):
        fit(tiny_config(), run=directory)
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_refuses_to_resume_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        fit(tiny_config(), run=tmp_path / "nothing", resume=True)


def test_config_survives_json():
    config = tiny_config()
    assert configs.from_json(configs.to_json(config)) == config
    broken = json.loads(configs.to_json(config)) | {"trian": {}}
    with pytest.raises(ValueError, match="did you mean 'train'"):
        configs.from_json(json.dumps(broken))
