"""Writes the reference pages from the code: docs/choices.md from the registries, docs/api.md from the public names.

python benchmarks/reference.py            # writes both
python benchmarks/reference.py --check    # exits 1 if one is not up to date
"""

import argparse
import dataclasses
import importlib
import inspect
import sys
from pathlib import Path

import jaxdiff
from jaxdiff import data, guidance, objectives, samplers, schedules, timesteps
from jaxdiff.config import ADAPTATIONS
from jaxdiff.data.control_inputs import CONTROL_INPUTS
from jaxdiff.nets.spec import NETS
from jaxdiff.pipeline.edit import EDIT_METHODS
from jaxdiff.pipeline.fuse import FUSIONS

DOCS = Path(__file__).parents[1] / "docs"
REGISTRIES = {  # flag of the command line, and the registry
    "--sampler": samplers.SAMPLERS,
    "--spacing": timesteps.SPACINGS,
    "--guide": guidance.GUIDANCES,
    "--method (of edit)": EDIT_METHODS,
    "--method (of fuse)": FUSIONS,
    "--net": NETS,
    "--diffusion.schedule": schedules.SCHEDULES,
    "--diffusion.weighting": objectives.WEIGHTINGS,
    "--diffusion.levels": objectives.LEVEL_DRAWS,
    "--adapt": ADAPTATIONS,
    "--adapt.condition": CONTROL_INPUTS,
    "--data.source": data.SOURCES,
}
PACKAGES = (
    "jaxdiff.model", "jaxdiff.pipeline", "jaxdiff.pipeline.edit", "jaxdiff.config", "jaxdiff.data", "jaxdiff.samplers",
    "jaxdiff.guidance", "jaxdiff.editing", "jaxdiff.objectives", "jaxdiff.testing",
)  # fmt: skip
MODULES = (
    "jaxdiff.schedules", "jaxdiff.process", "jaxdiff.timesteps", "jaxdiff.denoise", "jaxdiff.types", "jaxdiff.latent",
    "jaxdiff.adapt.lora", "jaxdiff.adapt.control", "jaxdiff.adapt.new_tokens", "jaxdiff.adapt.fuse",
    "jaxdiff.text.tokenizer", "jaxdiff.text.encoder", "jaxdiff.registry",
    "jaxdiff.eval.evaluate", "jaxdiff.eval.fid", "jaxdiff.eval.likelihood",
    "jaxdiff.eval.features", "jaxdiff.train.step", "jaxdiff.train.parallel", "jaxdiff.train.optim",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [path.name for path, text in pages().items() if not path.exists() or path.read_text() != text]
    if check:
        sys.exit(f"not up to date: {', '.join(stale)}; run python benchmarks/reference.py" if stale else 0)
    for path, text in pages().items():
        path.write_text(text)
        print(path)


def pages() -> dict[Path, str]:
    """The text of each page."""
    return {DOCS / "choices.md": choices(), DOCS / "api.md": api()}


def choices() -> str:
    lines = [
        "# Everything that can be chosen by name",
        "",
        "Written by `python benchmarks/reference.py` from the code, in which each choice is declared once. On the command",
        "line a flag names the choice, and its options are flags, too: `jaxdiff sample digits --sampler heun --churn 0.5`.",
        'In Python a registry gives it with its options: `SAMPLERS["heun"](churn=0.5)`.',
    ]
    for flag, registry in REGISTRIES.items():
        lines += [
            "",
            f"## {registry.what[0].upper()}{registry.what[1:]}: `{flag}`",
            "",
            "| name | options | |",
            "|---|---|---|",
        ]
        lines += [f"| `{name}` | {options(cls)} | {first_line(cls)} |" for name, cls in sorted(registry.items())]
    return "\n".join(lines) + "\n"


def options(cls) -> str:
    """The options of a choice with their defaults."""
    values = cls()
    return ", ".join(f"`{field.name}={getattr(values, field.name)!r}`" for field in dataclasses.fields(cls))


def first_line(item) -> str:
    """The first sentence of a docstring, for a table."""
    return " ".join((inspect.getdoc(item) or "").split("\n\n")[0].split()).replace("|", "\\|")


def api() -> str:
    lines = [
        "# Index of the public names",
        "",
        "Written by `python benchmarks/reference.py` from the docstrings, which have arguments, shapes and examples:",
        "`help(jaxdiff.generate)`.",
        "",
        "## `jaxdiff`",
        "",
        "| name | |",
        "|---|---|",
    ]
    names = [name for name in jaxdiff.__all__ if not inspect.ismodule(getattr(jaxdiff, name))]
    lines += [f"| `jaxdiff.{name}` | {first_line(getattr(jaxdiff, name))} |" for name in names]
    for package in PACKAGES:
        lines += section(package, importlib.import_module(package).__all__)
    for module in MODULES:
        loaded = importlib.import_module(module)
        own = [name for name, item in vars(loaded).items() if getattr(item, "__module__", None) == module]
        lines += section(module, [name for name in own if not name.startswith("_")])
    return "\n".join(lines) + "\n"


def section(module: str, names) -> list[str]:
    """A table of some names of a module."""
    loaded = importlib.import_module(module)
    items = {name: getattr(loaded, name) for name in names}
    shown = {name: item for name, item in items.items() if callable(item) and inspect.getdoc(item)}
    lines = ["", f"## `{module}`", "", first_line(loaded), "", "| name | |", "|---|---|"]
    return lines + [f"| `{name}` | {first_line(item)} |" for name, item in sorted(shown.items())]


if __name__ == "__main__":
    main()
