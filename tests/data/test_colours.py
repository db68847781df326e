"""Colour profiles in files: values beside the closed form of the profile's own primaries and curves."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxdiff import data
from jaxdiff.data import colours
from jaxdiff.data.image_decode import decode

P3 = np.array([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])  # to XYZ at D50
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]])


def fixed(*numbers):
    return b"".join(struct.pack(">i", round(65536 * number)) for number in numbers)


def profile(tags, space=b"RGB ", pcs=b"XYZ ", kind=b"mntr"):
    """An ICC profile of version 2.1, byte by byte."""
    described = b"desc" + bytes(4) + struct.pack(">I", 2) + b"a\0" + bytes(79)
    tags = {b"desc": described, b"cprt": b"text" + bytes(4) + b"a\0", b"wtpt": xyz(0.9642, 1, 0.8249)} | tags
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s6H4s", start + len(body), 0x02100000, kind, space, pcs, 2026, 1, 1, 0, 0, 0, b"acsp")
    return (head + bytes(28) + fixed(0.9642, 1, 0.8249)).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def xyz(*numbers):
    return b"XYZ " + bytes(4) + fixed(*numbers)


def wide(gamma):
    """A profile of Display P3's primaries."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))
    primaries = {name: xyz(*P3[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return profile(primaries | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def ink():
    """A profile of four inks of which only black counts: L* falls evenly with it, by a table of 2^4 points."""
    ramp = bytes(range(256))
    nodes = bytes(value for i in range(16) for value in (255 * (1 - i % 2), 128, 128))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * ramp + nodes + 3 * ramp
    return profile({b"A2B0": table, b"A2B1": table}, b"CMYK", b"Lab ", b"prtr")


def encoded(linear):
    """sRGB's curve."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def file_of(image, **options):
    file = io.BytesIO()
    image.save(file, options.pop("kind", "PNG"), **options)
    return file.getvalue()


@pytest.mark.parametrize("colour", [(200, 120, 60), (100, 180, 90), (180, 160, 200), (0, 255, 0), (128, 128, 128)])
@pytest.mark.parametrize("gamma", [1.8, 2.2])
def test_a_profile_of_wide_colours_is_converted(colour, gamma):
    want = encoded(np.linalg.solve(SRGB, P3 @ (np.array(colour) / 255) ** gamma))
    for image in (Image.new("RGB", (6, 4), colour), Image.new("RGBA", (6, 4), (*colour, 255))):
        got = decode(file_of(image, icc_profile=wide(gamma)), (4, 6, 3))
        np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), atol=1.01)
    np.testing.assert_array_equal(
        decode(file_of(image, icc_profile=wide(gamma)), (4, 6, 3), to_srgb=False)[0, 0], colour
    )


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "AVIF"])
def test_profiles_of_other_formats_are_read(kind):
    lossless = {"TIFF": {}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}[kind]
    file = file_of(Image.new("RGB", (16, 16), (200, 120, 60)), kind=kind, icc_profile=wide(2.2), **lossless)
    np.testing.assert_allclose(decode(file, (16, 16, 3))[8, 8], [214, 116, 38], atol=2)


@pytest.mark.parametrize("black", [0, 60, 128, 200])
def test_inks_are_converted_by_their_profile(black):
    image = Image.new("CMYK", (4, 4), (10, 20, 30, black))
    f = (100 * (1 - black / 255) + 16) / 116  # of L*
    grey = encoded(f**3 if f > 6 / 29 else (f - 16 / 116) / 7.787)
    got = decode(file_of(image, kind="TIFF", icc_profile=ink()), (4, 4, 3))
    np.testing.assert_allclose(got, np.full(got.shape, grey), atol=1.5)
    assert np.abs(np.asarray(image.convert("RGB"), int) - got.astype(int)).max() >= 3  # what is drawn without it


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_profile_of_grey_is_converted(mode):
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 256)  # linear
    image = Image.new(mode, (4, 4), 128 if mode == "L" else (128, 255))
    got = decode(file_of(image, icc_profile=profile({b"kTRC": curve}, b"GRAY")), (4, 4, 1))
    np.testing.assert_allclose(got, np.full(got.shape, encoded(128 / 255)), atol=1)


def test_a_profile_of_srgb_changes_no_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode(file_of(Image.fromarray(pixels), icc_profile=same), (8, 8, 3)), pixels)


@pytest.mark.parametrize("bad", [b"none", wide(2.2)[:150], ink()])
def test_a_profile_that_is_broken_or_of_other_channels_leaves_the_pixels_and_is_logged(bad, caplog):
    colours.log.propagate = True
    colours._transform.cache_clear()
    got = decode(file_of(Image.new("RGB", (4, 4), (200, 120, 60)), icc_profile=bad), (4, 4, 3))
    assert got[0, 0].tolist() == [200, 120, 60] and "a colour profile cannot be used" in caplog.text


def test_a_folder_converts_unless_it_is_told_not_to(tmp_path):
    Image.new("RGB", (4, 4), (200, 120, 60)).save(tmp_path / "a.png", icc_profile=wide(2.2))
    source = data.SOURCES["folder"]
    assert source(str(tmp_path))((4, 4, 3))[0]["image"][0, 0].tolist() == [214, 116, 38]
    assert source(str(tmp_path), to_srgb=False)((4, 4, 3))[0]["image"][0, 0].tolist() == [200, 120, 60]
