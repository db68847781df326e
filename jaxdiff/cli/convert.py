"""`jaxdiff convert`."""

import dataclasses
from typing import Literal

from jaxdiff import model as models
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.cli.files import File, check_no_input, located, writable
from jaxdiff.cli.flags import parse
from jaxdiff.errors import unknown
from jaxdiff.model.export import export, export_adapter, token_paths

LAYOUTS = {
    "model": ("jaxdiff", "diffusers"),
    "lora": ("jaxdiff", "peft", "kohya"),
    "controlnet": ("jaxdiff", "diffusers"),
}


@dataclasses.dataclass(frozen=True)
class ConvertFlags:
    """Writes a model or an adapter in another layout: jaxdiff convert IN OUT.

    IN is whatever --lora, --controlnet and the other commands take. OUT is a folder, which diffusers loads, or a
    .safetensors file.

    Attributes:
      layout: of a model or a ControlNet, diffusers (a folder) or jaxdiff (a file); of a LoRA, peft, kohya or jaxdiff. By
        default diffusers for a folder, peft for the file of a LoRA, and jaxdiff for other files.
      base: model that an adapter belongs to; by default the one that it names.
      tokenizer: of a single file, folder of its tokenizer; by default "tokenizer" beside it.
      predict: of a single file, kind of its prediction, where its header does not say.
      dtype: dtype of the weights in the files; float16 takes half the room.
      overwrite: replace a file that is there; folders are never replaced.
    """

    layout: str | None = None
    base: str | None = None
    tokenizer: File = None
    predict: Literal["eps", "v"] | None = None
    dtype: Literal["float16", "float32"] = "float16"
    overwrite: bool = False


DEFAULT = ConvertFlags()


def main(name: str, args: list[str]) -> None:
    """`jaxdiff convert IN OUT ...`."""
    if not args or args[0].startswith("-"):
        if {"-h", "--help"} & set(args):
            parse(ConvertFlags(), ["--help"], f"jaxdiff convert {name} OUT")
        raise ValueError("jaxdiff convert needs what to convert and where to: jaxdiff convert IN OUT")
    out, flags = located(args[0], "OUT"), parse(ConvertFlags(), args[1:], f"jaxdiff convert {name}")
    check_no_input([out], (name, flags.base))
    if out.suffix == ".safetensors":
        writable(out, None, flags.overwrite)
    elif out.exists():
        raise FileExistsError(f"{out} is there already: choose another name")
    made = _adapter(name, flags)
    if made is None:
        export(_load(name, flags), out, _layout("model", out, flags), flags.dtype)
        written = [out]
    else:
        written = _write(name, out, *made, flags)
    for path in written:
        print(f"written      {path}")


def _load(name, flags):
    return models.load(name, tokenizer=flags.tokenizer and str(flags.tokenizer), predict=flags.predict)


def _adapter(name, flags) -> tuple[Adapter, models.Model] | None:
    """The adapter of a name, and its base; None where it is a model."""
    if flags.base is not None:
        base = _load(flags.base, flags)
        return models.load_adapter(name, base), base
    if models.is_published_adapter(name):
        raise ValueError(f"{name} does not name its base model: add --base")
    try:
        adapter = models.load_adapter(name)
    except (ValueError, OSError):
        return None
    if not adapter.metadata.get("base"):
        raise ValueError(f"{name} does not name its base model: add --base")
    return adapter, models.load(adapter.metadata["base"])


def _layout(kind, out, flags):
    if kind == "lora" and out.suffix != ".safetensors":
        raise ValueError(f"{out} must end in .safetensors: a LoRA or new token is written as such a file")
    default = "jaxdiff" if out.suffix == ".safetensors" else "diffusers"
    if kind == "lora" and default == "jaxdiff":
        default = "peft"
    layout = flags.layout or default
    if layout not in LAYOUTS[kind]:
        raise unknown(f"layout of a {kind}", layout, LAYOUTS[kind])
    if (layout == "diffusers") != (out.suffix != ".safetensors"):
        raise ValueError(
            f"--layout {layout} is {'a folder' if layout == 'diffusers' else 'a .safetensors file'}: {out}"
        )
    return layout


def _write(name, out, adapter, base, flags):
    kind = "lora" if adapter.control is None else "controlnet"
    layout = _layout(kind, out, flags)
    tokens = [] if layout == "jaxdiff" else [*token_paths(adapter, out).values()]
    check_no_input(tokens, [name])
    for path in tokens:
        writable(path, None, flags.overwrite)
    export_adapter(adapter, out, base, layout, flags.dtype)
    return [*([out] if adapter.loras or kind == "controlnet" or layout == "jaxdiff" else []), *tokens]
