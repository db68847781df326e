"""The code of the documentation: Python runs as it is, commands name what exists, links lead somewhere."""

import itertools
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxdiff.model import Model

LEVELS = Model.levels

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    line: int
    words: list[str]  # of the info string: the language first
    body: str


def blocks(text: str) -> list[Block]:
    return [
        Block(text.count("\n", 0, found.start()) + 2, found["info"].split(), found["body"])
        for found in FENCE.finditer(text)
    ]


def commands(body: str) -> list[list[str]]:
    """The words of each line of a shell block, comments and continuations undone."""
    lines = body.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line.removeprefix("$ "), comments=True))]


def makefile_targets() -> set[str]:
    rules = re.findall(r"^([^\s#:=][^:=\n]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {target for rule in rules for target in rule.split()} - {".PHONY"}


def id_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=id_of)
def test_python_runs(path, tmp_path, monkeypatch):
    """The blocks of one file share a namespace, as a reader would paste them one after the other; grids are short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Model, "levels", lambda model, steps, *spacing: LEVELS(model, min(steps, 5), *spacing))
    text, namespace = path.read_text(), {"__name__": "__main__"}
    for block in blocks(text):
        if block.words[:1] == ["python"]:
            padded = "\n" * (block.line - 1) + block.body  # so that a traceback names the file's own lines
            exec(compile(padded, str(path), "exec"), namespace)


@pytest.mark.parametrize("path", FILES, ids=id_of)
def test_shell_names_what_exists(path):
    for block in blocks(path.read_text()):
        if block.words[:1] not in (["bash"], ["sh"], ["shell"], ["console"]):
            continue
        for words in commands(block.body):
            program, *arguments = itertools.dropwhile(re.compile(r"\w+=").match, words)  # VARIABLE=value goes before
            where = f"{id_of(path)}: {shlex.join(words)}"
            if program == "make":
                asked = {word for word in arguments if not word.startswith("-") and "=" not in word}
                assert asked <= makefile_targets(), where
            if Path(program).name in ("python", "python3"):
                scripts = [word for word in arguments[:1] if word.endswith(".py")]
                assert all((ROOT / script).is_file() for script in scripts), where


@pytest.mark.parametrize("path", FILES, ids=id_of)
def test_links_within_the_repository_lead_somewhere(path):
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text()))
    for target in re.findall(r"\]\(([^)\s#]+)", prose):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), f"{id_of(path)}: {target}"


def test_blocks_are_found_with_their_lines():
    text = "a\n```python\nx = 1\n```\n\n```bash\nmake demo  # note\njaxdiff train \\\n  digits\n```\n"
    first, second = blocks(text)
    assert first == Block(3, ["python"], "x = 1\n") and second.words == ["bash"]
    assert commands(second.body) == [["make", "demo"], ["jaxdiff", "train", "digits"]]
