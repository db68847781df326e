"""`jaxdiff fuse`."""

import dataclasses
from typing import Annotated

import tyro

from jaxdiff import model as models
from jaxdiff import progress
from jaxdiff.cli.files import check_no_input, located, writable
from jaxdiff.cli.flags import parse
from jaxdiff.pipeline import fuse
from jaxdiff.registry import Choice


@dataclasses.dataclass(frozen=True)
class FuseFlags:
    """Makes one LoRA of several, each of a concept of its own: all of them are there when it is used.

    Attributes:
      out: the file (.safetensors) to write.
      base: the model that they were trained beside; by default the one that they name.
      method: "gradient", which acts on the inputs of each concept as its own LoRA does (Mix-of-Show), or "average", the
        mean of the corrections.
      overwrite: replace a file that is there.
    """

    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="PATH")] = "fused.safetensors"
    base: str | None = None
    method: Annotated[Choice, tyro.conf.arg(name="")] = fuse.FUSIONS.choice("gradient")
    overwrite: bool = False


DEFAULT = FuseFlags()


def main(name: str, args: list[str]) -> None:
    """`jaxdiff fuse LORA LORA ... -o FILE`."""
    first = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    names, flags = [name, *args[:first]], parse(FuseFlags(), args[first:], "jaxdiff fuse")
    out = located(flags.out, "out")
    out = out if out.suffix else out.with_suffix(".safetensors")
    check_no_input([out], (*names, flags.base))
    path = writable(out, (".safetensors",), flags.overwrite)
    adapters = [models.load_adapter(name) for name in names]
    fuse.check(adapters, flags.method)
    bases = {str(adapter.metadata.get("base")) for adapter in adapters}
    if len(bases) > 1 and flags.base is None:
        raise ValueError(f"they were trained beside different models ({', '.join(sorted(bases))}): name one by --base")
    named = flags.base or bases.pop()
    base = models.load(named)
    with progress.bar("fusing", fuse.work(adapters, flags.method), "steps") as tick:
        fused = fuse.fused(base, adapters, flags.method, tick)
    fused = fused._replace(metadata={**fused.metadata, "base": named})
    models.write_adapter(path, fused)
    print(f"fused        {path}, of {named}, with {', '.join(fused.new_tokens) or 'no new tokens'}")
