"""The reference pages are what the code says."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_reference_pages_are_up_to_date():
    """In a process of its own: other tests register samplers and networks here."""
    command = [sys.executable, "benchmarks/reference.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_of_reliability_names_the_tests_of_what_people_bring():
    """Each test of these files is in its table, and each test that it names is somewhere."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    tests = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for file in ("test_awkward.py", "data/test_colours.py", "test_arguments.py", "test_64_bit.py"):
        missing = {*re.findall(r"^def (test_\w+)", tests[ROOT / "tests" / file], re.MULTILINE)} - named
        assert not missing, file
    everywhere = {name for text in tests.values() for name in re.findall(r"def (test_\w+)", text)}
    assert not named - everywhere
