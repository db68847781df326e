"""Pictures."""

import numpy as np
import pytest
from PIL import Image

from jaxdiff.pipeline import images


def test_to_uint8_rounds_and_clips():
    np.testing.assert_array_equal(images.to_uint8([-2.0, -1.0, 0.0, 1.0, 2.0]), [0, 0, 128, 255, 255])


def test_grid_places_images_row_by_row():
    numbered = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 2, 3, 1), np.uint8)
    sheet = images.grid(numbered, columns=3, pad=1)
    assert sheet.shape == (2 * 3 + 1, 3 * 4 + 1, 1)
    assert [sheet[1, 1 + 4 * i, 0] for i in range(3)] == [0, 1, 2]
    assert [sheet[4, 1 + 4 * i, 0] for i in range(3)] == [3, 4, 255]
    assert sheet[0].min() == 255


def test_files_hold_the_pixels(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    images.save_each(tmp_path / "each", drawn)
    for i in range(3):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "each" / f"0000{i}.png")), drawn[i])
    sheet = Image.open(images.save_grid(tmp_path / "grid.png", drawn, columns=3))
    assert sheet.size == ((3 * 10 + 2) * 8, (10 + 2) * 8)


def test_a_smaller_set_of_files_leaves_none_of_the_larger_one(tmp_path):
    drawn = np.zeros((5, 8, 8, 3), np.uint8)
    images.save_each(tmp_path / "each", drawn)
    for name in ("mine.png", "0002.png", "00004.txt"):
        (tmp_path / "each" / name).touch()
    images.save_each(tmp_path / "each", drawn[:2])
    left = {"00000.png", "00001.png", "mine.png", "0002.png", "00004.txt", ".jaxdiff"}
    assert {path.name for path in (tmp_path / "each").iterdir()} == left
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "00007.png").touch()  # in a directory that is somebody's
    images.save_each(tmp_path / "others", drawn)
    assert (tmp_path / "others" / "00007.png").exists()


def test_a_title_without_end_is_cut(tmp_path):
    drawn = np.zeros((2, 64, 64, 3), np.uint8)
    endless = images.sheet(drawn, 2, ["word " * 10_000])
    assert endless.height == 68 + images.TITLE_LINES * 17 + 4


@pytest.mark.parametrize("titles", [(), ("one",), ("a title of several words", "another")])
@pytest.mark.parametrize("shape", [(8, 8, 1), (64, 100, 3)])
def test_the_size_of_a_sheet_is_known_before(shape, titles):
    places = np.arange(8).reshape(4, 2)
    sheet = images.sheet(np.zeros((8, *shape), np.uint8), 2, titles)
    assert images.sheet_size(shape, places, titles) == sheet.size


def test_animations_that_their_format_cannot_hold_are_refused():
    images.check_animation("a.webp", (16383, 10))
    images.check_animation("a.GIF", (16384, 10))
    for name, size in (("a.webp", (10, 16384)), ("a.gif", (65536, 10))):
        with pytest.raises(
            ValueError, match=f"`animation` of {size[0]}x{size[1]} pixels is too large for a {name[1:]}"
        ):
            images.check_animation(name, size)


def test_animation_has_all_frames(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 2, 8, 8, 1), np.uint8)
    for name in ("a.gif", "a.webp"):
        assert Image.open(images.save_animation(tmp_path / name, frames)).n_frames == 4


def test_titles_stand_above_their_rows(tmp_path):
    drawn = np.zeros((4, 64, 64, 3), np.uint8)
    drawn[2:] = 200
    long = "a large purple two on a yellow background, in the middle of the picture"
    sheet = np.asarray(images.sheet(drawn, 2, ["short", long]))
    plain = np.asarray(images.sheet(drawn, 2))
    assert sheet.shape[1] == plain.shape[1] == 134
    first, second = (np.flatnonzero((sheet[:, 10] == value).all(-1)) for value in (0, 200))
    assert len(second) == 64 and second[0] - first[-1] > 3 * 13  # the long one takes several lines
    title = sheet[: np.flatnonzero((sheet[:, 10] == 0).all(-1))[0] - 2]
    assert (title < 100).any() and title.shape[0] < 25  # there are letters, in one line
    grey = images.sheet(drawn[..., :1], 2, ["one", "two"])
    assert grey.mode == "L"


def test_panels_have_titles_above_and_keep_their_pixels():
    shown = [
        (f"panel {i}, of {word}", np.full([4, 4, 3], 40 * i, np.uint8)) for i, word in enumerate(["long " * 8] * 5)
    ]
    sheet = np.asarray(images.panels(shown, columns=3, side=64))
    assert sheet.shape[1] == 3 * (64 + 4) + 4 and sheet.shape[0] % 2 == 0
    for i in range(5):
        bottom = (i // 3 + 1) * sheet.shape[0] // 2
        picture = sheet[bottom - 4 - 64 : bottom - 4, 4 + i % 3 * 68 :][:, :64]
        assert (picture == 40 * i).all(), i
    assert (sheet[:10] < 100).any()
