"""`jaxdiff export`."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxdiff import model as models
from jaxdiff.cli.files import File, check_no_input, located, writable
from jaxdiff.cli.flags import parse


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Writes a model's averaged weights and its config as one file, which the other commands take in place of a run.

    Of a run that learned a LoRA, new tokens or a ControlNet, these alone, for --lora and --controlnet.

    Attributes:
      out: the file (.safetensors) to write; by default NAME.safetensors, NAME being the run's.
      dtype: dtype of the weights in the file; float16 takes half the room.
      overwrite: replace a file that is there.
    """

    out: File = None
    dtype: Literal["float16", "float32"] = "float16"
    overwrite: bool = False


DEFAULT = ExportFlags()


def main(run: str, args: list[str]) -> None:
    """`jaxdiff export RUN ...`."""
    flags = parse(ExportFlags(), args, f"jaxdiff export {run}")
    config = models.load_config(run)
    out = located(f"{Path(config.name).name}.safetensors" if flags.out is None else flags.out, "out")
    check_no_input([out], [run])
    path = writable(out, (".safetensors",), flags.overwrite)
    if adapter := models.adapter_of(run):
        models.write_adapter(path, adapter, flags.dtype)
        print(f"adapter      {path}, of {adapter.metadata['base']}")
    else:
        models.write(path, models.load(run), flags.dtype)
        print(f"weights      {path}")
