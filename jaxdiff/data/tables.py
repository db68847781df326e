"""Arrow tables with images, of Parquet files or mapped into memory: their rows, and which column is what."""

import bisect
import collections
import functools
import itertools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

log = logging.getLogger("jaxdiff")
KEPT = 2**30  # bytes of images of groups of rows of Parquet files that are kept in memory

IMAGES, TEXTS, LABELS = ("image", "img", "jpg", "png"), ("text", "caption"), ("label", "labels", "cls")


class Columns(NamedTuple):
    """Names of the columns of a table, and of the labels.

    Attributes:
      image: column of image files, bytes or a struct with a field "bytes".
      text: column of captions; None without.
      label: column of numbers of classes; None without.
      classes: names of the labels, as Hugging Face's data sets keep them; () where there are none.
    """

    image: str
    text: str | None
    label: str | None
    classes: tuple[str, ...]


def columns(schema: pa.Schema, where: str) -> Columns:
    """The columns of a schema: those called `IMAGES`, `TEXTS` and `LABELS`, or the only one of image files.

    Args:
      schema: of the table.
      where: name of the file, for errors.

    Raises:
      ValueError: no column of image files, or several.

    Example::

        >>> import pyarrow as pa
        >>> from jaxdiff.data import tables
        >>> picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        >>> tables.columns(pa.schema([("picture", picture), ("text", pa.string())]), "a.parquet")
        Columns(image='picture', text='text', label=None, classes=())
    """
    images = [field.name for field in schema if _holds_files(field.type)]
    image = next((name for name in IMAGES if name in images), images[0] if len(images) == 1 else None)
    if image is None:
        raise ValueError(
            f"{where} has {len(images)} columns of image files, not one, nor one that is called image: its columns are "
            f"{', '.join(schema.names)}"
        )
    is_text = lambda name: (
        pa.types.is_string(schema.field(name).type) or pa.types.is_large_string(schema.field(name).type)
    )
    text = next((name for name in TEXTS if name in schema.names and is_text(name)), None)
    is_number = lambda name: pa.types.is_integer(schema.field(name).type)
    label = next((name for name in LABELS if name in schema.names and is_number(name)), None)
    return Columns(image, text, label, _names(schema, label))


def _holds_files(kind):
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else None
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _names(schema, label):
    """Names of the classes, of the metadata that Hugging Face's data sets write."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (ValueError, KeyError, TypeError):
        return ()


def file_of(value, where: Callable[[], str]) -> bytes:
    """The image file of a cell.

    Args:
      value: of the cell, as Python has it.
      where: returns its place, for errors.

    Raises:
      ValueError: there is none, such as of a data set that keeps paths alone.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if not content:
        path = value.get("path") if isinstance(value, dict) else None
        raise ValueError(f"{where()} has no image in it{f', only the path {path}' if path else ''}")
    return content


class Rows(NamedTuple):
    """Rows of several files, which are read in parts.

    Attributes:
      schema: of all files.
      ends: for each part, the number of rows up to its end.
      begins: for each part, the number of rows before its file.
      names: for each part, the name of its file.
      part: (part, column) -> values of that column in the part; what is read is kept, see `KEPT`.
      column: column -> values of that column, of one file or part after the other; nothing is kept.
    """

    schema: pa.Schema
    ends: list[int]
    begins: list[int]
    names: list[str]
    part: Callable[[int, str], pa.Array | pa.ChunkedArray]
    column: Callable[[str], Iterator[pa.Array | pa.ChunkedArray]]

    def value(self, i: int, column: str) -> Any:
        """The value of a cell, as Python has it."""
        part = bisect.bisect_right(self.ends, i)
        return self.part(part, column)[i - (self.ends[part - 1] if part else 0)].as_py()

    def place(self, i: int) -> str:
        """Name of the file of row i, and its number there."""
        part = bisect.bisect_right(self.ends, i)
        return f"row {i - self.begins[part]} of {self.names[part]}"


def _rows(schema, names, parts, part, column):
    """`Rows` of parts, which are pairs of the number of their file and of their rows."""
    ends = list(itertools.accumulate(count for _, count in parts))
    begins, before = {}, 0
    for (file, _), end in zip(parts, ends):
        begins.setdefault(file, before)
        before = end
    return Rows(schema, ends, [begins[f] for f, _ in parts], [names[f] for f, _ in parts], part, column)


class _Footer(NamedTuple):
    """Columns of a Parquet file, and the number of rows and bytes of each of its groups."""

    schema: pa.Schema
    groups: list[tuple[int, int]]


