"""One image file becomes one array: cropped, upright, opaque, of 8 bits."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxdiff.data import image_decode
from jaxdiff.data.image_decode import decode


def encode(image, kind="PNG", **options):
    """The contents of a file."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_an_image_of_the_right_size_is_not_touched():
    colour, grey = noise(6, 9, 3), noise(6, 9)
    np.testing.assert_array_equal(decode(encode(colour), (6, 9, 3)), colour)
    np.testing.assert_array_equal(decode(encode(grey), (6, 9, 1))[..., 0], grey)
    np.testing.assert_array_equal(decode(encode(colour, "WEBP", lossless=True), (6, 9, 3), exact=True), colour)


@pytest.mark.parametrize(
    "shape, rows, columns", [((4, 10), slice(0, 4), slice(3, 7)), ((9, 3), slice(3, 6), slice(0, 3))]
)
def test_the_middle_is_kept(shape, rows, columns):
    image = noise(*shape, 3)
    side = min(shape)
    np.testing.assert_array_equal(decode(encode(image), (side, side, 3)), image[rows, columns])


def test_resizing_keeps_a_ramp_and_averages_away_what_is_too_fine():
    ramp = np.tile(4 * np.arange(64, dtype=np.uint8), (64, 1))
    small = decode(encode(ramp), (16, 16, 1))[..., 0].astype(int)
    middles = 4 * (4 * np.arange(16) + 1.5)  # of four pixels each
    assert np.abs(small - middles)[:, 2:-2].max() <= 1
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # point samples of it would be 0 or 255
    assert np.abs(decode(encode(board), (8, 8, 1)).astype(int) - 127.5).max() < 8


def test_small_images_grow_to_fill_the_shape():
    np.testing.assert_array_equal(decode(encode(np.full((2, 3, 3), 77, np.uint8)), (8, 12, 3)), 77)


@pytest.mark.parametrize("kind", ["RGBA", "LA"])
def test_transparency_lies_over_white(kind):
    image = Image.fromarray(noise(8, 8, 4), "RGBA").convert(kind)
    pixels = np.asarray(image, np.float64)
    alpha = pixels[..., -1:] / 255
    expected = np.broadcast_to(alpha * pixels[..., :-1] + (1 - alpha) * 255, (8, 8, 3))
    assert np.abs(decode(encode(image), (8, 8, 3)) - expected).max() <= 1


def test_transparent_entries_of_a_palette_and_a_transparent_colour_lie_over_white():
    indices = np.array([[0, 1], [2, 0]], np.uint8)
    image = Image.fromarray(indices, "L").convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette([255, 0, 0, 0, 0, 255, 9, 9, 9])
    file = encode(image, transparency=bytes([255, 102, 0]))
    expected = [[[255, 0, 0], [153, 153, 255]], [[255, 255, 255], [255, 0, 0]]]
    np.testing.assert_array_equal(decode(file, (2, 2, 3)), expected)
    colour = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    found = decode(encode(colour, transparency=(1, 2, 3)), (1, 2, 3))
    np.testing.assert_array_equal(found, [[[255, 255, 255], [4, 5, 6]]])


def test_grey_and_colour_become_what_is_asked_for():
    colour, grey = noise(5, 5, 3), noise(5, 5)
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(encode(colour), (5, 5, 1))[..., 0] - luma).max() <= 1
    np.testing.assert_array_equal(decode(encode(grey), (5, 5, 3)), np.repeat(grey[..., None], 3, 2))
    bits = Image.fromarray(grey).convert("1")
    np.testing.assert_array_equal(decode(encode(bits), (5, 5, 1))[..., 0], np.asarray(bits) * np.uint8(255))


def test_cmyk():
    ink = Image.new("CMYK", (16, 16), (255, 102, 0, 51))
    red, green, blue = 0, (255 - 102) * (255 - 51) / 255, 255 - 51
    assert np.abs(decode(encode(ink, "JPEG"), (8, 8, 3)) - np.array([red, green, blue])).max() <= 3


