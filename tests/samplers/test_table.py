"""The table of docs/samplers.md: it has every sampler, and its numbers are those of the present code."""

import importlib.util
import pathlib
import sys

import pytest

from jaxdiff import samplers

ROOT = pathlib.Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("benchmark_of_samplers", ROOT / "benchmarks" / "samplers.py")
sys.path.append(str(ROOT / "benchmarks"))  # where it finds what benchmarks share
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


def rows(page: str) -> dict[str, dict[str, str]]:
    """The table's cells by sampler and column, absent ones left out."""
    head, _, *lines = page.split(benchmark.BEGIN)[1].split(benchmark.END)[0].strip().splitlines()
    cut = lambda line: [cell.strip() for cell in line.strip("|").split(" | ")]
    assert cut(head) == ["sampler", *benchmark.HEADS.values()]
    cells = {name.strip("`"): dict(zip(benchmark.HEADS, rest, strict=True)) for name, *rest in map(cut, lines)}
    return {name: {head: cell for head, cell in line.items() if cell != "-"} for name, line in cells.items()}


TABLE = rows(benchmark.PAGE.read_text())


def missing(table):
    """Registered samplers without a row."""
    return set(samplers.SAMPLERS) - {row.split("(")[0] for row in table}


def test_no_sampler_is_missing():
    assert missing(TABLE) == set()
    assert list(TABLE) == list(benchmark.ROWS), "run python benchmarks/samplers.py --write"
    assert missing({name: row for name, row in TABLE.items() if name != "lcm()"}) == {"lcm"}


@pytest.mark.parametrize("name", benchmark.ROWS)
def test_the_numbers_are_measured_again(name):
    """Errors to the two digits of the table or to the accuracy of float32; orders accordingly."""
    found, stated = benchmark.cells(name), TABLE[name]
    assert set(found) == set(stated)
    adaptive = name == "probability_flow()"  # where rounding may decide on a step
    for column, cell in found.items():
        off = abs(float(cell) - float(stated[column]))
        if column == "evaluations":
            assert off <= (12 if adaptive else 0), column
        elif column.startswith("order"):
            assert off < 0.1, column
        elif column == "golden":
            assert off < 1e-5, column
        else:
            assert off < 0.06 * float(stated[column]) + (5e-5 if adaptive else 5e-6), column


STATED = {  # orders of the flow's solvers in the papers
    "ddim()": 1,
    "heun()": 2,
    "flow_heun()": 2,
    "dpmpp_2m()": 2,
    "unipc(order=1)": 2,
    "unipc()": 3,
    'unipc(variant="bh1")': 3,
    "unipc(order=3)": 4,
    "pndm()": 2,
    "probability_flow_fixed()": 2,
}


@pytest.mark.parametrize("name", STATED)
def test_the_orders_are_those_of_the_papers(name):
    assert abs(float(TABLE[name]["order karras"]) - STATED[name]) < 0.16


def rows_of_processes(page: str) -> dict[str, list[str]]:
    """Error and order on each process, by sampler."""
    part = page.split(benchmark.PROCESSES_BEGIN)[1].split(benchmark.END_OF_PROCESSES)[0]
    cut = lambda line: [cell.strip() for cell in line.strip("|").split(" | ")]
    return {name.strip("`"): cells for name, *cells in map(cut, part.strip().splitlines()[2:])}


PROCESSES = rows_of_processes(benchmark.PAGE.read_text())


@pytest.mark.parametrize("name", benchmark.COMPARED)
def test_orders_are_the_same_on_every_process(name):
    """Of solvers the papers' orders, of samplers with noise 1 or more."""
    for order in PROCESSES[name][1::2]:
        assert abs(float(order) - STATED[name]) < 0.16 if name in STATED else float(order) > 0.8


@pytest.mark.parametrize("name", ["heun()", "unipc()"])
@pytest.mark.parametrize("process", benchmark.PROCESSES)
def test_numbers_of_processes_are_measured_again(name, process):
    place = 2 * list(benchmark.PROCESSES).index(process)
    error, order = benchmark.on_process(name, benchmark.PROCESSES[process])
    stated = [float(cell) for cell in PROCESSES[name][place : place + 2]]
    assert abs(float(error) - stated[0]) < 0.06 * stated[0] and abs(float(order) - stated[1]) < 0.1


@pytest.mark.parametrize("name", [name for name, row in benchmark.ROWS.items() if row.draws and len(row.steps) == 2])
def test_samplers_with_noise_are_of_first_order_or_more(name):
    """From 32 to 128 steps ancestral sampling has not quite reached order 1."""
    assert float(TABLE[name]["order karras"]) > 0.8


def test_samplers_that_diffusers_has_agree_with_it():
    golden = {name: float(row["golden"]) for name, row in TABLE.items() if "golden" in row}
    assert len(golden) == 15 and max(golden.values()) < 1e-4
