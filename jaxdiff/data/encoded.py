"""Examples as models have read them, latents and contexts, computed once and kept as array_record files."""

import dataclasses
import functools
import json
import uuid
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from jaxdiff.data.base import Source
from jaxdiff.files import write_whole

ABOUT, SIZE = "about.json", 4096


class Part(NamedTuple):
    """Consecutive examples that are one file.

    Attributes:
      number: of the file, in the order of the examples.
      examples: which they are.
    """

    number: int
    examples: range

    def __len__(self) -> int:
        return len(self.examples)


def parts(count: int, size: int = SIZE) -> list[Part]:
    """How so many examples are divided into files.

    Example::

        >>> from jaxdiff.data import encoded
        >>> [(part.number, part.examples) for part in encoded.parts(10_000)]
        [(0, range(0, 4096)), (1, range(4096, 8192)), (2, range(8192, 10000))]
    """
    return [Part(n, range(at, min(at + size, count))) for n, at in enumerate(range(0, count, size))]


def write_part(folder: epath.PathLike, part: Part, examples: Iterable[dict[str, np.ndarray]]) -> None:
    """Writes one file, whole or not at all.

    Args:
      folder: that is there.
      part: which of its files.
      examples: those of the part: dicts of arrays, of the same names, shapes and dtypes in each.
    """
    path, fields = _path(folder, part), {}
    unfinished = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.tmp")  # another run may be writing the same
    writer = ArrayRecordWriter(str(unfinished), "group_size:1")
    try:
        for example in examples:
            fields = fields or {name: [value.dtype.name, list(value.shape)] for name, value in example.items()}
            writer.write(b"".join(np.ascontiguousarray(example[name]).tobytes() for name in fields))
        writer.close()
        write_whole(path.with_suffix(".json"), json.dumps(fields))
        unfinished.replace(path)
    finally:
        if writer.is_open():
            writer.close()
        unfinished.unlink(missing_ok=True)


def is_there(folder: epath.PathLike, part: Part) -> bool:
    """Whether a file has been written."""
    return _path(folder, part).exists()


def _path(folder, part):
    return epath.Path(folder) / f"{part.number:06d}.array_record"


def complete(folder: epath.PathLike, count: int) -> None:
    """Says, beside its files, that a folder of so many examples is whole, and what they hold.

    Raises:
      FileNotFoundError: a file is missing.
    """
    for part in parts(count):
        if not is_there(folder, part):
            raise FileNotFoundError(
                f"{_path(folder, part)} was not written: set TFDS_DATA_DIR to a folder that all share"
            )
    write_whole(epath.Path(folder) / ABOUT, (epath.Path(folder) / "000000.json").read_text())


def is_complete(folder: epath.PathLike) -> bool:
    """Whether all of its files have been written."""
    return (epath.Path(folder) / ABOUT).exists()


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
        >>> (part,) = encoded.parts(3)
        >>> encoded.write_part(folder, part, ({"image": np.full([1, 1, 4], i, np.float16)} for i in part.examples))
        >>> encoded.complete(folder, 3)
        >>> encoded.load(folder, grey)[2]["image"].ravel().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    folder = epath.Path(folder)
    fields = json.loads((folder / ABOUT).read_text())
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
