"""Tensors of published transformers: positions lie beside them, and each block of a DiT has embedders of time and label."""

import re

import numpy as np

from jaxdiff.model.interop import mapping
from jaxdiff.model.interop.mapping import Entry
from jaxdiff.model.interop.weights import Tensors
from jaxdiff.nets.dit import waves_of_places
from jaxdiff.nets.dit_config import DiTConfig
from jaxdiff.nets.mmdit_config import MMDiTConfig

EMBEDDERS = "transformer_blocks.0.norm1.emb."
NAMES = {
    "time_embedding.": f"{EMBEDDERS}timestep_embedder.",
    "class_embedding.": f"{EMBEDDERS}class_embedder.embedding_table.",
}
COPY = re.compile(r"transformer_blocks\.[1-9]\d*\.norm1\.emb\.(.*)")
POSITIONS = "pos_embed.pos_embed"


def entries(net: DiTConfig | MMDiTConfig, shapes) -> tuple[Entry, ...]:
    """Mapping of a transformer's parameters, see `mapping.entries`; the embedders of a DiT are those of its first block."""
    return mapping.entries(shapes, NAMES, net.patch)


def without_copies(tensors: Tensors, where: str) -> Tensors:
    """Published tensors without the embedders of later blocks, and without positions.

    Args:
      tensors: of a file.
      where: its name, for errors.

    Raises:
      ValueError: a block's embedder is not that of the first block, or positions are not the waves that are computed here.
    """
    copies = {name: EMBEDDERS + found[1] for name in tensors.shapes if (found := COPY.fullmatch(name))}
    for name, first in copies.items():
        if first not in tensors.shapes or not np.array_equal(tensors.read(name), tensors.read(first)):
            raise ValueError(f"{where}: {name} is not {first}, and only DiTs whose blocks share it are supported")
    left = {name: shape for name, shape in tensors.shapes.items() if name not in copies}
    return without_positions(Tensors(left, tensors.read), where)


def without_positions(tensors: Tensors, where: str, unit: float = 1.0) -> Tensors:
    """Published tensors without the positions, which are computed here.

    Args:
      tensors: of a file.
      where: its name, for errors.
      unit: length of a step from one position to the next.

    Raises:
      ValueError: positions are not the waves that are computed here.
    """
    if POSITIONS not in tensors.shapes:
        return tensors
    count, width = tensors.shapes[POSITIONS][-2:]
    side = round(count**0.5)
    waves = waves_of_places((side, side), width, unit=unit)
    if waves.shape != (count, width) or not np.allclose(tensors.read(POSITIONS)[0], waves, atol=1e-3):
        raise ValueError(f"{where}: {POSITIONS} is not of sines and cosines of a square, which alone are supported")
    return Tensors({name: shape for name, shape in tensors.shapes.items() if name != POSITIONS}, tensors.read)


def positions(net: DiTConfig | MMDiTConfig) -> dict[str, np.ndarray]:
    """The positions that are published beside the weights, where there are any: those of an `MMDiT`."""
    if net.kind != "mmdit":
        return {}
    return {POSITIONS: waves_of_places((net.places, net.places), net.width, unit=net.base_places / net.places)[None]}


def places(published: str, net: DiTConfig | MMDiTConfig) -> list[str]:
    """Names under which a tensor is written: those of an embedder are one in each block."""
    if not published.startswith(EMBEDDERS):
        return [published]
    return [published.replace(".0.", f".{i}.", 1) for i in range(net.depth)]
