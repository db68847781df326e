"""Pictures."""

import numpy as np
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
