"""Tables of captions, `metadata.jsonl` and `metadata.csv`, as Hugging Face's imagefolder has them."""

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff.data import captions
from jaxdiff.data.texts import Texts, position

NAMES = ("metadata.jsonl", "metadata.csv")
FIELDS = ("text", "caption", "prompt", "captions")  # of captions; the first that is there counts


def tables(files: Texts) -> dict[str, str]:
    """The tables among files: folder, "" or with a slash at its end -> name of the table in it.

    Raises:
      ValueError: two in one folder.

    Example::

        >>> from jaxdiff.data import caption_tables
        >>> from jaxdiff.data.texts import Texts, position
        >>> caption_tables.tables(Texts.of(["train/a.png", "train/metadata.csv"]))
        {'train/': 'train/metadata.csv'}
    """
    found = {}
    for i in np.flatnonzero(np.any([files.end_with(name) for name in NAMES], axis=0)):
        folder, slash, base = files[int(i)].rpartition("/")
        if base not in NAMES:
            continue
        if folder + slash in found:
            raise ValueError(f"{found[folder + slash]} and {files[int(i)]} are in one folder: remove one of them")
        found[folder + slash] = files[int(i)]
    return found


def beneath(names: Texts, tables: Mapping[str, str]) -> np.ndarray:
    """Position of the table of each image, that in the nearest folder above it, int64 [N]; -1 of none."""
    if [*tables] == [""]:
        return np.zeros(len(names), np.int64)
    places, known = {folder: n for n, folder in enumerate(tables)}, {}

    def place(folder):
        if folder not in known:
            above = folder.rstrip("/").rpartition("/")
            known[folder] = places.get(folder, place(above[0] + above[1]) if folder else -1)
        return known[folder]

    return np.fromiter((place(name[: name.rfind("/") + 1]) for name in names), np.int64, len(names))


def read(
    root: epath.Path,
    tables: Mapping[str, str],
    names: Texts,
    files: Sequence[str],
    left_out: list[str] | None = None,
) -> Texts:
    """Captions of images, several of one image joined, see `captions.joined`.

    Args:
      root: the folder of all.
      tables: as `tables` returns them; each image has one above it.
      names: of the images, N of them, sorted.
      files: names of all files, sorted.
      left_out: a list to which lines are added on rows that are left out, and images, whose captions are then "", of
        which no row is left; None raises.

    Raises:
      ValueError: a row that is none, names a file that is not there, or one that an earlier row has named; or an image
        that no row names.
    """
    above, slots, lines = beneath(names, tables), np.full(len(names), -1), np.full(len(names), -1)

    def refuse(message, error=None):
        if left_out is None:
            raise ValueError(message) from error
        left_out.append(message)

    def texts() -> Iterator[str]:
        count, i = 0, -1
        for n, (folder, table) in enumerate(tables.items()):
            for number, name, text in _rows(root / table, refuse):
                where, line = posixpath.normpath(folder + name), f"line {number} of {root / table} names {name}"
                found = position(names, where, i + 1)
                if found is None:
                    if position(files, where) is None:
                        refuse(f"{line}, which is not there: remove the line")
                    continue  # an image that is left out
                i = found
                if above[i] != n:
                    refuse(f"{line}, which lies beneath {[*tables.values()][above[i]]}: remove the line")
                elif lines[i] >= 0:
                    refuse(f"{line}, as line {lines[i]} does: remove one of them")
                else:
                    slots[i], lines[i], count = count, number, count + 1
                    yield text

    read = Texts.of(texts())
    for i in np.flatnonzero(slots < 0):
        refuse(f"{root / [*tables.values()][above[i]]} has no line for {names[int(i)]}")
    return read.take(slots) if (slots >= 0).all() else Texts.of(read[slot] if slot >= 0 else "" for slot in slots)


def _rows(path, refuse) -> Iterator[tuple[int, str, str]]:
    """Yields number, file name and captions of each line."""
    if path.name.endswith(".csv"):
        yield from _of_csv(path, refuse)
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):  # ends at "\n" alone; other ends of lines may stand within JSON
            if line.strip():
                try:
                    fields = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                    name, texts = fields["file_name"] + "", texts_of(fields, FIELDS)
                    if not texts:
                        raise ValueError("it has no text")
                except UnicodeDecodeError as error:
                    refuse(f"line {number} of {path} cannot be read as UTF-8 ({error})", error)
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    wanted = '{"file_name": "...", "text": "..."}'
                    refuse(f"line {number} of {path} is not {wanted} ({error or 'it is something else'})", error)
                else:
                    yield number, name, captions.joined(texts)


def _of_csv(path, refuse) -> Iterator[tuple[int, str, str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as UTF-8 ({error})") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        columns = next(reader, [])
        column = next((name for name in FIELDS if name in columns), None)
        if "file_name" not in columns or column is None:
            raise ValueError(f"line 1 of {path} does not name the columns file_name and text, or caption")
        name_at, text_at = columns.index("file_name"), columns.index(column)
        for row in reader:
            if not row:
                continue
            if len(row) != len(columns):
                refuse(
                    f"line {reader.line_num} of {path} has {len(row)} values, and line 1 names {len(columns)} columns"
                )
            else:
                yield reader.line_num, row[name_at], captions.joined([row[text_at]])
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of {path} cannot be read ({error})") from error


def texts_of(fields: Any, names: Sequence[str]) -> list[str]:
    """Texts in the first of some fields that holds a text, or a list of texts; [] without one.

    Example::

        >>> from jaxdiff.data.caption_tables import texts_of
        >>> texts_of({"text": ["a cat", "a grey cat"], "caption": "a pet"}, ("text", "caption"))
        ['a cat', 'a grey cat']
    """
    for name in names if isinstance(fields, dict) else ():
        value = fields.get(name)
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            return texts
    return []
