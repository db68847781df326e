"""The process of a command: Ctrl-C at its start, and variables of the environment."""

import logging
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from helpers import fails

from jaxdiff import __main__, cli, hosts, xla
from jaxdiff.cli import environment
from jaxdiff.cli import plan as cli_plan
from jaxdiff.model.interop import hub

# Runs the command in a process in which SIGINT comes with the first import of a module.
INTERRUPTED = """
import runpy, signal, sys

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background ignore
module = sys.argv.pop(1)
sys.meta_path.insert(0, Hook())
sys.argv[0] = "jaxdiff"
runpy.run_module("jaxdiff", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["jaxdiff.cli", "logging", "numpy._core._multiarray_umath", "flax"])
def test_an_interrupt_while_modules_are_imported_is_no_error(module):
    command = [sys.executable, "-c", INTERRUPTED, module, "sample", "digits", "--out=/nowhere/a.png"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def of_an_interrupt(kind):
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as cause:
            raise kind("Error importing numpy") from (cause if kind is ImportError else None)
    except kind as error:
        return error


@pytest.mark.parametrize("kind", [ImportError, RuntimeError])
def test_an_error_that_comes_of_an_interrupt_is_an_interrupt(kind, monkeypatch, capsys):
    def fail(args):
        raise of_an_interrupt(kind)

    monkeypatch.setattr(cli, "dispatch", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrained"])
    assert stop.value.code == 130 and capsys.readouterr().err == "jaxdiff: stopped without saving\n"


def test_an_interrupt_that_a_library_has_swallowed_is_noted(monkeypatch):
    before = signal.signal(signal.SIGINT, handler := __main__.Interrupts())
    try:
        assert not cli.was_interrupted(ValueError())
        cli.let_interrupt()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert handler.seen and cli.was_interrupted(ValueError())
    finally:
        signal.signal(signal.SIGINT, before)
    assert not cli.was_interrupted(ValueError())


@pytest.mark.parametrize(
    "value, on",
    [("1", True), ("true", True), ("TRUE", True), ("0", False), ("", False), ("false", False), ("no", False)],
)
def test_switches_of_the_environment_are_on_by_1_and_true_alone(value, on, monkeypatch, capsys):
    monkeypatch.setenv("JAXDIFF_TRACEBACK", value)
    with pytest.raises(SystemExit):
        cli.main(["nothing"])
    assert ("Traceback" in capsys.readouterr().err) == on


@pytest.mark.parametrize("value, on", [("1", True), ("yes", True), ("false", False), ("0", False), ("", False)])
def test_the_hub_is_not_asked_where_that_is_switched_on(value, on, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub.is_offline() == on


@pytest.mark.parametrize("value", ["two", "-1"])
def test_a_number_of_tasks_that_is_none_is_named(value):
    with pytest.raises(ValueError, match=f"SLURM_NTASKS={value} must be a whole number"):
        hosts.several({"SLURM_NTASKS": value})


@pytest.mark.parametrize(
    "variable, value, message",
    [
        ("JAX_NUM_CPU_DEVICES", "0", "JAX_NUM_CPU_DEVICES=0 must be a whole number of at least 1"),
        ("JAX_NUM_CPU_DEVICES", "-3", "JAX_NUM_CPU_DEVICES=-3 must be"),
        ("JAX_NUM_CPU_DEVICES", "two", "JAX_NUM_CPU_DEVICES=two must be"),
        ("XLA_FLAGS", "nonsense", "XLA_FLAGS=nonsense must be flags, which begin with --, or a file of them"),
        (
            "XLA_FLAGS",
            "--xla_brew_tea=1",
            "XLA_FLAGS: this jaxlib does not take --xla_brew_tea=1: correct or remove it",
        ),
    ],
)
@pytest.mark.parametrize("command", [("sample", "digits"), ("plan", "digits", "--topology", "v5e:2x2")])
def test_an_environment_with_which_jax_fails_is_one_line(variable, value, message, command, monkeypatch, capsys):
    monkeypatch.setattr(xla, "known_flags", lambda flags: [flag for flag in flags if "tea" not in flag])
    monkeypatch.setenv(variable, value)
    assert message in fails(capsys, *command)


def test_flags_of_xla_are_tried_once_and_familiar_ones_never(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(xla, "known_flags", lambda flags: asked.extend(flags) or list(flags))
    monkeypatch.setattr(environment.importlib.metadata, "version", lambda name: xla.KNOWN_TO[0])
    own = " ".join(f"--{name}={value}" for name, value in xla.CPU_FLAGS.items())
    for flags in (own, "--xla_force_host_platform_device_count=8", "--xla_test_a=1", "--xla_test_a=1"):
        monkeypatch.setenv("XLA_FLAGS", flags)
        environment.check()
    assert asked == ["--xla_test_a=1"]
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=0")
    environment.check()
    assert asked[1:] == ["--xla_force_host_platform_device_count=0"]
    (tmp_path / "flags").write_text("--xla_test_b=1")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    environment.check()
    xla.tune_cpu()
    assert os.environ["XLA_FLAGS"] == str(tmp_path / "flags")  # a file, which no flag may follow


@pytest.mark.parametrize("asked", [True, False])
def test_a_place_for_compiled_programs_that_is_none_is_said(asked, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    updates = {}
    place = str(tmp_path / "file") if asked else None
    monkeypatch.setattr(jax, "config", SimpleNamespace(jax_compilation_cache_dir=place, update=updates.__setitem__))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(logging.getLogger("jaxdiff"), "propagate", True)
    environment.prepare_jax()
    assert updates["jax_enable_compilation_cache"] is False and "jax_compilation_cache_dir" not in updates
    assert "cannot be written to" in caplog.text and "compiled programs are not kept" in caplog.text


def test_a_topology_is_refused_before_a_process_compiles(monkeypatch, capsys):
    monkeypatch.setattr(cli_plan, "in_child", lambda *args: pytest.fail("it has begun to compile"))
    for flags in (["--topology=v9:4"], ["--topology=v5e:0x4"], ["--topology=v5e:2x2", "--slices=0"]):
        fails(capsys, "plan", "digits", *flags)
    said = fails(capsys, "plan", "digits", "--topology=v5e:2x2", "--save=a.bin")
    assert "--save keeps the training step of --train.parallel sharded" in said
