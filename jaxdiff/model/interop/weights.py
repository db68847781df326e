"""Tensors of published weights: found in a folder, opened, and read one by one onto the devices."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import serialization, traverse_util

from jaxdiff import disk, sharding
from jaxdiff.files import check_regular, read_regular
from jaxdiff.model import files
from jaxdiff.model.interop.fields import fields_of
from jaxdiff.model.interop.mapping import LAYOUTS, Entry, differences
from jaxdiff.model.interop.mapping import entries as mapping_of

STEMS = "diffusion_pytorch_model", "model"  # of diffusers, and of transformers
FLAX = "diffusion_flax_model.msgpack", "flax_model.msgpack"  # of their earlier versions
PICKLES = ".bin", ".ckpt", ".pt", ".pth"
ROUNDED = ".gguf", ".onnx"
LIMIT = 2**27
DTYPES = "F32", "F16", "BF16", "F64"
BUFFERS = re.compile(r".*\.position_ids")  # no parameters
# Names that were given up: of a prefix that transformers 5 does not write, and of attention in old autoencoders.
ATTENTION = {
    re.compile(r"(attentions\.\d+)\.query\."): r"\1.to_q.",
    re.compile(r"(attentions\.\d+)\.key\."): r"\1.to_k.",
    re.compile(r"(attentions\.\d+)\.value\."): r"\1.to_v.",
    re.compile(r"(attentions\.\d+)\.proj_attn\."): r"\1.to_out.0.",
}
EARLIER = {re.compile(r"^text_model\."): "", **ATTENTION}


class Tensors(NamedTuple):
    """Tensors of one network, in one file or several.

    Attributes:
      shapes: their shapes, by their published names.
      read: (name) -> array.
    """

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def find(folder: epath.Path) -> list[epath.Path]:
    """The files of weights in a network's folder: those in full precision, or else a variant.

    Raises:
      FileNotFoundError: there are none, or one of several is missing.
      ValueError: there are only pickles.
    """
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    if name := chosen(names):
        return _shards(folder, folder / name) if name.endswith(".json") else [folder / name]
    if others := [name for name in sorted(names) if name.endswith((*PICKLES, *ROUNDED))]:
        check_kind(folder / others[0])
    raise FileNotFoundError(f"{folder} has no {' or '.join(f'{stem}.safetensors' for stem in STEMS)}")


def check_kind(path: epath.PathLike) -> None:
    """Raises ValueError for kinds of files that are not read, by the end of the name, and OSError for pipes."""
    check_regular(path)
    if str(path).endswith(PICKLES):
        raise ValueError(f"{path} is a pickle, which can run code, and is not read: convert it to .safetensors")
    if str(path).endswith(ROUNDED):
        raise ValueError(f"{path} is of a kind that is not read: convert it to .safetensors")


def chosen(names: Iterable[str]) -> str | None:
    """The file of weights, or the index of several, that is read among the names in a folder; None without."""
    names = sorted(names)
    for stem in STEMS:
        known = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
        indices = [name for name in names if re.fullmatch(rf"{stem}\.safetensors\.index\..+\.json", name)]
        variants = [name for name in names if re.fullmatch(rf"{stem}\..+\.safetensors", name)]
        if found := next((name for name in (*known, *indices, *variants) if name in names), None):
            return found
    return next((name for name in FLAX if name in names), None)


def _shards(folder, index):
    names = fields_of(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) and "/" not in name for name in names.values()):
        raise ValueError(f"{index}: weight_map must give the file of each tensor")
    names = sorted(set(names.values()))
    for name in names:
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing, which {index.name} names")
    return [folder / name for name in names]


@contextlib.contextmanager
def opened(
    paths: Iterable[epath.Path], ignored: re.Pattern = BUFFERS, earlier: Mapping[re.Pattern, str] = EARLIER
) -> Iterator[Tensors]:
    """Opens files of weights; names that were given up are those of today.

    Args:
      paths: the files.
      ignored: names of tensors that are no parameters.
      earlier: names that were given up, and those of today.

    Raises:
      ValueError: a file that is not one of weights, such as one that is cut short.
    """
    with contextlib.ExitStack() as stack:
        where = {}
        for path in paths:
            kind = _Flax if path.suffix == ".msgpack" else _File
            file = stack.enter_context(contextlib.closing(kind(path, ignored)))
            for key in file.shapes:
                if (name := _today(key, earlier)) in where:
                    raise ValueError(f"{path}: {key} and {where[name][1]} are the same tensor")
                where[name] = file, key
        shapes = {name: file.shapes[key] for name, (file, key) in where.items()}
        yield Tensors(shapes, lambda name: where[name][0].read(where[name][1]))


class _File:
    """A file of weights that is opened anew after every `LIMIT` bytes: what was read of an open file counts as memory."""

    def __init__(self, path, ignored):
        self.path, self.stack = path, contextlib.ExitStack()
        self._open()
        slices = {key: self.file.get_slice(key) for key in self.file.keys() if not ignored.fullmatch(key)}
        self.shapes = {key: tuple(one.get_shape()) for key, one in slices.items()}
        for key, one in slices.items():
            if one.get_dtype() not in DTYPES:
                raise ValueError(f"{path}: {key} is {one.get_dtype()}, and only {', '.join(DTYPES)} are read")

    def _open(self):
        self.close()
        self.file, self.bytes = self.stack.enter_context(files.opened(self.path)), 0

    def read(self, key):
        if self.bytes > LIMIT and not disk.is_remote(self.path):
            self._open()
        value = self.file.get_tensor(key)
        self.bytes += value.nbytes
        return value

    def close(self):
        self.stack.close()


class _Flax:
    """A file of weights of Flax, which is in memory as a whole; its names and axes are made those of PyTorch."""

    def __init__(self, path, ignored):
        content = read_regular(path)
        try:
            tree = serialization.msgpack_restore(content)
            flat = traverse_util.flatten_dict(tree.get("params", tree), sep="/")
            self.entries = {entry.published: entry for entry in mapping_of(flat)}
        except Exception as error:  # the types of the library's own errors
            raise ValueError(f"{path} is not a file of weights ({error})") from None
        self.flat = flat
        self.shapes = {name: entry.shape for name, entry in self.entries.items() if not ignored.fullmatch(name)}

    def read(self, key):
        entry = self.entries[key]
        return LAYOUTS[entry.layout].to_published(np.asarray(self.flat[entry.ours]))

    def close(self):
        self.flat = {}


def _today(name, earlier):
    for pattern, replacement in earlier.items():
        name = pattern.sub(replacement, name)
    return name


def read(mapping: tuple[Entry, ...], tensors: Tensors, where: str, dtype: str = "float32", placement=None):
    """Parameters of a network, onto the devices.

    Args:
      mapping: of the network.
      tensors: published tensors.
      where: name of the file or folder, for errors.
      dtype: dtype of the parameters.
      placement: device, sharding or mesh, see `sharding.placed`; by default a copy on each local device.

    Returns:
      Nested dicts.

    Raises:
      ValueError: tensors that do not fit the mapping; nothing is read then.
    """
    if wrong := differences(mapping, tensors.shapes):
        more = f", and {len(wrong) - 1} more do not fit" if len(wrong) > 1 else ""
        raise ValueError(f"{where}: {wrong[0]}{more}")
    flat, dtype = {}, jnp.dtype(dtype)
    for entry in mapping:
        value = LAYOUTS[entry.layout].to_ours(tensors.read(entry.published))
        flat[entry.ours] = sharding.placed(entry.ours, np.asarray(value, dtype, order="C"), placement)
    return traverse_util.unflatten_dict(flat, sep="/")
