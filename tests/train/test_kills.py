"""The short form of benchmarks/soak.py: a run that is killed again and again ends with the bits of one that is not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.parametrize("devices", [1, 8])
def test_kills_change_nothing(devices, tmp_path):
    command = [
        sys.executable,
        SOAK,
        "--kills",
        "6",
        "--steps",
        "200",
        "--devices",
        str(devices),
        "--directory",
        tmp_path,
    ]
    soak = subprocess.run(command, capture_output=True, text=True)
    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert "SIGTERM at step" in soak.stdout
    assert int(re.search(r"(\d+) lives began beside a half-written checkpoint", soak.stdout)[1]) >= 1, soak.stdout
    assert "equal, bit for bit; every example of an epoch seen exactly once" in soak.stdout
