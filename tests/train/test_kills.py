"""The short form of benchmarks/soak.py: a run that is killed again and again ends as one that is not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


RUNS = {  # and how they end
    "by one process": ({"steps": 100, "devices": 2}, "equal, bit for bit"),
    "over a mesh, by one process and by two": ({"steps": 60, "devices": 4, "processes": "1,2"}, "equal to 1e-05"),
}


@pytest.mark.parametrize("options, equal", RUNS.values(), ids=RUNS)
def test_kills_change_nothing(tmp_path, options, equal):
    """Three kills, of the three kinds asked for below, with which seed 14 begins."""
    numbers = {"kills": 3, "seed": 14, "directory": tmp_path} | options
    words = [str(word) for name, number in numbers.items() for word in (f"--{name}", number)]
    soak = subprocess.run([sys.executable, SOAK, *words], capture_output=True, text=True)
    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert all(kind in soak.stdout for kind in ("SIGKILL at save", "SIGKILL at step", "SIGTERM at step")), soak.stdout
    assert int(re.search(r"(\d+) lives began beside a half-written checkpoint", soak.stdout)[1]) >= 1, soak.stdout
    assert f"{equal}; every example of an epoch seen exactly once" in soak.stdout


def test_on_one_device_20_steps_are_12_a_stop_and_8(tmp_path):
    """As test_loop on eight; how many devices there are is settled when a process starts."""
    program = """
import sys
import chex
from helpers import tiny_config
from jaxdiff.train import loop
from jaxdiff.train.stop import Stop, Stopped
import jax

assert jax.device_count() == 1
config = tiny_config(steps=20, save_every=10, log_every=10)
straight = loop.fit(config, run="straight")
asked = Stop.asked
Stop.asked = lambda self, call: (setattr(self, "signum", 15), call == 6)[1]
try:
    loop.fit(config, run="halted")
except Stopped as stopped:
    print(stopped)
Stop.asked = asked
chex.assert_trees_all_equal(loop.fit(config, run="halted", resume=True), straight)
"""
    tests = str(Path(__file__).parents[1])
    one = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    environment = os.environ | {"XLA_FLAGS": one, "PYTHONPATH": tests}
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "stopped after step 12 of 20" in run.stdout
