"""`jaxdiff data`: what it says of a source, and the sheet of examples as a network sees them."""

import errno
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import fails
from PIL import Image

from jaxdiff import cli, data
from jaxdiff.cli import data as cli_data
from jaxdiff.data import survey
from jaxdiff.data.caption_tags import CaptionTags, with_trigger


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Pictures of two sizes in two folders: one on its side, one that is there twice, one that is none."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("cats/a", "cats/b", "dogs/c")):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (90 * i, 0, 0)).save(path)
        path.with_suffix(".txt").write_text("a cat" if i < 2 else "one brown dog")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (20, 60), "blue").save(tmp_path / "photos" / "dogs" / "d.jpg", exif=turned)
    shutil.copy(tmp_path / "photos/cats/a.png", tmp_path / "photos/dogs/e.png")
    for name in ("d", "e"):
        (tmp_path / "photos" / "dogs" / f"{name}.txt").write_text("another dog")
    return tmp_path / "photos"


def test_what_a_folder_holds(photos):
    found = survey.survey(data.load(f"folder:{photos}", (8, 8, 3)))
    assert found.examples == 5 and found.sizes == {(40, 20): 4, (60, 20): 1}
    assert found.classes == {"cats": 2, "dogs": 3} and not found.unreadable
    assert (found.captions, found.words, found.empty_captions) == (3, (2, 2, 3), 0)
    assert found.duplicates == [(4, 0)]


