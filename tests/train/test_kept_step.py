"""Steps that were compiled before: taken where they are of the same program, and else compiled anew with a warning."""

import dataclasses
import os

import chex
import jax
import pytest
from helpers import tiny_config

from jaxdiff import cli
from jaxdiff import plan as plans
from jaxdiff.train import initial, loop, parallel, setup

SHARDED = {"parallel": "sharded", "mesh": "data=2,fsdp=4", "rules": ("kernel=fsdp(64)",), "batch_size": 16}


def config(**train):
    return tiny_config(**SHARDED | {"steps": 4, "steps_per_call": 2, "log_every": 2, "save_every": 4} | train)


def steps(config, kept):
    """What steps end with."""
    devices = parallel.of(config.train)
    state, key = devices.place(initial.new_state(config)), initial.step_key(config)
    rows, _ = next(setup.batches(config, setup.open_source(config), 0))
    step, *_ = setup.compiled(config, state, key, rows, kept=kept)
    return devices.on_host(step(state, key, rows))


def is_compiled(monkeypatch):
    """Whether the compiler is asked, which then makes nothing."""
    asked = []
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: asked.append(True) or (lambda *args: args[0]))
    return asked


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "step.bin"
    plans.report(config(), "here", save=str(path))
    return path


def test_trains_without_compiling(kept, monkeypatch):
    """A training takes it, and ends with the bits of one that has compiled."""
    wanted, asked = steps(config(), ""), is_compiled(monkeypatch)
    chex.assert_trees_all_equal(steps(config(), str(kept)), wanted)
    assert not asked


OTHERS = {"batch": config(batch_size=32), "mesh": config(mesh="fsdp=8"), "steps": config(steps_per_call=1)}
OTHERS["rate"] = dataclasses.replace(config(), optim=dataclasses.replace(config().optim, learning_rate=0.5))


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_program_is_compiled_anew(kept, other, caplog, monkeypatch):
    asked = is_compiled(monkeypatch)
    steps(other, str(kept))
    assert asked and "is not taken, and compiled anew: it is of another " in caplog.text


def test_a_damaged_one_is_compiled_anew(kept, tmp_path, caplog, monkeypatch):
    content = bytearray(kept.read_bytes())
    content[-100] ^= 1
    (tmp_path / "step.bin").write_bytes(content)
    asked = is_compiled(monkeypatch)
    steps(config(), str(tmp_path / "step.bin"))
    assert asked and "is not taken, and compiled anew: it is damaged" in caplog.text


def test_one_cut_in_its_header_is_compiled_anew(kept, tmp_path, caplog, monkeypatch):
    (tmp_path / "step.bin").write_bytes(kept.read_bytes()[:60])
    asked = is_compiled(monkeypatch)
    steps(config(), str(tmp_path / "step.bin"))
    assert asked and "it is damaged" in caplog.text


def test_other_flags_of_the_compiler_are_another_program(kept, caplog, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " --xla_cpu_enable_fast_math=true")
    asked = is_compiled(monkeypatch)
    steps(config(), str(kept))
    assert asked and "it is of another XLA_FLAGS" in caplog.text


def test_is_refused_where_it_is_none(kept, tmp_path):
    (tmp_path / "other.bin").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"other.bin is no compiled step: give a file that jaxdiff plan --save"):
        loop.fit(config(), run=tmp_path / "run", compiled_step=tmp_path / "other.bin")
    with pytest.raises(FileNotFoundError, match=r"none\.bin"):
        loop.fit(config(), run=tmp_path / "run", compiled_step=tmp_path / "none.bin")
    with pytest.raises(ValueError, match=r"`compiled_step` is for `train.parallel` sharded: leave it out"):
        loop.fit(tiny_config(), run=tmp_path / "run", compiled_step=kept)
    assert not (tmp_path / "run").exists()


MINE = """
from helpers import tiny_config

def get_config():
    return tiny_config(parallel="sharded", mesh="fsdp=8", batch_size=16, steps=4, save_every=4, log_every=2)
"""


def test_commands(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    cli.main(["plan", "mine.py", "--topology", "here", "--save", "my step"])
    assert "compiled step   my step: jaxdiff train mine.py ... --compiled-step 'my step'" in capsys.readouterr().out
    cli.main(["train", "mine.py", "--run-dir", "run", "--compiled-step", "my step"])
    assert "not taken" not in caplog.text and (tmp_path / "run" / "checkpoints" / "4").exists()
    for more, message in {
        "": "my step is there already",
        "--overwrite --largest-batch": "leave out --sweep, --largest-batch and --quick",
        "--overwrite --for sample": "--save keeps the training step of --train.parallel sharded",
        "--overwrite --train.parallel pmap --train.mesh=": "--save keeps the training step of --train.parallel sharded",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            cli.main(["plan", "mine.py", "--topology", "here", "--save", "my step", *more.split()])
        assert message in capsys.readouterr().err
