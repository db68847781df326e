"""Examples as models have read them, latents and contexts, computed once and kept as array_record files."""

import dataclasses
import functools
import json
from collections.abc import Iterable

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from jaxdiff.data.base import Source

ABOUT = "about.json"


def write_part(folder: epath.PathLike, part: int, examples: Iterable[dict[str, np.ndarray]]) -> dict:
    """Writes one file of consecutive examples.

    Args:
      folder: that is there.
      part: number of the file, in the order of the examples.
      examples: dicts of arrays, of the same names, shapes and dtypes in each.

    Returns:
      The names with their dtypes and shapes, for `complete`.

    Raises:
      ValueError: there is no example.
    """
    fields, writer = {}, ArrayRecordWriter(str(epath.Path(folder) / f"{part:05d}.array_record"), "group_size:1")
    try:
        for example in examples:
            fields = fields or {name: [value.dtype.name, list(value.shape)] for name, value in example.items()}
            writer.write(b"".join(np.ascontiguousarray(example[name]).tobytes() for name in fields))
    finally:
        writer.close()
    if not fields:
        raise ValueError("there are no examples to encode")
    return fields


def complete(folder: epath.PathLike, fields: dict, **about) -> None:
    """Says, beside its files, that a folder is whole, and what it holds."""
    (epath.Path(folder) / ABOUT).write_text(json.dumps({"fields": fields} | about))


def is_complete(folder: epath.PathLike) -> bool:
    """Whether all of its files have been written."""
    return (epath.Path(folder) / ABOUT).exists()


def about(folder: epath.PathLike) -> dict:
    """What `complete` has said."""
    return json.loads((epath.Path(folder) / ABOUT).read_text())


def load(folder: epath.PathLike, source: Source) -> Source:
    """The encoded examples of a source.

    Args:
      folder: that is complete.
      source: what was encoded.

    Returns:
      A source of {"image": float32 latents, ...}, with the names, dtypes (float16 as float32) and shapes of what was
      written.

    Raises:
      ValueError: the files are not those of the source.

    Example::

        >>> import tempfile
        >>> import numpy as np
        >>> from jaxdiff.data import Source, encoded
        >>> grey = Source(lambda i: {"image": np.full([2, 2, 1], i, np.uint8)}, 3, (2, 2, 1))
        >>> folder = tempfile.mkdtemp()
        >>> fields = encoded.write_part(folder, 0, ({"image": np.full([1, 1, 4], i, np.float16)} for i in range(3)))
        >>> encoded.complete(folder, fields)
        >>> encoded.load(folder, grey)[2]["image"].ravel().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    folder, fields = epath.Path(folder), about(folder)["fields"]
    records = ArrayRecordDataSource([str(path) for path in sorted(folder.glob("*.array_record"))])
    if len(records) != len(source):
        raise ValueError(f"{folder} holds {len(records)} examples, and there are {len(source)}: remove it")
    read = functools.partial(_read, records, [(name, np.dtype(kind), shape) for name, (kind, shape) in fields.items()])
    return dataclasses.replace(source, read=read, image_shape=tuple(fields["image"][1]), caption=None)


def _read(records, fields, i):
    record, at, example = records[i], 0, {}
    for name, kind, shape in fields:
        count = int(np.prod(shape))
        value = np.frombuffer(record, kind, count, at).reshape(shape)
        example[name] = value.astype(np.float32) if kind == np.float16 else value
        at += count * kind.itemsize
    return example
