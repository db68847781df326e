"""Every notebook runs from top to bottom, and is stored as one such run or without outputs."""

import os
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LIMIT = 900  # seconds after which a run counts as hung; on an idle machine the longest takes 50
SIZE = 1.5e6  # bytes


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_bare_or_as_one_whole_run(path):
    """With the outputs of all cells, run once from top to bottom, or with none at all; never with those of some."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    outputs = [output for cell in code for output in cell.outputs]
    assert (counts == [None] * len(code) and not outputs) or counts == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    assert path.stat().st_size < SIZE


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_in_quick_mode(path, monkeypatch):
    """As a user would run it, on one device; most of a quick run is spent in the compiler."""
    monkeypatch.setenv("JAXDIFF_QUICK", "1")
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1")
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    end = time.monotonic() + LIMIT
    left = lambda cell: max(1, int(end - time.monotonic()))
    client = NotebookClient(notebook, timeout_func=left, kernel_name="python3", resources=where)
    try:
        client.execute()  # raises the first cell's error
    except CellTimeoutError as error:
        pytest.fail(f"{path.name} was stopped after {LIMIT} seconds, in this cell:\n{error}")