def _footer(path):
    with path.open("rb") as opened, pq.ParquetFile(opened) as file:
        groups = [file.metadata.row_group(g) for g in range(file.num_row_groups)]
        return _Footer(file.schema_arrow, [(group.num_rows, group.total_byte_size) for group in groups])


def of_parquet(root: epath.Path, names: list[str]) -> Rows:
    """Rows of Parquet files, whose parts are their groups of rows.

    Raises:
      ValueError: a file is cut or of another format, or has other columns than the first.
    """
    footers = [_reading(functools.partial(_footer, root / name), root / name) for name in names]
    _check_schemas([footer.schema for footer in footers], names)
    groups = [(f, g) for f, footer in enumerate(footers) for g in range(len(footer.groups))]
    sizes = [size for footer in footers for _, size in footer.groups]
    if sum(sizes) > KEPT:
        log.warning(
            "%d MB of Parquet are read in groups of up to %.3g MB, one for each example: shards are read faster",
            sum(sizes) >> 20,
            max(sizes) / 2**20,
        )

    def read(f, act):
        def opened():  # of its own: a reader serves one thread
            with (root / names[f]).open("rb") as file, pq.ParquetFile(file) as parquet:
                return act(parquet)

        return _reading(opened, root / names[f])

    def part(k, column):
        f, g = groups[k]
        return read(f, lambda file: file.read_row_group(g, [column])[column].combine_chunks())

    def column(name):
        return (read(f, lambda file: file.read([name])[name]) for f in range(len(names)))

    schema = footers[0].schema if footers else pa.schema([])
    parts = [(f, count) for f, footer in enumerate(footers) for count, _ in footer.groups]
    return _rows(schema, names, parts, Kept(part, KEPT), column)


class Kept:
    """Results of a function that are kept up to a number of bytes, the last that were used; each is made by one thread.

    Args:
      make: called with some arguments by one thread at a time; its results have `nbytes`.
      limit: of all results that are kept; the last one is kept whatever its size.

    Example::

        >>> import numpy as np
        >>> from jaxdiff.data import tables
        >>> made = []
        >>> kept = tables.Kept(lambda n: made.append(n) or np.zeros(n, np.uint8), limit=5)
        >>> [kept(n).nbytes for n in (2, 3, 2, 1, 3, 2)], made
        ([2, 3, 2, 1, 3, 2], [2, 3, 1, 3, 2])
    """

    def __init__(self, make: Callable, limit: int):
        self.make, self.limit = make, limit
        self._found, self._size = collections.OrderedDict(), 0
        self._making, self._lock = {}, threading.Lock()

    def __call__(self, *key):
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._found:  # of another thread, meanwhile
                    return self._found[key]
            made = self.make(*key)
            with self._lock:
                self._keep(key, made)
        return made

    def _keep(self, key, made):
        self._making.pop(key, None)
        if key in self._found:  # two have made it, for it was dropped while the second one waited for the first
            self._size -= self._found.pop(key).nbytes
        self._found[key] = made
        self._size += made.nbytes
        while self._size > self.limit and len(self._found) > 1:
            self._size -= self._found.popitem(last=False)[1].nbytes


def of_arrow(root: epath.Path, names: list[str]) -> Rows:
    """Rows of Arrow files on a disk, mapped into memory; their parts are record batches. Errors as of `of_parquet`.

    Each column of a batch is validated before its first use: a wrong offset would end the process.
    """
    mapped = [_reading(functools.partial(_mapped, root / name), root / name) for name in names]
    _check_schemas([table.schema for table in mapped], names)
    batches = [(f, batch) for f, table in enumerate(mapped) for batch in table.to_batches() if batch.num_rows]

    @functools.cache
    def part(k, column):
        f, batch = batches[k]
        values = batch.column(column)
        _reading(lambda: values.validate(full=True), root / names[f])
        return values

    schema = mapped[0].schema if mapped else pa.schema([])
    parts = [(f, batch.num_rows) for f, batch in batches]
    return _rows(schema, names, parts, part, lambda name: (part(k, name) for k in range(len(batches))))


def _mapped(path):
    """A file of Arrow's stream format, as `datasets` writes it, or of its file format; mapped, not read."""
    source = pa.memory_map(os.fspath(path))
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(pa.memory_map(os.fspath(path))).read_all()


def _reading(act, path):
    try:
        return act()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
            raise  # of the disk or network, which may pass; Arrow's own have no number
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read ({reason}): it is cut or of another format") from None


def _check_schemas(schemas, names):
    for schema, name in zip(schemas, names):
        if not schema.equals(schemas[0]):
            raise ValueError(
                f"{name} has other columns ({', '.join(schema.names)}) than {names[0]} ({', '.join(schemas[0].names)})"
            )
