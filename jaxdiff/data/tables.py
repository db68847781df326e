"""Arrow tables with images, of Parquet files or mapped into memory: their rows, and which column is what."""

import bisect
import functools
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

log = logging.getLogger("jaxdiff")
KEPT = 2**30  # bytes of groups of rows of Parquet files that are kept in memory

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


def file_of(value, where: str) -> bytes:
    """The image file of a cell.

    Raises:
      ValueError: there is none, such as of a data set that keeps paths alone.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if not content:
        path = value.get("path") if isinstance(value, dict) else None
        raise ValueError(f"{where} has no image in it{f', only the path {path}' if path else ''}")
    return content


class Rows(NamedTuple):
    """Rows of several files, which are read in parts.

    Attributes:
      schema: of all files.
      ends: for each part, the number of rows up to its end.
      part: (part, column) -> values of that column in the part.
      where: part -> name of its file.
    """

    schema: pa.Schema
    ends: list[int]
    part: Callable[[int, str], pa.Array | pa.ChunkedArray]
    where: Callable[[int], str]

    def value(self, i: int, column: str) -> Any:
        """The value of a cell, as Python has it."""
        part = bisect.bisect_right(self.ends, i)
        return self.part(part, column)[i - (self.ends[part - 1] if part else 0)].as_py()

    def place(self, i: int) -> str:
        """Name of the file of row i, and its number there."""
        part = bisect.bisect_right(self.ends, i)
        first = next(j for j in range(part + 1) if self.where(j) == self.where(part))
        return f"row {i - (self.ends[first - 1] if first else 0)} of {self.where(part)}"

    def column(self, name: str) -> Iterator:
        """Values of a column, of one part after the other."""
        return itertools.chain.from_iterable(self.part(part, name).to_pylist() for part in range(len(self.ends)))


def of_parquet(root: epath.Path, names: list[str]) -> Rows:
    """Rows of Parquet files, whose parts are their groups of rows.

    Raises:
      ValueError: a file is cut or of another format, or has other columns than the first.
    """
    files = [_opened(pq.ParquetFile, root / name) for name in names]
    _check_schemas([file.schema_arrow for file in files], names)
    groups = [(f, g) for f, file in enumerate(files) for g in range(file.num_row_groups)]
    ends = list(itertools.accumulate(files[f].metadata.row_group(g).num_rows for f, g in groups))
    sizes = [files[f].metadata.row_group(g).total_byte_size for f, g in groups]
    kept = max(4, int(KEPT / max(1, max(sizes, default=1))))
    if sum(sizes) > KEPT:
        log.warning(
            "%d MB of Parquet are read in groups of up to %.3g MB, one for each example: shards are read faster",
            sum(sizes) >> 20,
            max(sizes) / 2**20,
        )

    @functools.lru_cache(kept)
    def part(k, column):
        f, g = groups[k]
        with pq.ParquetFile((root / names[f]).open("rb")) as file:  # of its own: a reader serves one thread
            return _reading(lambda: file.read_row_group(g, [column])[column].combine_chunks(), root / names[f])

    return Rows(files[0].schema_arrow if files else pa.schema([]), ends, part, lambda k: names[groups[k][0]])


def of_arrow(root: epath.Path, names: list[str]) -> Rows:
    """Rows of Arrow files on a disk, mapped into memory; their parts are record batches. Errors as of `of_parquet`."""
    mapped = [_opened(_mapped, root / name) for name in names]
    _check_schemas([table.schema for table in mapped], names)
    parts = [(f, batch) for f, table in enumerate(mapped) for batch in table.to_batches() if batch.num_rows]
    ends = list(itertools.accumulate(batch.num_rows for _, batch in parts))
    part = lambda k, column: parts[k][1].column(column)
    return Rows(mapped[0].schema if mapped else pa.schema([]), ends, part, lambda k: names[parts[k][0]])


def _mapped(path):
    """A file of Arrow's stream format, as `datasets` writes it, or of its file format; mapped, not read."""
    source = pa.memory_map(os.fspath(path))
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(pa.memory_map(os.fspath(path))).read_all()


def _opened(opener, path):
    return _reading(lambda: opener(path if opener is _mapped else path.open("rb")), path)


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