def test_sixteen_bits_are_scaled_and_not_clipped():
    deep = np.array([[0, 128, 129, 256], [257, 32768, 65000, 65535]], np.uint16)
    np.testing.assert_array_equal(decode(encode(deep), (2, 4, 1))[..., 0], [[0, 0, 1, 1], [1, 128, 253, 255]])


# What the EXIF standard says to do with the stored rows and columns to see the picture.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photographs_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = noise(4, 7, 3)
    seen = UPRIGHT[orientation](stored)
    np.testing.assert_array_equal(decode(encode(stored, exif=exif), seen.shape), seen)
    blocks = np.kron(noise(2, 3, 3), np.ones((16, 16, 1), np.uint8))  # which JPEG keeps
    seen = UPRIGHT[orientation](blocks)
    found = decode(encode(blocks, "JPEG", exif=exif, quality=100, subsampling=0), seen.shape)
    assert np.abs(found.astype(int) - seen).max() < 8


def test_broken_exif_does_not_matter():
    image = noise(4, 4, 3)
    np.testing.assert_array_equal(decode(encode(image, exif=b"no such thing"), (4, 4, 3)), image)


def test_a_large_jpeg_is_decoded_small(monkeypatch):
    sizes = []
    original = ImageOps.fit
    monkeypatch.setattr(
        ImageOps, "fit", lambda image, *rest, **more: sizes.append(image.size) or original(image, *rest, **more)
    )
    image = Image.fromarray(noise(12, 16, 3)).resize((1600, 1200), Image.Resampling.BICUBIC)
    found = decode(encode(image, "JPEG", quality=95), (64, 48, 3))
    assert sizes == [(200, 150)]  # an eighth, both sides still twice those asked for
    whole = original(image, (48, 64), Image.Resampling.BICUBIC)
    assert np.abs(found.astype(int) - np.asarray(whole)).mean() < 1.5


def test_several_pictures_in_a_file_give_the_first():
    first, second = np.full((16, 16, 3), 200, np.uint8), Image.new("RGB", (16, 16))
    for kind in ("MPO", "GIF", "WEBP", "PNG"):
        found = decode(encode(first, kind, save_all=True, append_images=[second]), (16, 16, 3))
        assert np.abs(found.astype(int) - 200).max() <= 2, kind


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_broken_files_are_refused_in_one_line(kind):
    file = encode(noise(300, 400, 3), kind)
    for end in (0, 1, 10, 50, 200, len(file) // 3, len(file) // 2, int(0.9 * len(file))):
        with pytest.raises(ValueError) as error:
            decode(file[:end], (64, 64, 3))
        assert 0 < len(str(error.value)) < 100 and "\n" not in str(error.value)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="it is no image"):
        decode(b"<html>not found</html>", (8, 8, 3))
    with pytest.raises(ValueError, match="it is empty"):
        decode(b"", (8, 8, 3))


def test_files_that_make_pillow_run_other_programs_are_not_opened():
    with pytest.raises(ValueError, match="it is no image"):
        decode(encode(noise(8, 8, 3), "EPS"), (8, 8, 3))


def test_exact_refuses_another_size():
    with pytest.raises(ValueError, match="it is 4x6, not 6x4"):
        decode(encode(noise(4, 6, 3)), (6, 4, 3), exact=True)
    with pytest.raises(ValueError, match="it is 400x400, not 8x8"):
        decode(encode(noise(400, 400, 3), "JPEG"), (8, 8, 3), exact=True)


@pytest.mark.parametrize("shape", [(8, 8, 2), (8, 8), (0, 8, 3), (8, 8, 4), (3, 8, 8)])
def test_shapes_that_no_image_has(shape):
    with pytest.raises(ValueError, match=r"must be height, width and 1 \(grey\) or 3 \(colour\) channels"):
        image_decode.check_shape(shape)