def test_images_without_files_are_looked_at_as_they_are():
    image = lambda i: np.full([4, 6, 1], i // 2, np.uint8)
    source = data.Source(lambda i: {"image": image(i), "label": i % 2}, 4, (4, 6, 1), classes=("even", "odd"))
    found = survey.survey(source)
    assert (
        found.sizes == {(6, 4): 4} and found.classes == {"even": 2, "odd": 2} and found.duplicates == [(1, 0), (3, 2)]
    )


def test_the_command_says_so_and_draws_what_a_network_sees(photos, capsys):
    cli.main(["data", "folder:photos", "--image-shape", "16", "16", "3", "--flip", "--augment", "1", "--num", "4"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["examples", "5"] and out[1].startswith(
        "sizes        4 of 40x20, 1 of 60x20; widths 40 to 60"
    )
    assert out[2].endswith("2: cats 2, dogs 3") and "3 different, of 2 to 3 words" in out[3]
    assert out[4].endswith("dogs/e.png of cats/a.png") and out[5].split() == ["sheet", "data.png"]
    sheet = Image.open(photos.parent / "data.png")
    assert sheet.width == 4 * (192 + 4) + 4
    cli.main(["data", "folder:photos", "--num", "0", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["sizes"] == {"40x20": 4, "60x20": 1} and said["duplicates"] == [[4, 0]]
    assert not (photos.parent / "data_2.png").exists()


def test_the_sheet_has_the_images_of_a_training(photos):
    """The same examples as the first of `data.batches`, mirrored alike."""
    source = data.load(f"folder:{photos}", (192, 192, 3))
    drawn, why = cli_data.sheet(source, cli_data.DataFlags(num=2, flip=True, seed=7))
    drawn = np.asarray(drawn)
    assert why == ""
    for place, batch in enumerate(data.batches(source, 1, seed=7, flip=True)):
        if place == 2:
            break
        left = 4 + place * 196
        assert any(np.array_equal(drawn[top : top + 192, left : left + 192], batch["image"][0, 0]) for top in range(40))


def said(capsys, *args):
    """Lines of `jaxdiff data`, by their first words."""
    cli.main(["data", *args, "--image-shape", "8", "8", "3"])
    return {line[:12].strip(): line[13:] for line in capsys.readouterr().out.splitlines()}


def test_what_cannot_be_read_is_named_and_the_others_are_drawn(photos, capsys):
    """No image, one that is cut behind its header, one that is not there, a caption that is no text."""
    (photos / "cats" / "x.png").write_bytes(b"nothing")
    (photos / "cats" / "x.txt").write_bytes(b"\xff")
    cut = photos / "dogs" / "d.jpg"
    cut.write_bytes(cut.read_bytes()[:-20])
    (photos / "cats" / "gone.png").symlink_to(photos / "nowhere")
    (photos / "cats" / "gone.txt").write_text("gone")
    found = said(capsys, "folder:photos")
    assert found["examples"] == "7" and ", 1 have none, such as cats/x.png (" in found["captions"]
    assert found["unreadable"].startswith("2: cats/gone.png (No such file or directory), cats/x.png (it is no image)")
    assert found["sheet"].startswith("data.png: 3 of its first examples cannot be read: ")
    assert "skip_broken" not in found["sheet"]
    assert Image.open("data.png").width == 4 * (192 + 4) + 4
    cli.main(["data", "folder:photos", "--image-shape", "8", "8", "3", "--skip-broken"])
    assert "left out     3: " in capsys.readouterr().out


def test_a_source_of_nothing_that_can_be_read_has_no_sheet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    found = said(capsys, "folder:photos")
    assert found["unreadable"] == "1: a.png (it is empty)" and found["sizes"] == "none is known"
    assert found["sheet"].startswith("none: 1 of its first examples cannot be read: ") and not os.path.exists(
        "data.png"
    )


def test_null_images_and_texts_of_tables_are_listed(photos, capsys):
    image = [(photos / "cats" / "a.png").read_bytes(), None]
    pq.write_table(pa.table({"image": image, "text": ["a", None]}), "x.parquet")
    found = said(capsys, "parquet:x.parquet")
    assert found["captions"] == "none: x.parquet has 1 of 2 rows without a caption, such as row 1 of x.parquet"
    assert found["unreadable"].startswith("1: row 1 of x.parquet (") and found["sheet"].startswith("data.png: 1 of")


def test_errors_of_disks_are_listed():
    def read(i):
        if i:
            raise OSError(errno.EIO, "Input/output error")
        return {"image": np.zeros([8, 8, 3], np.uint8)}

    source = data.Source(
        read, 2, (8, 8, 3), encoded=lambda i: read(i)["image"].tobytes(), caption=lambda i: read(i) and "a"
    )
    found = survey.survey(source)
    assert found.unreadable[1] == "Input/output error" == found.without_caption[1] and found.captions == 1


def test_captions_of_a_table_that_lacks_one(photos, capsys):
    (photos / "metadata.jsonl").write_text('{"file_name": "cats/a.png", "text": "a"}')
    assert "metadata.jsonl has no line for cats/b.png" in said(capsys, "folder:photos")["captions"]


def test_latents_have_no_sheet():
    latents = data.Source(
        lambda i: {"image": np.zeros([2, 2, 4], np.float32)}, 1, (16, 16, 3), encoded_by={"codec": "d"}
    )
    drawn, why = cli_data.sheet(latents, cli_data.DEFAULT)
    assert drawn is None and "the records are latents" in why
    assert survey.lines(survey.survey(latents), latents)[1] == "sizes        1 of 2x2 (of latents)"


@pytest.mark.parametrize(
    "args, message",
    [
        (["folder:nowhere"], "nowhere is not there"),
        (["fodler:photos"], "did you mean 'folder:photos'"),
        (["folder:photos", "--num", "-1"], "--num=-1 must be at least 0"),
        (["folder:photos", "--augment", "nan"], "--augment=nan must be at least 0"),
        (["folder:photos", "--out", "x.txt"], "must end in .png"),
        (["folder:photos", "--image-shape", "8", "8", "2"], "--image-shape"),
        (["folder:photos", "--seed", "-1"], "--seed=-1 must be from 0"),
    ],
)
def test_mistakes(photos, capsys, args, message):
    assert message in fails(capsys, "data", *args)


def test_kinds_of_captions_and_captions_as_the_network_reads_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate("ab"):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.json").write_text('{"captions": ["red, round", "an apple"]}')
    (tmp_path / "b.txt").write_text("blue, square, small, new")
    cli.main(["data", "folder:.", "--num", "0", "--trigger", "sks"])
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("captions"))
    assert "2 different, of 3 to 5 words" in said and "of .txt 1, .json 1" in said and "1 examples have several" in said
    source = data.load("folder:.", (8, 8, 3))
    flags = cli_data.DataFlags(caption_tags=CaptionTags(shuffle=True, keep=1), trigger="sks", seed=3)
    titles = {cli_data._title(with_trigger(source, "sks"), 1, position, flags) for position in range(9)}
    assert len(titles) > 2 and all(title.startswith("1: sks, blue, ") for title in titles)
    assert "caption-tags.dropout=2.0 must lie in [0, 1)" in fails(
        capsys, "data", "folder:.", "--caption-tags.dropout", "2"
    )
