"""Tensors of a published DiT: each block has the same embedders of time and label, and positions lie beside them."""

import re

import numpy as np

from jaxdiff.model.interop import mapping
from jaxdiff.model.interop.mapping import Entry
from jaxdiff.model.interop.weights import Tensors
from jaxdiff.nets.dit import waves_of_places
from jaxdiff.nets.dit_config import DiTConfig

EMBEDDERS = "transformer_blocks.0.norm1.emb."
NAMES = {
    "time_embedding.": f"{EMBEDDERS}timestep_embedder.",
    "class_embedding.": f"{EMBEDDERS}class_embedder.embedding_table.",
}
COPY = re.compile(r"transformer_blocks\.[1-9]\d*\.norm1\.emb\.(.*)")
POSITIONS = "pos_embed.pos_embed"


def entries(net: DiTConfig, shapes) -> tuple[Entry, ...]:
    """Mapping of a DiT's parameters, see `mapping.entries`; the embedders are those of the first block."""
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
    if POSITIONS in tensors.shapes:
        _check_positions(tensors.read(POSITIONS), where)
    left = {name: shape for name, shape in tensors.shapes.items() if name not in copies and name != POSITIONS}
    return Tensors(left, tensors.read)


def _check_positions(positions, where):
    count, width = positions.shape[-2:]
    side = round(count**0.5)
    waves = waves_of_places((side, side), width)
    if waves.shape != (count, width) or not np.allclose(positions.reshape(count, width), waves, atol=1e-3):
        raise ValueError(f"{where}: {POSITIONS} is not of sines and cosines of a square, which alone are supported")


def places(published: str, net: DiTConfig) -> list[str]:
    """Names under which a tensor is written: those of an embedder are one in each block."""
    if not published.startswith(EMBEDDERS):
        return [published]
    return [published.replace(".0.", f".{i}.", 1) for i in range(net.depth)]
