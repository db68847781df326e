"""`jaxdiff.export`: a model as files in one of several layouts."""

from etils import epath

from jaxdiff.errors import unknown
from jaxdiff.model import files
from jaxdiff.model.model import Model

LAYOUTS = {"jaxdiff": files.write}


def export(model: Model, path: epath.PathLike, layout: str = "jaxdiff", dtype: str = "float16") -> None:
    """Writes a model to disk, whole or not at all.

    Args:
      model: from `jaxdiff.load`.
      path: the .safetensors file to write, also gs://bucket/file.
      layout: "jaxdiff", one file with weights, config, tokenizer and submodels.
      dtype: dtype of the weights in the file, "float16" or "float32".

    Raises:
      ValueError: unknown layout, or weights that are too large for the dtype.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    LAYOUTS[layout](path, model, dtype)
