"""`jaxdiff.export`: models and adapters as files in one of several layouts."""

import functools

from etils import epath

from jaxdiff.adapt.adapter import Adapter
from jaxdiff.errors import check_known, unknown
from jaxdiff.model import files
from jaxdiff.model.adapters import write_adapter
from jaxdiff.model.interop import writing
from jaxdiff.model.model import Model, check_model
from jaxdiff.paths import as_path, check_path

LAYOUTS = {"jaxdiff": files.write, "diffusers": writing.folder}
LORA_LAYOUTS = {layout: functools.partial(writing.lora, layout=layout) for layout in ("peft", "kohya")}
CONTROLNET_LAYOUTS = {"diffusers": writing.controlnet}


def export(model: Model, path: epath.PathLike, layout: str = "jaxdiff", dtype: str = "float16") -> None:
    """Writes a model to disk, whole or not at all.

    Args:
      model: from `jaxdiff.load`.
      path: the .safetensors file to write, also gs://bucket/file; of the layout "diffusers" the folder.
      layout: "jaxdiff", one file with weights, config, tokenizer and submodels; or "diffusers", the folder of a pipeline
        that diffusers loads.
      dtype: dtype of the weights in the file, "float16" or "float32".

    Raises:
      TypeError: no `Model`.
      ValueError: unknown layout or dtype, a file that does not end in .safetensors, a model that the layout has no words
        for, weights that are not finite, or too large for the dtype.
      FileExistsError: the folder is there.
    """
    check_model(model)
    path = as_path(check_path("`path`", path))
    check_known("layout", layout, LAYOUTS)
    LAYOUTS[layout](path, model, dtype)


def export_adapter(
    adapter: Adapter, path: epath.PathLike, model: Model, layout: str = "jaxdiff", dtype: str = "float16"
) -> None:
    """Writes LoRAs, new tokens or a ControlNet to disk, whole or not at all.

    Args:
      adapter: from `jaxdiff.model.load_adapter`.
      path: the .safetensors file to write; of a ControlNet in the layout "diffusers" the folder.
      model: its base model.
      layout: "jaxdiff", all in one file; of LoRAs "peft" or "kohya", beside which each new token has a file of its own, its
        name and the token's; of a ControlNet "diffusers".
      dtype: dtype of the weights in the file, "float16" or "float32".

    Raises:
      TypeError: no `Adapter`.
      ValueError: unknown layout, an adapter of another base, or weights that are not finite, or too large for the dtype.
      FileExistsError: the folder is there.
    """
    if not isinstance(adapter, Adapter):
        raise TypeError(f"`adapter` must be an Adapter, from jaxdiff.model.load_adapter, not {type(adapter).__name__}")
    path = as_path(check_path("`path`", path))
    if layout == "jaxdiff":
        write_adapter(path, adapter, dtype)
        return
    layouts = LORA_LAYOUTS if adapter.control is None else CONTROLNET_LAYOUTS
    if not isinstance(layout, str) or layout not in layouts:
        raise unknown("layout", layout, ["jaxdiff", *layouts])
    if adapter.second_tokens:
        raise ValueError("new tokens of two text encoders are written in the layout 'jaxdiff' alone")
    if adapter.loras or adapter.control is not None:
        layouts[layout](path, adapter, model, dtype=dtype)
    for token, place in token_paths(adapter, path).items():
        writing.textual_inversion(place, token, adapter.new_tokens[token])


def token_paths(adapter: Adapter, path: epath.PathLike) -> dict[str, epath.Path]:
    """Files of the new tokens that `export_adapter` writes in layouts of others: the path, or names beside it."""
    path = as_path(path)
    if len(adapter.new_tokens) == 1 and not adapter.loras:
        return dict.fromkeys(adapter.new_tokens, path)
    return {token: path.with_stem(f"{path.stem}_{token.strip('<>')}") for token in adapter.new_tokens}
