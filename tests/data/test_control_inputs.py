"""Control images against the known ones of simple shapes."""

import numpy as np
import pytest

from jaxdiff.data import control_inputs
from jaxdiff.data.sources import captioned

ROWS, COLUMNS = np.mgrid[:40, :48]
INSIDE = (ROWS - 18.0) ** 2 + (COLUMNS - 25.0) ** 2 <= 12.0**2
SHADES = {"back": (40, 165, 60), "front": (165, 70, 200)}
DISC = np.where(INSIDE[..., None], SHADES["front"], SHADES["back"]).astype(np.uint8)


@pytest.mark.parametrize("name", control_inputs.CONTROL_INPUTS)
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (13, 30, 3)], ids=str)
def test_shapes_and_flat_images(name, shape):
    function = control_inputs.CONTROL_INPUTS.choice(name)
    some = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    picture = function(some)
    assert picture.shape == (*shape[:2], 3) and picture.dtype == np.uint8 and picture.any()
    flat = np.full(shape, 90, np.uint8)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(function(flat), np.full((*shape[:2], 3), 90 * (name == "thumbnail")))


def test_choices_are_the_functions_of_their_names():
    for name in ("edges", "mask", "outline", "thumbnail"):
        function = getattr(control_inputs, name)
        np.testing.assert_array_equal(control_inputs.CONTROL_INPUTS.choice(name)(DISC), function(DISC))
    assert len(control_inputs.CONTROL_INPUTS) == 5


def test_edges_of_a_ramp_are_even_and_by_the_steepest():
    """Both channels rise across, by 3 and 4 a pixel: a slope of 5 everywhere, and of 2.5 in the half as steep."""
    ramp = np.stack([3 * COLUMNS, 4 * COLUMNS, 0 * COLUMNS], -1).astype(np.uint8)
    across = control_inputs.edges(ramp)
    np.testing.assert_array_equal(across[:, 1:-1], 255)
    np.testing.assert_allclose(across[:, [0, -1]], 127, atol=1)  # where the outside is as the border
    steep, half = 4 * np.minimum(ROWS, 20), 2 * np.maximum(ROWS - 20, 0)
    found = control_inputs.edges((steep + half)[..., None].astype(np.uint8))
    np.testing.assert_array_equal(found[1:20], 255)
    np.testing.assert_allclose(found[21:-1], 127, atol=1)
    np.testing.assert_allclose(found[20], 191, atol=1)


def test_canny_edges_are_a_thin_line_around_the_shape():
    disc = np.where(INSIDE[..., None], 200, 40).astype(np.uint8)
    picture = control_inputs.canny(disc)[..., 0] > 0
    distance = np.abs(np.hypot(ROWS - 18.0, COLUMNS - 25.0) - 12)
    assert distance[picture].max() < 2 and 60 < picture.sum() < 100  # the circumference is 75 pixels
    assert not control_inputs.canny(disc // 20).any()


def test_edges_see_each_channel():
    """Two colours of one brightness have an edge."""
    image = np.where(COLUMNS[..., None] < 20, [100, 0, 0], [0, 100, 0]).astype(np.uint8)
    picture = control_inputs.edges(image)
    assert (picture[:, 19:21] == 255).all() and not picture[:, :19].any() and not picture[:, 21:].any()


def test_mask_is_the_shape_whichever_is_brighter():
    for image in (DISC, 255 - DISC, DISC[..., 1:2]):
        np.testing.assert_array_equal(control_inputs.mask(image), 255 * np.repeat(INSIDE[..., None], 3, -1))


def test_mask_parts_at_half_of_the_distance_in_colour():
    """Along the line from one colour to the other, by Euclid's distance, whatever touches the border in places."""
    share = np.array([0.0, 0.2, 0.49, 0.51, 0.8, 1.0, 0.0])
    back, front = (np.array(SHADES[name], float) for name in ("back", "front"))
    image = np.tile(back, (5, 7, 1))
    image[2] = back + share[:, None] * (front - back)
    image[0, 3] = front
    found = control_inputs.mask(np.round(image).astype(np.uint8))
    np.testing.assert_array_equal(found[2, :, 0] // 255, share > 0.5)
    assert (found > 0).sum() == 3 * 4
    image = np.zeros([5, 7, 3], np.uint8)
    image[2, 2:5] = [200, 200, 0], [120, 0, 0], [150, 0, 0]  # the first is 283 away
    assert (control_inputs.mask(image)[2, 2:5, 0] > 0).tolist() == [True, False, True]


def test_mask_has_holes_and_the_outline_goes_round_them():
    ring = INSIDE & ((ROWS - 18.0) ** 2 + (COLUMNS - 25.0) ** 2 > 6.0**2)
    image = np.where(ring, 255, 0).astype(np.uint8)[..., None]
    np.testing.assert_array_equal(control_inputs.mask(image)[..., 0] > 0, ring)
    wider = np.pad(ring, 1)
    neighbours = [wider[1:-1, :-2], wider[1:-1, 2:], wider[:-2, 1:-1], wider[2:, 1:-1]]
    wanted = ring & ~np.logical_and.reduce(neighbours)
    assert wanted[18, 32] and wanted[18, 37] and not wanted[18, 34]  # inner and outer border, and between
    np.testing.assert_array_equal(control_inputs.outline(image), 255 * np.repeat(wanted[..., None], 3, -1))


def test_outline_closes_at_the_end_of_the_image():
    """Of a band across, that is background by its median only where there is more of it."""
    image = np.zeros([9, 12, 1], np.uint8)
    image[:, 4:8] = 255
    found = control_inputs.outline(image)[..., 0] > 0
    wanted = np.zeros([9, 12], bool)
    wanted[:, [4, 7]] = wanted[0, 4:8] = wanted[-1, 4:8] = True
    np.testing.assert_array_equal(found, wanted)


def test_thumbnail_is_the_means_of_squares():
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    means = image.reshape(8, 4, 8, 5, 3).mean((1, 3))
    found = control_inputs.thumbnail(image)
    np.testing.assert_array_equal(found, np.repeat(np.repeat(found[::4, ::5], 4, 0), 5, 1))
    np.testing.assert_allclose(found[::4, ::5], means, atol=1.01)  # which Pillow rounds twice


def test_thumbnail_of_other_sides_keeps_the_mean_and_the_places():
    image = np.zeros([28, 30, 1], np.uint8)
    image[:14, 15:] = 200
    found = control_inputs.thumbnail(image)
    np.testing.assert_array_equal(found[:12, 17:], 200)
    assert not found[15:].any() and not found[:, :13].any()


def test_a_digit_in_colour():
    """The mask of a digit is where its ink is at least half, at any pair of colours."""
    ink = np.zeros([28, 28], np.uint8)
    ink[4:24, 8:20] = 255
    ink[8:20, 12:16] = 0
    masks = {}
    for colours in (("red", "white"), ("black", "yellow"), ("green", "blue")):
        masks[colours] = control_inputs.mask(captioned.picture(ink, *colours, "large", "bottom right"))
    first, *others = masks.values()
    assert 100 < (first[..., 0] > 0).sum() < 300
    for other in others:
        np.testing.assert_array_equal(other, first)
