"""Arrows point down only: what may import what, read from the source."""

import ast
import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys
import types

import pytest

import jaxdiff

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = {path: path.read_text() for path in sorted((ROOT / "jaxdiff").rglob("*.py"))}
LAYERS = [  # floors, from the top; the package itself gathers names of all of them, lazily
    {"cli", "ui", "__main__", "jaxdiff"},
    {"plan"},
    {"eval"},
    {"train"},
    {"pipeline"},
    {"model"},
    {"config"},
    {"data", "editing", "adapt", "latent", "text", "objectives", "testing"},
    {"samplers"},
    {"guidance", "denoise", "preconditioning"},
    {"nets", "schedules", "process", "timesteps"},
    {
        "types",
        "arguments",
        "errors",
        "seeds",
        "progress",
        "registry",
        "lazy",
        "files",
        "tensor_files",
        "disk",
        "paths",
        "xla",
        "sharding",
        "meshes",
        "hosts",
    },
]
RANK = {name: len(LAYERS) - i for i, layer in enumerate(LAYERS) for name in layer}
NEVER = {  # besides the layers
    "nets": {"schedules", "process", "timesteps"},
    "schedules": {"nets"},
    "process": {"nets"},
    "timesteps": {"nets"},
    "samplers": {"nets"},
}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): text for path, text in SOURCES.items()}


def imports(text, name, modules, anywhere=True):
    """Modules that a module imports; with anywhere=False not those inside of functions."""
    nodes = [ast.parse(text)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            for alias in node.names:  # `from package import x` imports the module x, where there is one
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else node.module
        if anywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)


def layer(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def upward(modules):
    """Arrows that must not be, as text."""
    for name, text in modules.items():
        here = layer(name)
        for target in set(imports(text, name, modules)):
            if name == "jaxdiff" or target.split(".")[0] != "jaxdiff":
                continue
            there = layer(target)
            missing = {here, there} - set(RANK)
            if missing:
                yield f"{missing} in no layer: {name} -> {target}"
            elif RANK[there] > RANK[here] or there in NEVER.get(here, ()):
                yield f"{name} -> {target}"


def cycles(modules):
    """Modules that need themselves to be imported, by arrows that are followed while importing."""

    def needs(name):
        packages = {name.rsplit(".", i)[0] for i in range(name.count(".") + 1)}  # importing these already
        for target in imports(modules[name], name, modules, anywhere=False):
            above = [target.rsplit(".", i)[0] for i in range(target.count(".") + 1)]
            yield from (a for a in above if a in modules and (a == target or a not in packages) and a != "jaxdiff")

    graph = {name: set(needs(name)) for name in modules if name != "jaxdiff"}
    for start in graph:
        seen, ahead = set(), list(graph[start])
        while ahead:
            name = ahead.pop()
            if name not in seen:
                seen.add(name)
                ahead += graph[name]
        if start in seen:
            yield start


def test_no_arrow_runs_up():
    assert list(upward(MODULES)) == []


def test_no_module_needs_itself():
    assert list(cycles(MODULES)) == []


@pytest.mark.parametrize(
    "name, text, caught",
    [
        ("jaxdiff.types", "from jaxdiff.process import q_step", True),
        ("jaxdiff.process", "def f():\n    import jaxdiff.nets.unet", True),
        ("jaxdiff.nets.unet", "from jaxdiff import schedules", True),
        ("jaxdiff.samplers.ddim", "from jaxdiff import nets", True),
        ("jaxdiff.samplers.ddim", "from jaxdiff import sample", True),
        ("jaxdiff.objectives.denoising", "from jaxdiff.train.step import x", True),
        ("jaxdiff.novelty", "from jaxdiff import types", True),
        ("jaxdiff.samplers.ddim", "from jaxdiff.denoise import denoiser\nimport jax, numpy", False),
        ("jaxdiff.train.loop", "from jaxdiff import eval, objectives", True),
        ("jaxdiff.train.loop", "from jaxdiff import pipeline, objectives", False),
        ("jaxdiff.pipeline.sampling", "from jaxdiff import train", True),
        ("jaxdiff.model.files", "from jaxdiff import pipeline", True),
        ("jaxdiff.cli", "import jaxdiff", False),
    ],
)
def test_the_check_sees_an_upward_arrow(name, text, caught):
    assert bool(list(upward({**MODULES, name: text}))) == caught


@pytest.mark.parametrize(
    "texts, caught",
    [
        ({"jaxdiff.a": "import jaxdiff.b", "jaxdiff.b": "from jaxdiff.a import x"}, ["jaxdiff.a", "jaxdiff.b"]),
        ({"jaxdiff.a": "import jaxdiff.b", "jaxdiff.b": "def f():\n    import jaxdiff.a"}, []),
        ({"jaxdiff.a": "from jaxdiff.a.c import x", "jaxdiff.a.c": "import jaxdiff.a.d", "jaxdiff.a.d": ""}, []),
        (
            {"jaxdiff.a": "import jaxdiff.b", "jaxdiff.a.c": "", "jaxdiff.b": "import jaxdiff.a.c"},
            ["jaxdiff.a", "jaxdiff.b"],
        ),
    ],
)
def test_the_check_sees_a_cycle(texts, caught):
    assert list(cycles(texts)) == caught


def test_no_private_jax_and_no_tensorflow():
    private = re.compile(r"(?m)^[^\"']*\bjax\._src")  # not as a text that a test reads
    files = [path for folder in ("jaxdiff", "configs", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 20
    for path in files:
        text = path.read_text()
        assert not private.search(text), path
        roots = {target.split(".")[0] for target in imports(text, path.name, {})}
        assert "tensorflow" not in roots, path


def test_importing_it_all_asks_for_no_tensorflow():
    """A finder in front of all others notes every name asked for, so that an attempt is seen where it is not installed."""
    program = f"""
import importlib, sys

class Note:
    asked = set()
    def find_spec(self, name, path=None, target=None):
        self.asked.add(name)

sys.meta_path.insert(0, Note())
for name in {sorted(MODULES)!r}:
    importlib.import_module(name)
    assert "tensorflow" not in Note.asked, name
assert "jax" in Note.asked
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_loading_a_file_imports_no_reader_of_runs_or_data():
    program = """
import sys
import jaxdiff

jaxdiff.load("digits_classifier")
loaded = {name.split(".")[0] for name in sys.modules}
heavy = {"orbax", "grain", "tensorflow_datasets", "array_record", "tensorboardX"} & loaded
assert not heavy, heavy
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_no_public_name_is_hidden_by_a_module():
    """A module with the name of a function of its package would take the function's place once it is imported."""
    for found in pkgutil.walk_packages(jaxdiff.__path__, "jaxdiff."):
        importlib.import_module(found.name)
    hidden = [name for name in jaxdiff._NAMES if isinstance(getattr(jaxdiff, name), types.ModuleType)]
    hidden += [
        name for name in jaxdiff.pipeline.__all__ if isinstance(getattr(jaxdiff.pipeline, name), types.ModuleType)
    ]
    assert not hidden
