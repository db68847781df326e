"""Files of inversions, so that their slow part is done once: .safetensors with what they are of."""

import dataclasses
import json
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from jaxdiff.files import write_whole
from jaxdiff.pretrained import Model

SEARCH = ("guidance", "early", "adam", "rate")  # flags on which the nulls depend


class Inversion(NamedTuple):
    """The path of one image up to noise, and the nulls by which guidance comes back down.

    Attributes:
      image: as it was read, uint8 [H, W, C].
      path: from `editing.invert`, float32 [N + 1, 1, ...].
      levels: int32 [N + 1].
      source: what the image shows.
      nulls: from `editing.null_text`, [N, 1, ...]; None where none were looked for.
      about: the flags of `SEARCH` that the nulls were looked for with.
    """

    image: np.ndarray
    path: np.ndarray
    levels: np.ndarray
    source: str
    nulls: np.ndarray | None = None
    about: Mapping[str, float] = {}


def fingerprint(model: Model) -> str:
    """A number that a model of other weights or another forward process, in all likelihood, does not have."""
    found = zlib.crc32(json.dumps(dataclasses.asdict(model.config.diffusion)).encode())
    for leaf in jax.tree.leaves((model.params, [model.parts[name].params for name in sorted(model.parts)])):
        found = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), found)
    return f"{found:08x}"


def save(path: epath.Path, inversion: Inversion, model: Model) -> None:
    """Writes an inversion, whole or not at all."""
    arrays = {name: np.ascontiguousarray(value) for name in ("image", "path", "levels", "nulls")
              if (value := getattr(inversion, name)) is not None}  # fmt: skip
    said = {"source": inversion.source, "about": inversion.about, "model": model.config.name}
    metadata = {"inversion": json.dumps(said | {"fingerprint": fingerprint(model)})}
    write_whole(path, safetensors.numpy.save(arrays, metadata))


def load(path: epath.Path, model: Model) -> Inversion:
    """Reads an inversion.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no inversion, or one of another model; one line.
    """
    content = epath.Path(path).read_bytes()
    wrong = ValueError(f"{path} is no inversion: give a file that --save-inversion has written")
    try:
        arrays = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        said = json.loads(header["__metadata__"]["inversion"])
        inversion = Inversion(
            arrays["image"], arrays["path"], arrays["levels"], said["source"], arrays.get("nulls"), dict(said["about"])
        )
        if "nulls" in arrays and set(inversion.about) != set(SEARCH):
            raise wrong
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        raise wrong from None
    if said.get("fingerprint") != fingerprint(model):
        raise ValueError(
            f"{path} is an inversion by another model ({said.get('model')}): invert the image again with this one"
        )
    return inversion
