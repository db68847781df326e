"""Checkpoints: what is read is what was saved, or an error says that it is not."""

import errno
import logging
import shutil

import chex
import jax
import ml_dtypes
import numpy as np
import pytest

from jaxdiff import disk
from jaxdiff.model import checkpoints
from jaxdiff.train import checkpoint
from jaxdiff.train.state import TrainState

ABOUT = {"config": {"name": "x"}, "data": {"position": 3}}


def state(step: int, width: int = 300, dtype=np.float32) -> TrainState:
    """Arrays of several kinds, other ones at each step, and too wild to be compressed away."""
    rng = np.random.default_rng(step)
    params = {"a": {"kernel": rng.standard_normal((7, width)).astype(dtype)}, "b": np.float32(step)}
    moments = ({"mu": rng.standard_normal(50).astype(ml_dtypes.bfloat16)}, {"count": np.int32(step)})
    ema = jax.tree.map(lambda x: np.asarray(x * dtype(2), x.dtype), params)
    return TrainState(np.int32(step), params, ema, moments, ())


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "checkpoints"
    manager = checkpoint.manager(directory, keep=2)
    for step in (3, 5, 9):
        checkpoint.save(manager, state(step), ABOUT | {"data": {"position": step}})
    manager.close()
    return directory


def test_gives_back_every_bit_and_what_was_saved_beside_it(saved):
    found = checkpoint.restore(saved, state(0))
    chex.assert_trees_all_equal(found.tree, state(9))
    assert jax.tree.structure(found.tree) == jax.tree.structure(state(9))
    assert [x.dtype for x in jax.tree.leaves(found.tree)] == [np.asarray(x).dtype for x in jax.tree.leaves(state(9))]
    assert (found.about, found.step, found.corrupt) == (ABOUT | {"data": {"position": 9}}, 9, ())
    chex.assert_trees_all_equal(checkpoints.restore_ema(saved, state(0).ema).tree, state(9).ema)


def test_shapes_alone_say_what_to_restore(saved):
    like = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, state(0)))
    chex.assert_trees_all_equal(checkpoint.restore(saved, like).tree, state(9))


def test_keeps_the_newest(saved):
    assert checkpoints.steps(saved) == [9, 5]


def files(saved, step):
    """The largest file of each item, and what describes it."""
    found = sorted((path for path in (saved / str(step)).rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    arrays = [path for path in found if path.parent.name == "d" and path.parent.parent.name.startswith("ocdbt")]
    return {
        "rest": next(path for path in arrays[::-1] if "rest" in path.parts),
        "ema": next(path for path in arrays[::-1] if "ema" in path.parts),
        "about": next(path for path in found if "about" in path.parts and path.name == "metadata"),
        "manifest": next(path for path in found if path.name == "manifest.ocdbt" and path.parent.name == "rest"),
    }


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "one bit": flip_bit,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["rest", "ema", "about", "manifest"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(saved, part, damage, caplog):
    DAMAGES[damage](files(saved, 9)[part])
    with caplog.at_level(logging.WARNING, "jaxdiff"):
        found = checkpoint.restore(saved, state(0))
    chex.assert_trees_all_equal(found.tree, state(5))
    assert (found.step, found.corrupt) == (5, (9,))
    assert "step 9" in caplog.text and "is corrupt" in caplog.text


def test_other_numbers_beside_the_arrays_are_noticed(saved):
    path = files(saved, 9)["about"]
    content = path.read_text()
    assert content.count('"position": 9') == 1
    path.write_text(content.replace('"position": 9', '"position": 8'))
    assert checkpoint.restore(saved, state(0)).corrupt == (9,)


def test_a_checkpoint_that_was_not_finished_is_none(saved):
    (saved / "9").rename(saved / "9.orbax-checkpoint-tmp")  # what a killed process leaves
    assert checkpoint.restore(saved, state(0)).step == 5
    manager = checkpoint.manager(saved)
    checkpoint.save(manager, state(9), ABOUT)
    manager.close()
    assert checkpoints.steps(saved) == [9, 5] and not list(saved.glob("*tmp*"))


def test_sampling_skips_a_damaged_average_too(saved):
    flip_bit(files(saved, 9)["ema"])
    chex.assert_trees_all_equal(checkpoints.restore_ema(saved, state(0).ema).tree, state(5).ema)


def test_where_all_are_damaged_nothing_is_restored(saved):
    for step in (5, 9):
        flip_bit(files(saved, step)["rest"])
    with pytest.raises(OSError, match=r"none of the checkpoints .* step 9: .* step 5: "):
        checkpoint.restore(saved, state(0))


def test_nothing_to_restore(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        checkpoint.restore(tmp_path / "nothing", state(0))


OTHERS = {
    "shape": (state(0, width=301), r"ema/a/kernel is float32\[7, 300\] there and float32\[7, 301\] here"),
    "dtype": (state(0, dtype=np.float16), r"a/kernel is float32\[7, 300\] there and float16\[7, 300\] here"),
    "more": (state(0)._replace(extra={"codes": np.zeros(2)}), "extra/codes is missing there"),
    "less": (state(0)._replace(params={"b": np.float32(0)}), "it has params/a/kernel, which is not asked for"),
}


@pytest.mark.parametrize("like, message", OTHERS.values(), ids=OTHERS)
def test_another_structure_is_refused_by_its_first_array_and_not_taken_for_damage(saved, like, message):
    with pytest.raises(checkpoints.OtherStructure, match=message):
        checkpoint.restore(saved, like)


def test_never_replaces_a_checkpoint(saved):
    manager = checkpoint.manager(saved)
    with pytest.raises(FileExistsError, match="step 9 or later already"):
        checkpoint.save(manager, state(9), ABOUT)
    manager.close()


def test_setting_aside_deletes_nothing(saved):
    first = checkpoint.set_aside(saved, 9)
    shutil.copytree(saved / "5", saved / "9")
    second = checkpoint.set_aside(saved, 9)
    assert first.name == "9" and second.name == "9_2" and first.parent == second.parent == saved.parent / "corrupt"
    assert first.is_dir() and second.is_dir() and checkpoints.steps(saved) == [5]


def test_too_little_room_is_noticed_before_anything_is_written(saved, monkeypatch):
    manager = checkpoint.manager(saved)
    before = {path: path.stat().st_mtime_ns for path in saved.rglob("*")}
    usage = shutil.disk_usage(saved)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1))
    with pytest.raises(OSError, match=r"MiB are needed and 0\.0 are left") as raised:
        checkpoint.save(manager, state(10), ABOUT)
    assert raised.value.errno == errno.ENOSPC
    manager.close()
    assert {path: path.stat().st_mtime_ns for path in saved.rglob("*")} == before


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x"), ValueError("RESOURCE_EXHAUSTED: No space left")]
)
def test_a_full_disk_is_said_in_one_line(error):
    with pytest.raises(
        OSError, match=r"no space is left for runs/x .*; the checkpoint of step 5 is kept: make room"
    ) as told:
        with disk.explained("runs/x", lambda: "the checkpoint of step 5 is kept"):
            raise error
    assert told.value.errno == errno.ENOSPC


def test_other_errors_are_not_taken_for_a_full_disk():
    with pytest.raises(ValueError, match="something else"), disk.explained("x", str):
        raise ValueError("something else")
