"""Files that are there whole or not at all: what was there before stays where writing fails."""

import errno
import pathlib
import re

import numpy as np
import pytest
from etils import epath
from helpers import fill, tiny_config

from jaxdiff import files
from jaxdiff import model as models
from jaxdiff.adapt import lora
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.data import encoded
from jaxdiff.model.frozen_models import FrozenModels, keep
from jaxdiff.pipeline import images
from jaxdiff.pipeline.edit import inversions
from jaxdiff.train import initial, rundir

PICTURES = np.zeros([2, 8, 8, 1], np.uint8)


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path):
    if request.param == "disk":
        return epath.Path(tmp_path)
    request.getfixturevalue("bucket")
    return epath.Path("gs://bucket/here")


def listing(place):
    return {path.name: path.read_bytes() for path in place.iterdir()} if place.exists() else {}


def test_content_is_bytes_or_text_and_replaces_what_is_there(place):
    files.write_whole(place / "a.txt", "ä")
    assert listing(place) == {"a.txt": b"\xc3\xa4"}
    files.write_whole(place / "a.txt", b"new")
    assert listing(place) == {"a.txt": b"new"}


def test_nothing_is_there_until_all_is_written(place):
    with files.whole(place / "a.txt") as file:
        file.write(b"half")
        assert not (place / "a.txt").exists()
        file.write(b" and half")
    assert listing(place) == {"a.txt": b"half and half"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_was_there_stays_where_writing_fails(place, error):
    files.write_whole(place / "a.txt", "old")
    with pytest.raises(error), files.whole(place / "a.txt") as file:
        file.write(b"half")
        raise error
    assert listing(place) == {"a.txt": b"old"}


def test_what_was_there_stays_where_the_disk_is_full(small_disk):
    files.write_whole(small_disk / "a.txt", "old")
    fill(small_disk)
    with pytest.raises(OSError) as raised:
        files.write_whole(small_disk / "a.txt", bytes(10_000))
    assert raised.value.errno == errno.ENOSPC
    assert (small_disk / "a.txt").read_text() == "old"
    assert sorted(path.name for path in small_disk.iterdir()) == ["a.txt", "filler"]


def model():
    config = tiny_config()
    return models.Model(config=config, params=initial.new_state(config).ema)


def adapter():
    return Adapter({"base": "tiny"}, {"unet": lora.Lora({}, {})}, {"<star>": np.ones(3)})


def inversion():
    return inversions.Inversion(PICTURES[0], np.zeros([2, 1, 8, 8, 1], np.float32), np.arange(2), "a seven")


WRITERS = {
    "weights.safetensors": lambda path: models.write(path, model()),
    "adapter": lambda path: models.write_adapter(path, adapter()),
    "inversion": lambda path: inversions.save(path, inversion(), model()),
    "config.json": lambda path: rundir.write_config(path.parent, tiny_config()),
    "prompts.json": lambda path: keep(path.parent, FrozenModels(), ["a seven"]),
    "text.safetensors": lambda path: keep(path.parent, FrozenModels({"text_encoder": model()})),
    "encoded.json": lambda path: encoded.mark_complete(path.parent, 0),
    "grid": lambda path: images.save_grid(path, PICTURES),
    "00000.png": lambda path: images.save_each(path.parent, PICTURES),
    "a.gif": lambda path: images.save_animation(path, np.stack([PICTURES, PICTURES])),
}


@pytest.mark.parametrize("name", WRITERS)
def test_everything_that_is_written_is_whole_or_as_it_was(name, tmp_path, monkeypatch):
    """With another file system, on which the last step fails."""
    path = tmp_path / (encoded.FIELDS_FILE if name == "encoded.json" else name)
    if name == "encoded.json":
        (tmp_path / "000000.json").write_text("{}")
    path.write_text("old")
    before = listing(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path(path)), "replace", refuse)
        with pytest.raises(OSError, match="no renaming today"):
            WRITERS[name](path)
    assert listing(tmp_path) == before
    WRITERS[name](path)
    assert path.read_bytes() != b"old" and not list(tmp_path.glob("*.tmp"))


def refuse(self, target):
    raise OSError(f"no renaming today: {target}")


def test_nothing_is_written_in_another_way():
    root = pathlib.Path(files.__file__).parent
    writing = re.compile(
        r"^(?! *(?:>>>|\.\.\.)).*(?:\.write_(?:text|bytes)\(|\bopen\([^)]*[\"'][wx]b?[\"'])", re.MULTILINE
    )
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if writing.search(path.read_text())}
    assert found == {"files.py", "model/interop/writing.py"}  # a folder that is renamed once all is in it


def test_an_error_while_writing_names_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left on device") as caught, files.whole(tmp_path / "a.png"):
        raise OSError(28, "No space left on device")  # as of a write, which knows no names
    assert caught.value.filename == str(tmp_path / "a.png")
