"""Prepared examples: array_record files of images or latents, captions, and a manifest of their hashes."""

import array
import dataclasses
import functools
import hashlib
import json
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
        np.savez(file, buffer=np.frombuffer(texts.buffer, np.uint8), ends=np.frombuffer(texts.ends, np.int64))


def finish(folder: epath.Path) -> bool:
    """Writes the manifest once all shards and captions are there, of whichever process; returns whether it is there."""
    about = _read_json(folder / ABOUT)
    shards = encoded.shards(about["examples"])
    if not all(encoded.has_shard(folder, shard) for shard in shards):
        return False
    if about["captioned"] and not (folder / CAPTIONS).exists():
        return False
    entry = lambda shard: {
        "file": f"{shard.number:06d}.array_record",
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
    try:
        about = About(**{name: manifest[name] for name in About._fields})
        arrays = [(name, np.dtype(kind), tuple(shape)) for name, (kind, shape) in manifest["fields"].items()]
        paths = [folder / shard["file"] for shard in manifest["shards"]]
        hashes = [shard["sha256"] for shard in manifest["shards"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / MANIFEST} is no manifest of records ({error})") from None
    if image_shape is not None and tuple(about.image_shape) != tuple(image_shape):
        raise ValueError(
            f"{folder} has images of {about.image_shape}, and `image_shape` is {list(image_shape)}: change it"
        )
    records = _opened(folder, paths, about.examples)
    if verify:
        _check(folder, records, paths, hashes)
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


def _opened(folder, paths, examples):
    if missing := next((path for path in paths if not path.exists()), None):
        raise FileNotFoundError(f"{missing} is missing, which the manifest of {folder} names: prepare it again")
    try:
        records = ArrayRecordDataSource([str(path) for path in paths])
        count = len(records)
    except RuntimeError as error:  # of the reader of the file format
        raise ValueError(f"{folder} cannot be opened ({error}): prepare it again") from None
    if count != examples:
        raise ValueError(f"{folder} holds {count} records, and its manifest names {examples}: prepare it again")
    return records


def _check(folder, records, paths, hashes):
    """Compares the hash of each shard's records."""
    for number, (path, wanted) in enumerate(zip(paths, hashes)):
        digest = hashlib.sha256()
        for i in range(number * encoded.SHARD_SIZE, min((number + 1) * encoded.SHARD_SIZE, len(records))):
            try:
                digest.update(records[i])
            except (RuntimeError, ValueError, IndexError) as error:
                raise ValueError(f"record {i} of {path} cannot be read ({error}): prepare {folder} again") from None
        if digest.hexdigest() != wanted:
            raise ValueError(f"{path} is damaged: its records are not those of the manifest: prepare {folder} again")


def _captions(folder, manifest):
    def read_all():
        content = (folder / CAPTIONS).read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["captions_sha256"]:
            raise ValueError(f"{folder / CAPTIONS} is damaged, or not that of the manifest: prepare it again")
        with (folder / CAPTIONS).open("rb") as file, np.load(file) as arrays:
            return Texts(arrays["buffer"].tobytes(), array.array("q", arrays["ends"].tobytes()))

    return Captions(None, manifest["examples"], read_all)


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it, and prepare the data again") from None
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
        f"the records hold no {HELD.get(lost, lost)}, which this config takes: prepare them again with both `codec` and "
        "`text_encoder`, or with neither"
    )
