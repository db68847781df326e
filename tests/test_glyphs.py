"""The glyphs of benchmarks/glyphs.py: what is said of a picture is what it shows, and nothing is overwritten."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from scipy import ndimage

from jaxdiff import data
from jaxdiff.data.sources import captioned
from jaxdiff.eval import shown

spec = importlib.util.spec_from_file_location(
    "benchmark_of_glyphs", pathlib.Path(__file__).parents[1] / "benchmarks" / "glyphs.py"
)
glyphs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(glyphs)


@pytest.mark.parametrize("name", glyphs.KINDS)
def test_no_two_drawings_are_equal_and_none_is_cut_off(name):
    drawn = [glyphs.ink(name, np.random.default_rng(seed)) for seed in range(30)]
    assert len({one.tobytes() for one in drawn}) == 30
    for one in drawn:
        assert one.shape == (28, 28) and one.dtype == np.uint8 and one.max() == 255
        assert not one[[0, -1]].any() and not one[:, [0, -1]].any()  # a margin all around
        assert ndimage.label(one > 128)[1] == 1  # in one piece
    again = glyphs.ink(name, np.random.default_rng(0))
    np.testing.assert_array_equal(again, drawn[0])


@pytest.mark.parametrize("name", glyphs.KINDS)
def test_a_picture_shows_what_is_said(name):
    for image, text, said in glyphs.examples(name, 20, seed=3):
        read = shown.read(image)
        assert {what: getattr(read, what) for what in said} == said
        words = {what: captioned.ATTRIBUTES[what][n] for what, n in said.items()}
        assert text in [template.format(digit=f"<{name}>", **words) for template in captioned.TEMPLATES]


def test_what_is_given_is_kept():
    given = {"colour": "red", "background": "white", "size": "small", "place": "top left"}
    for image, text, said in glyphs.examples("star", 5, word="sks", **given):
        assert {what: captioned.ATTRIBUTES[what][n] for what, n in said.items()} == given
        assert "red sks" in text or "sks in red" in text
        assert image[20:, 20:].min() == 245  # nothing but ground far from the place
    backgrounds = {said["background"] for *_, said in glyphs.examples("star", 60, colour="red")}
    assert backgrounds == {1, 2, 3, 4, 5, 6}  # all but red
    colours = {said["colour"] for *_, said in glyphs.examples("star", 60, background="blue")}
    assert colours == {0, 1, 3, 4, 5, 6}


def test_colours_are_read_from_pixels():
    pictures, _, said = zip(*[one for name in glyphs.KINDS for one in glyphs.examples(name, 20)])
    front, back = glyphs.colours_of(np.stack(pictures))
    np.testing.assert_array_equal(back, [one["background"] for one in said])
    np.testing.assert_array_equal(front, [one["colour"] for one in said])
    worn = [glyphs.wear(picture, np.random.default_rng(i)) for i, picture in enumerate(pictures)]
    front, back = glyphs.colours_of(np.stack(worn))
    assert np.mean(back == [one["background"] for one in said]) == 1
    assert np.mean(front == [one["colour"] for one in said]) > 0.98


def test_a_folder_is_read_as_it_was_written(tmp_path):
    folder = glyphs.write(tmp_path / "hearts", "heart", 5, word="sks")
    source = data.load(f"folder:{folder}", (32, 32, 3))
    written = glyphs.examples("heart", 5, word="sks")
    assert len(source) == 5
    for (image, text, _), read in zip(written, source):
        np.testing.assert_array_equal(read["image"], image)
        assert read["caption"] == text and "sks" in text
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [f"{i:05d}.png" for i in range(5)]


def test_a_folder_is_never_overwritten(tmp_path):
    folder = glyphs.write(tmp_path / "moons", "moon", 3)
    before = {path.name: (path.read_bytes()) for path in folder.iterdir()}
    assert glyphs.write(folder, "moon", 3) == folder  # the same again
    for other in ({"seed": 1}, {"count": 2}, {"count": 4}, {"word": "sks"}):
        with pytest.raises(FileExistsError, match="moons holds something else, such as"):
            glyphs.write(folder, "moon", **{"count": 3} | other)
    assert {path.name: (path.read_bytes()) for path in folder.iterdir()} == before
    (folder / "00001.png").unlink()  # as when it was interrupted
    glyphs.write(folder, "moon", 3)
    assert {path.name: (path.read_bytes()) for path in folder.iterdir()} == before


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown glyph 'hart': did you mean 'heart'"):
        glyphs.write(tmp_path / "out", "hart")
    with pytest.raises(ValueError, match="unknown glyph 'hart': did you mean 'heart'"):
        glyphs.judge(["star", "hart"], tmp_path)
    with pytest.raises(ValueError, match="each once"):
        glyphs.judge(["star", "star"])
    with pytest.raises(ValueError, match="count=0 must be at least 1"):
        glyphs.write(tmp_path / "out", "heart", 0)
    with pytest.raises(ValueError, match=r"seed=1000000 must be in 0\.\.999999"):
        glyphs.write(tmp_path / "out", "heart", seed=glyphs.JUDGED)
    with pytest.raises(ValueError, match="a red glyph on red cannot be seen"):
        glyphs.examples("heart", 1, colour="red", background="red")
    with pytest.raises(ValueError, match="unknown colour 'rde': did you mean 'red'"):
        glyphs.examples("heart", 1, colour="rde")
    assert not any(tmp_path.iterdir())
