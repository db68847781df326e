"""Textual inversions as others publish them: embeddings of one new token, or of several in a row."""

from etils import epath

from jaxdiff.adapt.adapter import Adapter
from jaxdiff.model import files
from jaxdiff.model.model import Model

BOTH = {"clip_l", "clip_g"}  # of Stable Diffusion XL
NAMELESS = "emb_params"  # the token is the name of the file


def is_published(path: epath.PathLike) -> bool:
    """Whether a .safetensors file holds a textual inversion that others have made."""
    path = epath.Path(path)
    if path.suffix != ".safetensors" or not path.exists():
        return False
    with files.opened(path) as file:
        keys = [*file.keys()]
        if {"adapter", "config"} & set(file.metadata() or {}):
            return False
        return set(keys) == BOTH or (len(keys) == 1 and len(file.get_slice(keys[0]).get_shape()) in (1, 2))


def read(path: epath.PathLike, model: Model) -> Adapter:
    """Reads a published textual inversion of a model.

    Args:
      path: .safetensors file with a tensor [D] or [n, D] by the name of its token or "emb_params", whose token is the name
        of the file; or with "clip_l" and "clip_g" for two text encoders.
      model: base model.

    Returns:
      `Adapter` with the new token, in small letters.

    Raises:
      ValueError: the model has another number of text encoders.
    """
    path = epath.Path(path)
    with files.opened(path) as file:
        tensors = {key: file.get_tensor(key).astype("float32") for key in file.keys()}
    counts = 1 + (set(tensors) == BOTH), 1 + ("second_text_encoder" in model.submodels)
    if counts[0] != counts[1]:
        raise ValueError(f"{path} is of {counts[0]} text encoder(s), and {model.config.name} has {counts[1]}")
    metadata = {"name": path.stem, "base": model.config.name}
    if counts[0] == 2:
        token = _token(path.stem)
        return Adapter(metadata, new_tokens={token: tensors["clip_l"]}, second_tokens={token: tensors["clip_g"]})
    ((key, rows),) = tensors.items()
    return Adapter(metadata, new_tokens={_token(path.stem if key == NAMELESS else key): rows})


def _token(name):
    """A name as a token: in small letters, without spaces."""
    return "-".join(name.lower().split())
