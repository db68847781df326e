"""Encoded examples, latents and contexts of text, stored in array_record files."""

import dataclasses
import functools
import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from jaxdiff.data.base import Source
from jaxdiff.files import read_json, write_whole

FIELDS_FILE, SHARD_SIZE = "about.json", 4096


class Shard(NamedTuple):
    """Consecutive examples that one file holds.

    Attributes:
      number: index of the file.
      examples: indices of the examples.
    """

    number: int
    examples: range

    def __len__(self) -> int:
        return len(self.examples)


def shards(count: int, size: int = SHARD_SIZE) -> list[Shard]:
    """Divides `count` examples into shards of at most `size`.

    Example::

        >>> from jaxdiff.data import encoded
        >>> [(shard.number, shard.examples) for shard in encoded.shards(10_000)]
        [(0, range(0, 4096)), (1, range(4096, 8192)), (2, range(8192, 10000))]
    """
    return [Shard(n, range(start, min(start + size, count))) for n, start in enumerate(range(0, count, size))]


def write_shard(folder: epath.PathLike, shard: Shard, examples: Iterable[dict[str, np.ndarray]]) -> None:
    """Writes the file of a shard, whole or not at all.

    Args:
      folder: existing folder.
      shard: the shard.
      examples: its examples, dicts of arrays with the same names, shapes and dtypes.
    """
    path, fields, digest = _path(folder, shard), {}, hashlib.sha256()
    unfinished = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.tmp")  # another run may be writing the same shard
    writer = ArrayRecordWriter(str(unfinished), "group_size:1")
    try:
        for example in examples:
            fields = fields or {name: [value.dtype.name, list(value.shape)] for name, value in example.items()}
            record = b"".join(np.ascontiguousarray(example[name]).tobytes() for name in fields)
            digest.update(record)
            writer.write(record)
        writer.close()
        write_whole(path.with_suffix(".json"), json.dumps(fields))
        write_whole(path.with_suffix(".sha256"), digest.hexdigest())
        unfinished.replace(path)
    finally:
        if writer.is_open():
            writer.close()
        unfinished.unlink(missing_ok=True)


def has_shard(folder: epath.PathLike, shard: Shard) -> bool:
    """Tells whether the file of a shard has been written."""
    return _path(folder, shard).exists()


def _path(folder, shard):
    return epath.Path(folder) / f"{shard.number:06d}.array_record"


def mark_complete(folder: epath.PathLike, count: int) -> None:
    """Marks a folder of `count` examples as complete, by a file with the names, dtypes and shapes of their arrays.

    Raises:
      FileNotFoundError: the file of a shard is missing.
    """
    for shard in shards(count):
        if not has_shard(folder, shard):
            raise FileNotFoundError(
                f"{_path(folder, shard)} was not written: set TFDS_DATA_DIR to a folder that all processes share"
            )
    write_whole(epath.Path(folder) / FIELDS_FILE, (epath.Path(folder) / "000000.json").read_text())


def is_complete(folder: epath.PathLike) -> bool:
    """Tells whether a folder has been marked as complete."""
    return (epath.Path(folder) / FIELDS_FILE).exists()


def load(folder: epath.PathLike, source: Source) -> Source:
    """Opens the encoded examples of a source.

    Args:
      folder: a complete folder.
      source: the source that was encoded.

    Returns:
      A source of {"image": float32 latents, ...}, with the names, shapes and dtypes that were written, except that float16
      becomes float32.

    Raises:
      ValueError: the number of examples is not that of the source.

    Example::

        >>> import tempfile
        >>> import numpy as np
        >>> from jaxdiff.data import Source, encoded
        >>> grey = Source(lambda i: {"image": np.full([2, 2, 1], i, np.uint8)}, 3, (2, 2, 1))
        >>> folder = tempfile.mkdtemp()
        >>> (shard,) = encoded.shards(3)
        >>> encoded.write_shard(folder, shard, ({"image": np.full([1, 1, 4], i, np.float16)} for i in shard.examples))
        >>> encoded.mark_complete(folder, 3)
        >>> encoded.load(folder, grey)[2]["image"].ravel().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    folder = epath.Path(folder)
    fields = read_json(folder / FIELDS_FILE)
    records = ArrayRecordDataSource([str(path) for path in sorted(folder.glob("*.array_record"))])
    if len(records) != len(source):
        raise ValueError(f"{folder} holds {len(records)} examples, and the data has {len(source)}: remove it")
    arrays = [(name, np.dtype(dtype), shape) for name, (dtype, shape) in fields.items()]
    read = functools.partial(read_record, records, arrays)
    return dataclasses.replace(source, read=read, image_shape=tuple(fields["image"][1]), caption=None)


def read_record(records, arrays: Iterable[tuple[str, np.dtype, tuple[int, ...]]], i: int) -> dict[str, np.ndarray]:
    """The arrays of a record, one after the other; float16 becomes float32."""
    record, start, example = records[i], 0, {}
    for name, dtype, shape in arrays:
        count = int(np.prod(shape))
        value = np.frombuffer(record, dtype, count, start).reshape(shape)
        example[name] = value.astype(np.float32) if dtype == np.float16 else value
        start += count * dtype.itemsize
    return example
