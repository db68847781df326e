"""`jaxdiff export` and `jaxdiff pretrained`."""

import dataclasses
from pathlib import Path
from typing import Literal

from etils import epath

from jaxdiff import pretrained as models
from jaxdiff.cli.files import writable
from jaxdiff.cli.flags import parse


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Writes a model's averaged weights and its config as one file, which the other commands take in place of a run.

    Of a run that learned a LoRA, new words or a ControlNet, these alone, for --lora and --controlnet.

    Attributes:
      out: the file (.safetensors) to write; by default NAME.safetensors, NAME being the run's.
      dtype: of the weights in the file; float16 takes half the room.
      overwrite: replace a file that is there.
    """

    out: Path | None = None
    dtype: Literal["float16", "float32"] = "float16"
    overwrite: bool = False


def export(run: str, args: list[str]) -> None:
    """`jaxdiff export RUN ...`."""
    flags = parse(ExportFlags, ExportFlags(), args, f"jaxdiff export {run}")
    model = models.load(run)
    path = writable(
        epath.Path(flags.out or f"{Path(model.config.name).name}.safetensors"), (".safetensors",), flags.overwrite
    )
    if adapter := models.adapter_of(run):
        models.write_adapter(path, adapter, flags.dtype)
        print(f"adapter      {path}, of {adapter.metadata['base']}")
    else:
        models.write(path, model, flags.dtype)
        print(f"weights      {path}")


def pretrained(args: list[str]) -> None:
    """`jaxdiff pretrained`."""
    if args and args[0] not in ("-h", "--help"):
        raise ValueError(f"jaxdiff pretrained takes no arguments, and was given {' '.join(args)}")
    for name in models.names():
        model = models.load(name)
        size = (models.SHIPPED / f"{name}.safetensors").stat().st_size / 1e6
        about = f"{model.config.kind} of {model.config.data.source}, made by jaxdiff train {model.config.name}"
        print(f"{name:<18} {size:4.1f} MB  {about}, {model.about['step']} steps")
    for name in models.adapter_names():
        adapter = models.load_adapter(name)
        size = (models.SHIPPED / "adapters" / f"{name}.safetensors").stat().st_size / 1e6
        what = (
            f"ControlNet of {adapter.metadata['condition']}"
            if adapter.control
            else f"LoRA of {', '.join(adapter.new_tokens)}"
        )
        print(f"{name:<18} {size:4.1f} MB  {what} for {adapter.metadata['base']}, made by {adapter.metadata['name']}")
