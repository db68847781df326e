"""Names and layouts of published tensors beside ours, as data: a list of entries made from the shapes of our parameters.

Import, export, the report of what is missing, and the matching of LoRAs read the same list.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from flax import traverse_util

# Parts of a path that end in the position in a list; others that end in a number, such as linear_1, are names.
LISTS = (
    "attentions|blocks|controlnet_down_blocks|down_blocks|downsamplers|layers|net|resnets|to_out|transformer_blocks|"
    "up_blocks|upsamplers"
)
KINDS = ("kernel", "scale", "embedding", "bias")  # of parameters that are called weight or bias elsewhere
RENAMED = {"vector_embedding.": "add_embedding.", "quantize.": "quantize.embedding."}  # beginnings of names, by ours
POSITION = re.compile(rf"({LISTS})_(\d+)")


class Layout(NamedTuple):
    """Axes of a tensor, published and ours.

    Attributes:
      to_ours: from the published axes to ours.
      to_published: its inverse.
    """

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_published: Callable[[np.ndarray], np.ndarray]


LAYOUTS = {
    "same": Layout(lambda x: x, lambda x: x),
    "linear": Layout(np.transpose, np.transpose),  # [out, in] and [in, out]
    "convolution": Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),  # OIHW and HWIO
}


PATCHES = (1, 2, 4, 8)  # sides of the patches of diffusion transformers


def _patches(side):
    """A convolution of disjoint patches, and the product of flattened ones that it is."""
    return Layout(
        lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
        lambda x: x.reshape(side, side, -1, x.shape[1]).transpose(3, 2, 0, 1),
    )


LAYOUTS |= {f"patches of {side}": _patches(side) for side in PATCHES}


class Entry(NamedTuple):
    """One tensor.

    Attributes:
      published: name in published files, such as "down_blocks.0.resnets.1.conv1.weight".
      ours: path in the parameters, such as "down_blocks_0/resnets_1/conv1/kernel".
      shape: published shape.
      layout: key of `LAYOUTS`.
    """

    published: str
    ours: str
    shape: tuple[int, ...]
    layout: str


def entries(shapes, rename: Mapping[str, str] = RENAMED, patch: int = 0) -> tuple[Entry, ...]:
    """Mapping of all parameters of a network, in the order of our paths.

    Args:
      shapes: our parameters, nested dicts or a dict by paths, whose leaves have a shape, see
        `jaxdiff.model.params.param_shapes`.
      rename: beginnings of published names, by the beginnings that they have in our names with dots.
      patch: side of the patches of a diffusion transformer, whose first layer is a convolution there; 0 of other networks.

    Example::

        >>> import jax
        >>> from jaxdiff.model.interop import mapping
        >>> kernel = jax.ShapeDtypeStruct((3, 3, 4, 8), "float32")
        >>> mapping.entries({"down_blocks_0": {"resnets_1": {"conv1": {"kernel": kernel}}}})[0].published
        'down_blocks.0.resnets.1.conv1.weight'
    """
    flat = traverse_util.flatten_dict(shapes, sep="/")
    return tuple(_entry(path, tuple(flat[path].shape), rename, patch) for path in sorted(flat))


def _entry(path, shape, rename, patch):
    *modules, kind = (POSITION.sub(r"\1.\2", part) if POSITION.fullmatch(part) else part for part in path.split("/"))
    layout = "same"
    if kind == "kernel":
        layout = "linear" if len(shape) == 2 else "convolution"
    if patch and path == "pos_embed/proj/kernel":
        layout = f"patches of {patch}"
    name = ".".join([*modules, "bias" if kind == "bias" else "weight"] if kind in KINDS else [*modules, kind])
    start = next((start for start in rename if name.startswith(start)), "")
    published = rename[start] + name.removeprefix(start) if start else name
    return Entry(published, path, LAYOUTS[layout].to_published(np.empty(shape, bool)).shape, layout)


def differences(mapping: Iterable[Entry], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Differences between a mapping and the tensors of a file; [] if there are none.

    Args:
      mapping: of the network.
      shapes: of the file's tensors, by their published names.

    Returns:
      One line for each tensor that is missing, has another shape, or is not of the network, in that order.
    """
    wanted = {entry.published: entry.shape for entry in mapping}
    missing = [f"{name} is missing" for name in wanted if name not in shapes]
    others = [
        f"{name} is {list(shapes[name])} and must be {list(shape)}"
        for name, shape in wanted.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    return missing + others + [f"{name} is not of this network" for name in shapes if name not in wanted]
