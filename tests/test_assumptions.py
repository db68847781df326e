"""What jaxdiff takes for granted of other libraries without their promise; each test names the code that relies on it."""

import ast
import contextlib
import io
import pathlib

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
import tyro
from jax.experimental import multihost_utils

import jaxdiff
from jaxdiff import config
from jaxdiff.cli import flags
from jaxdiff.config import Config
from jaxdiff.model import checkpoints
from jaxdiff.train import checkpoint
from jaxdiff.train.state import TrainState

TYPED = {
    "int": (["--train.steps", "many"], "Error parsing --train.steps: 'many' is not a whole number"),
    "float": (["--optim.b1", "x"], "Error parsing --optim.b1: 'x' is not a number"),
    "choice": (
        ["--optim.method", "adam"],
        "invalid choice 'adam' for argument '--optim.method'. Expected one of ('adamw', 'muon', 'sgd')",
    ),
    "no value": (["--train.steps"], "Missing value for argument '--train.steps'. Expected 1 values"),
}


@pytest.mark.parametrize("args, expected", TYPED.values(), ids=TYPED)
def test_tyro_complains_in_the_second_part_of_a_box(args, expected):
    """`cli.flags.complaint` reads it there."""
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as box:
        tyro.cli(Config, default=config.load("digits"), args=args)
    assert flags.complaint(box.getvalue()) == expected, f"tyro's box has changed:\n{box.getvalue()}"


def test_orbax_asks_for_preemptions_only_by_a_method_of_the_manager(tmp_path, monkeypatch):
    """`model.checkpoints.Manager` overrides it, so that nobody but `train.stop` asks."""
    asked, tree = [], {"a": np.ones(2)}
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    ours = checkpoint.manager(tmp_path / "ours")
    checkpoint.save(ours, TrainState(np.int32(1), tree, tree, (), ()), {})
    ours.close()
    assert asked == [] and checkpoints.steps(tmp_path / "ours") == [1]
    with ocp.CheckpointManager(tmp_path / "theirs") as theirs:
        theirs.save(1, args=ocp.args.StandardSave(tree))
    assert asked, "Orbax does not ask jax where this test listens"


def test_errors_of_tensorstore_hold_the_name_of_their_kind(tmp_path):
    """`model.checkpoints.PASSING` has those that say nothing of the checkpoint itself."""
    nobody = {"driver": "http", "base_url": "http://localhost:1/"}
    once = {"http_request_retries": {"max_retries": 1, "initial_delay": "1ms"}}
    with pytest.raises(ValueError) as unreachable:
        tensorstore.open({"driver": "zarr", "kvstore": nobody, "context": once}).result()
    assert any(word in str(unreachable.value) for word in checkpoints.PASSING)
    with pytest.raises(ValueError) as missing:
        tensorstore.open({"driver": "zarr", "kvstore": f"file://{tmp_path}/nothing"}).result()
    assert not any(word in str(missing.value) for word in checkpoints.PASSING)


PRIVATE = ("jax.core", "jax.extend", "jax.interpreters", "jax.lib", "flax.core")  # of which releases promise nothing
# By module; `os._exit` is documented; a primitive with rules of its own for forward mode cannot be had otherwise (tested in
# tests/nets).
ALLOWED = {
    "__main__": ("os._exit",),
    "types": ("jax.core.Tracer",),
    "nets/bilinear": (
        "jax.extend.core.Primitive",
        "jax.interpreters.ad",
        "jax.interpreters.batching",
        "jax.interpreters.mlir",
    ),
}


def private(text):
    """Dotted names in a module's source that others do not promise to keep."""
    tree, known = ast.parse(text), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {name.asname or name.name.split(".")[0]: name.name if name.asname else name.name.split(".")[0]
                      for name in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom):
            known |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    used = {known[head] + tail for head, tail in dotted(tree) if head in known} | set(known.values())
    for name in used:
        hidden = any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
        if not name.startswith("jaxdiff") and (hidden or name.startswith(PRIVATE)):
            yield name


def dotted(tree):
    """Attributes of names, as ("jax", ".core.Tracer")."""
    for node in ast.walk(tree):
        tail = ""
        while isinstance(node, ast.Attribute):
            node, tail = node.value, f".{node.attr}{tail}"
        if tail and isinstance(node, ast.Name):
            yield node.id, tail


def test_only_what_others_promise_is_used():
    root = pathlib.Path(jaxdiff.__file__).parent
    for path in root.rglob("*.py"):
        module = path.relative_to(root).with_suffix("").as_posix()
        for name in private(path.read_text()):
            assert name in PRIVATE or name.startswith(ALLOWED.get(module, ("-",))), f"{module} uses {name}"


@pytest.mark.parametrize(
    "text, name",
    [
        ("import jax\njax.core.Tracer", "jax.core.Tracer"),
        ("from jax._src import core", "jax._src.core"),
        ("import numpy as np\nnp.lib._x(3)", "numpy.lib._x"),
        ("from flax.core.tracers import current_trace", "flax.core.tracers.current_trace"),
        ("from orbax import checkpoint as ocp\ndef f(): return ocp._src", "orbax.checkpoint._src"),
    ],
)
def test_what_others_do_not_promise_is_found(text, name):
    assert name in set(private(text))
    assert not set(private("import jax\nfrom jaxdiff import x\njax.numpy.sin(x._a), x.a._replace(b=jax.__version__)"))
