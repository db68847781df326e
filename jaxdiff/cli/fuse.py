"""`jaxdiff fuse`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from etils import epath

from jaxdiff import model as models
from jaxdiff import progress
from jaxdiff.cli.files import writable
from jaxdiff.cli.flags import parse
from jaxdiff.pipeline import fuse


@dataclasses.dataclass(frozen=True)
class FuseFlags:
    """Makes one LoRA of several, each of a concept of its own: all of them are there when it is used.

    Attributes:
      out: the file (.safetensors) to write.
      base: the model that they were trained beside; by default the one that they name.
      method: "gradient", which does at the inputs of each concept what its own LoRA does (Mix-of-Show), or "average", the
        mean of the weights.
      images: of each concept, at whose inputs that is so.
      levels: of noise at which each is looked at.
      ridge: how much stays as it is where no concept has been seen, see `jaxdiff.adapt.fuse`.
      steps: of going on from what was solved layer by layer, until the network says in all what each LoRA does; 0 is none.
      seed: of these images.
      at_a_time: how many layers are solved in one go, with fewer in less memory; None is as many as take 1 GiB.
      overwrite: replace a file that is there.
    """

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("fused.safetensors")
    base: str | None = None
    method: Literal["gradient", "average"] = "gradient"
    images: int = 60
    levels: int = 12
    ridge: float = 1e-4
    steps: int = 500
    seed: int = 0
    at_a_time: int | None = None
    overwrite: bool = False


DEFAULT = FuseFlags()


def main(name: str, args: list[str]) -> None:
    """`jaxdiff fuse LORA LORA ... -o FILE`."""
    first = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    names, flags = [name, *args[:first]], parse(FuseFlags(), args[first:], "jaxdiff fuse")
    out = flags.out if flags.out.suffix else flags.out.with_suffix(".safetensors")
    path = writable(epath.Path(out), (".safetensors",), flags.overwrite)
    adapters = [models.load_adapter(name) for name in names]
    how = {name: getattr(flags, name) for name in ("method", "images", "levels", "steps", "at_a_time")}
    fuse.check(adapters, *how.values())
    bases = {str(adapter.metadata.get("base")) for adapter in adapters}
    if len(bases) > 1 and flags.base is None:
        raise ValueError(f"they were trained beside different models ({', '.join(sorted(bases))}): name one by --base")
    named = flags.base or bases.pop()
    base, how = models.load(named), how | {"ridge": flags.ridge, "seed": flags.seed}
    with progress.bar("fusing", fuse.work(adapters, flags.method, flags.steps, flags.at_a_time), "steps") as tick:
        fused = fuse.fused(base, adapters, **how, tick=tick)
    fused = fused._replace(metadata={**fused.metadata, "base": named})
    models.write_adapter(path, fused)
    print(f"fused        {path}, of {named}, with {', '.join(fused.new_tokens) or 'no new tokens'}")
