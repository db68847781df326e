"""Prepared examples: array_record files of images or latents, captions, and a manifest of their hashes."""

import dataclasses
import functools
import hashlib
import io
import json
import math
import reprlib
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath

from jaxdiff import files
from jaxdiff.data import encoded
from jaxdiff.data.base import Source
from jaxdiff.data.captions import Captions
from jaxdiff.data.derived import HELD
from jaxdiff.data.texts import Texts

ABOUT, MANIFEST, CAPTIONS = "about.json", "manifest.json", "captions.npz"


class About(NamedTuple):
    """Contents of a folder of records, equal for all processes that write it.

    Attributes:
      source: name of the data source.
      identity: checksums of its examples, their order and contents.
      examples: how many there are.
      image_shape: height, width and channels of the images, before they are encoded.
      classes: names of the labels.
      captioned: whether captions are kept.
      models: digests of the models that encode, by what they encode; {} of images as they are.
      extra_arrays: names of further arrays of each example.
    """

    source: str
    identity: list[int]
    examples: int
    image_shape: list[int]
    classes: list[str]
    captioned: bool
    models: dict[str, str]
    extra_arrays: list[str]


def begin(folder: epath.Path, about: About) -> None:
    """Makes a folder for records, or goes on with one that was begun for the same.

    Raises:
      FileExistsError: something else is there.
    """
    path = folder / ABOUT
    if not path.exists():
        # Of processes that start at the same time each may see what another one has just written.
        if folder.exists() and any(not each.match(f"{ABOUT}.*.tmp") for each in folder.iterdir()) and not path.exists():
            raise FileExistsError(f"{folder} is there and holds something else: choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            files.write_whole(path, json.dumps(about._asdict(), indent=2) + "\n")
    there = _read_json(path)
    if there.keys() != set(About._fields):
        raise FileExistsError(f"{path} is not that of records: choose another folder")
    for name, value in about._asdict().items():
        if name != "source" and there[name] != value:
            raise FileExistsError(f"{folder} holds records of another {name.replace('_', ' ')}: choose another folder")


def write_captions(folder: epath.Path, texts: Texts) -> None:
    """Writes all captions."""
    with files.whole(folder / CAPTIONS) as file:
        np.savez(file, **texts.arrays())


def finish(folder: epath.Path) -> bool:
    """Writes the manifest once all shards and captions are there, of whichever process; returns whether it is there."""
    about = _read_json(folder / ABOUT)
    shards = encoded.shards(about["examples"])
    if not all(encoded.has_shard(folder, shard) for shard in shards):
        return False
    if about["captioned"] and not (folder / CAPTIONS).exists():
        return False
    entry = lambda shard: {
        "file": _file(shard),
        "examples": len(shard),
        "sha256": (folder / f"{shard.number:06d}.sha256").read_text(),
    }
    fields = _read_json(folder / "000000.json")
    manifest = about | {"fields": fields, "shards": [entry(shard) for shard in shards]}
    if about["captioned"]:
        manifest["captions_sha256"] = hashlib.sha256((folder / CAPTIONS).read_bytes()).hexdigest()
    files.write_whole(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return True


def load(folder: epath.Path, image_shape: tuple[int, int, int] | None, verify: bool = False) -> Source:
    """Opens prepared records.

    Args:
      folder: where they are.
      image_shape: shape of the images that is asked for; None is their own.
      verify: read all records, and compare their hashes with the manifest.

    Raises:
      FileNotFoundError: there is no manifest, or a file of it.
      ValueError: the files are not those of the manifest, or the images have another shape.
    """
    if not (folder / MANIFEST).exists():
        begun = f"{folder} is not complete: run the same jaxdiff prepare again" if (folder / ABOUT).exists() else ""
        raise FileNotFoundError(begun or f"{folder} has no {MANIFEST}: jaxdiff prepare writes such folders")
    manifest = _read_json(folder / MANIFEST)
    _check_manifest(folder / MANIFEST, manifest)
    about = About(**{name: manifest[name] for name in About._fields})
    arrays = [(name, np.dtype(kind), tuple(shape)) for name, (kind, shape) in manifest["fields"].items()]
    paths = [folder / shard["file"] for shard in manifest["shards"]]
    hashes = [shard["sha256"] for shard in manifest["shards"]]
    if image_shape is not None and tuple(about.image_shape) != tuple(image_shape):
        raise ValueError(
            f"{folder} has images of {about.image_shape}, and `image_shape` is {list(image_shape)}: change it"
        )
    records = _opened(folder, paths, about.examples, arrays)
    if verify:
        _check(records, paths, hashes)
    return Source(
        functools.partial(encoded.read_record, records, arrays),
        about.examples,
        tuple(about.image_shape),
        tuple(about.classes),
        f"{folder} was prepared of data without labels",
        identity=about.identity[0],
        contents=functools.partial(_first, about.identity[1]),
        caption=_captions(folder, manifest) if about.captioned else None,
        no_captions_reason=f"{folder} was prepared of data without captions",
        fingerprint=functools.partial(_first, "".join(hashes)),
        extra_arrays=tuple(about.extra_arrays),
        encoded_by=dict(about.models),
        where=lambda i: f"record {i % encoded.SHARD_SIZE} of {paths[i // encoded.SHARD_SIZE].name}",
    )


def _first(value):
    return value


def _all(values, kind):
    return isinstance(values, list) and all(type(value) is kind for value in values)


MANIFEST_FIELDS = {  # of a manifest: whether a value can be one, given the fields before
    "source": lambda value, _: isinstance(value, str),
    "identity": lambda value, _: _all(value, int) and len(value) == 2,
    "examples": lambda value, _: type(value) is int and value > 0,
    "image_shape": lambda value, _: _all(value, int) and len(value) == 3 and min(value) > 0,
    "classes": lambda value, _: _all(value, str),
    "captioned": lambda value, _: isinstance(value, bool),
    "models": lambda value, _: isinstance(value, dict) and set(value) <= set(HELD) and _all([*value.values()], str),
    "extra_arrays": lambda value, _: _all(value, str),
    "fields": lambda value, manifest: isinstance(value, dict) and _are_arrays(value, manifest),
    "shards": lambda value, manifest: _all(value, dict) and _are_shards(value, manifest["examples"]),
    "captions_sha256": lambda value, manifest: isinstance(value, str) or not manifest["captioned"],
}


def _check_manifest(path, manifest):
    """Raises ValueError for the first field of a manifest that cannot be."""
    for name, can_be in MANIFEST_FIELDS.items():
        if not can_be(manifest.get(name), manifest):
            found = reprlib.repr(manifest[name]) if name in manifest else "missing"
            raise ValueError(f"{path} is no manifest of records, its {name} is {found}: prepare the data again")


def _are_arrays(fields, manifest):
    """Compares names, dtypes and shapes with those of an example."""
    context, label = "text_encoder" in manifest["models"], bool(manifest["classes"])
    names = {"image", *["context"] * context, *["label"] * label, *manifest["extra_arrays"]}
    if set(fields) != names or not all(_is_array(value) for value in fields.values()):
        return False
    shape = fields["image"][1]
    return len(shape) == 3 if "codec" in manifest["models"] else shape == manifest["image_shape"]


def _is_array(value):
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and _all(value[1], int)):
        return False
    try:
        dtype = np.dtype(value[0])
    except (TypeError, ValueError, SyntaxError):
        return False
    return dtype.name == value[0] and not dtype.hasobject and min(value[1], default=0) >= 0


def _are_shards(shards, examples):
    """Compares the entries of shards with their order, names and sizes."""
    if len(shards) != -(-examples // encoded.SHARD_SIZE):
        return False
    return all(
        shard.get("file") == _file(wanted)
        and shard.get("examples") == len(wanted)
        and isinstance(shard.get("sha256"), str)
        for shard, wanted in zip(shards, encoded.shards(examples))
    )


def _file(shard):
    return f"{shard.number:06d}.array_record"


def _opened(folder, paths, examples, arrays):
    if missing := next((path for path in paths if not path.exists()), None):
        raise FileNotFoundError(f"{missing} is missing, which the manifest of {folder} names: prepare it again")
    try:
        records = ArrayRecordDataSource([str(path) for path in paths])
        count = len(records)
    except RuntimeError as error:  # of the reader of the file format
        raise ValueError(f"{folder} cannot be opened ({error}): remove it, and prepare it again") from None
    if count != examples:
        raise ValueError(
            f"{folder} holds {count} records, and its manifest names {examples}: remove it, and prepare it again"
        )
    size, wanted = (
        len(_record(records, 0, paths[0])),
        sum(kind.itemsize * math.prod(shape) for _, kind, shape in arrays),
    )
    if size != wanted:
        raise ValueError(
            f"the records of {folder} have {size} bytes, and its manifest names {wanted}: remove it, and prepare it again"
        )
    return records


def _record(records, i, path):
    try:
        return records[i]
    except (RuntimeError, ValueError, IndexError) as error:  # of the reader of the file format
        raise ValueError(
            f"record {i} of {path} cannot be read ({error}): remove that file, and prepare the data again"
        ) from None


def _check(records, paths, hashes):
    """Compares the hash of each shard's records."""
    for number, (path, wanted) in enumerate(zip(paths, hashes)):
        digest = hashlib.sha256()
        for i in range(number * encoded.SHARD_SIZE, min((number + 1) * encoded.SHARD_SIZE, len(records))):
            digest.update(_record(records, i, path))
        if digest.hexdigest() != wanted:
            raise ValueError(
                f"{path} is damaged, its records are not those of the manifest: remove it, and prepare the data again"
            )


def _captions(folder, manifest):
    def read_all():
        path, remedy = folder / CAPTIONS, "remove it, and prepare the data again"
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["captions_sha256"]:
            raise ValueError(f"{path} is damaged, or not that of the manifest: {remedy}")
        with np.load(io.BytesIO(content)) as arrays:
            texts = Texts.from_arrays(arrays)
        if len(texts) != manifest["examples"]:
            raise ValueError(f"{path} holds {len(texts)} captions of {manifest['examples']} examples: {remedy}")
        return texts

    return Captions(None, manifest["examples"], read_all)


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        values = files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}: remove it, and prepare the data again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not that of records: remove it, and prepare the data again")
    return values


def about_of(source: Source, name: str, models: dict[str, str]) -> About:
    """Describes the records of a source before they are written, see `About`."""
    return About(
        name,
        [source.identity, source.contents()],
        len(source),
        list(source.image_shape),
        list(source.classes),
        source.captioned,
        models,
        list(source.extra_arrays),
    )


def as_encoded(source: Source, models: dict[str, str]) -> Source:
    """A source of what the models of a run take: records that they have prepared are latents and contexts already.

    Args:
      source: any source.
      models: digests of the models, by what they encode.

    Raises:
      ValueError: it was prepared by other models, or by some of them only.
    """
    if not source.encoded_by:
        return source
    if source.encoded_by == models:
        return dataclasses.replace(source, image_shape=source.read(0)["image"].shape, caption=None)
    for name, digest in source.encoded_by.items():
        if models.get(name) != digest:
            raise ValueError(
                f"the records were prepared by another {name.replace('_', ' ')} than this config's: name that one by "
                f"`latent.{name}`, or prepare them again"
            )
    lost = next(name for name in models if name not in source.encoded_by)
    raise ValueError(
        f"the records hold no {HELD.get(lost, lost)}, which this config takes: prepare them again with both --codec and "
        "--text-encoder, or with neither"
    )
