"""Inversions of images, and .safetensors files of them, so that their slow part is done once."""

import json
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from jaxdiff import tensor_files
from jaxdiff.config import to_values
from jaxdiff.files import read_regular, write_whole
from jaxdiff.model import Model
from jaxdiff.pipeline.conditions import ControlInput

SEARCH = ("guidance", "early", "inner_steps", "learning_rate")  # on which the embeddings depend


class Inversion(NamedTuple):
    """The trajectory of one image up to noise, and unconditional embeddings by which guidance leads back down.

    Attributes:
      image: uint8 [H, W, C].
      trajectory: from `editing.invert`, float32 [N + 1, 1, ...].
      levels: int32 [N + 1].
      source: text or label of the image.
      embeddings: from `editing.null_text`, [N, 1, ...]; None without.
      search: options of `SEARCH` that the embeddings were optimized with.
      control: `control_checksum` of the ControlNets' pictures that it was made with; "" without.
    """

    image: np.ndarray
    trajectory: np.ndarray
    levels: np.ndarray
    source: str
    embeddings: np.ndarray | None = None
    search: Mapping[str, float] = {}
    control: str = ""


def fingerprint(model: Model) -> str:
    """Checksum of a model's forward process and weights."""
    found = zlib.crc32(json.dumps(to_values(model.config.diffusion)).encode())
    submodels = [model.submodels[name].params for name in sorted(model.submodels)]
    controls = [control.params for control in model.controls]
    for leaf in jax.tree.leaves((model.params, submodels, controls)):
        found = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), found)
    return f"{found:08x}"


def control_checksum(control: ControlInput | None) -> str:
    """Checksum of the pictures of ControlNets and of their weights; "" without."""
    if control is None:
        return ""
    found = zlib.crc32(json.dumps([control.scales, control.guess]).encode())
    for pictures in control.pictures:
        found = zlib.crc32(np.ascontiguousarray(pictures).tobytes(), found)
    return f"{found:08x}"


def save(path: epath.PathLike, inversion: Inversion, model: Model) -> None:
    """Writes an inversion, whole or not at all."""
    names = ("image", "trajectory", "levels", "embeddings")
    arrays = {name: np.ascontiguousarray(getattr(inversion, name)) for name in names
              if getattr(inversion, name) is not None}  # fmt: skip
    about = {"source": inversion.source, "search": dict(inversion.search), "control": inversion.control}
    about |= {"model": model.config.name}
    metadata = {"inversion": json.dumps(about | {"fingerprint": fingerprint(model)})}
    write_whole(path, safetensors.numpy.save(arrays, tensor_files.with_checksums(arrays, metadata)))


def load(path: epath.PathLike, model: Model) -> Inversion:
    """Reads an inversion.

    Raises:
      OSError: it cannot be read.
      ValueError: another kind of file, a damaged one, or an inversion by another model; one line.
    """
    content = read_regular(path)
    wrong = ValueError(
        f"{path} is not an inversion of this version of jaxdiff: give a file that `save_inversion` has written, or invert "
        "the image again"
    )
    try:
        arrays = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header["__metadata__"]["inversion"])
        tensor_files.check(tensor_files.checksums_of(header["__metadata__"]), arrays)
        inversion = Inversion(
            arrays["image"],
            arrays["trajectory"],
            arrays["levels"],
            about["source"],
            arrays.get("embeddings"),
            dict(about["search"]),
            about.get("control", ""),
        )
        if "embeddings" in arrays and set(inversion.search) != set(SEARCH):
            raise wrong
    except tensor_files.Damaged as error:
        raise ValueError(f"{path} is damaged ({error}): copy it again, or invert the image again") from None
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        raise wrong from None
    if about.get("fingerprint") != fingerprint(model):
        raise ValueError(
            f"{path} is an inversion by another model ({about.get('model')}): invert the image again with this one"
        )
    return inversion
