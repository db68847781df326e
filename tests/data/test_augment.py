"""Augmentation: each amount is the geometry that its name says, and the network is told what was done."""

import itertools

import numpy as np
import pytest

from jaxdiff import data
from jaxdiff.data import augment


def picture(size=21, channels=1):
    """Something without symmetry, smooth enough to be interpolated, black at its border."""
    rows, columns = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    blob = np.exp(-(((rows - 0.2) / 0.3) ** 2) - ((columns + 0.1) / 0.15) ** 2) + 0.7 * np.exp(
        -(((rows + 0.3) / 0.12) ** 2) - ((columns - 0.3) / 0.12) ** 2
    )
    return np.round(255 / blob.max() * np.stack([blob] * channels, -1)).astype(np.uint8)


def changed(image, **amounts):
    return augment.affine(image, np.array([amounts.get(name, 0.0) for name in augment.NAMES]))


def moments(image):
    """Centre (row, column) and covariance of the brightness about it, in pixels."""
    weight = image[..., 0].astype(float) / image.sum()
    at = np.stack(np.mgrid[: image.shape[0], : image.shape[1]]).astype(float)
    centre = (at * weight).sum((1, 2))
    away = at - centre[:, None, None]
    return centre, np.einsum("irc,jrc,rc->ij", away, away, weight)


def test_nothing_is_the_image_itself():
    image = picture(channels=3)
    assert augment.affine(image, np.zeros(6)) is image


def test_nine_turns_of_ten_degrees_are_a_quarter_counter_clockwise():
    image = picture(channels=3)
    assert np.abs(changed(image, rotation=9.0).astype(int) - np.rot90(image).astype(int)).max() <= 1


@pytest.mark.parametrize(
    "amounts, matrix",
    [
        ({"scale": 1.5}, np.exp(0.15) * np.eye(2)),
        ({"aspect": 1.5}, np.diag(np.exp([0.15, -0.15]))),
        ({"shear": 1.0}, np.array([[1, 0], [0.15, 1]])),
    ],
    ids=["scale", "aspect", "shear"],
)
def test_each_amount_is_its_linear_map(amounts, matrix):
    """The covariance of the brightness becomes A S A^T, its centre A c."""
    image, middle = picture(41), np.full(2, 20.0)
    (before, spread), (after, new) = moments(image), moments(changed(image, **amounts))
    np.testing.assert_allclose(after - middle, matrix @ (before - middle), atol=0.02)
    np.testing.assert_allclose(new, matrix @ spread @ matrix.T, atol=0.15)  # of about 35: values are rounded to 1/255


def test_moves_are_shares_of_the_side():
    image = picture(50)
    moved = changed(image, down=1.0, right=-2.0)
    np.testing.assert_array_equal(moved[3:, :-6], image[:-3, 6:])  # what comes in at the border is a mirror image


def test_half_of_the_images_stay_and_the_others_fill_the_range():
    drawn = np.stack([augment.amounts(np.random.default_rng(seed), 2.0) for seed in range(2000)])
    touched = drawn.any(1)
    assert touched.mean() == pytest.approx(0.5, abs=0.05)
    assert 1.95 < np.abs(drawn).max() <= 2.0
    np.testing.assert_allclose(drawn[touched].mean(0), 0, atol=0.15)
    np.testing.assert_allclose(np.corrcoef(drawn[touched].T), np.eye(6), atol=0.15)


class Pictures:
    """Eight times the same picture."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {"image": picture(), "label": i % 2}


def delivered(n, **options):
    return list(itertools.islice(data.batches(Pictures(), 4, augment=1.0, **options), n))


def test_the_network_is_told_what_was_done_to_each_image():
    for batch in delivered(3, augment_cond=True, labels=True):
        assert batch["cond"].label.shape == (1, 4)
        for image, vector in zip(batch["image"][0], batch["cond"].vector[0]):
            np.testing.assert_array_equal(image, augment.affine(picture(), vector))
    assert "cond" not in delivered(1)[0]


def test_the_changes_are_of_the_position_and_not_of_the_processes_or_the_start():
    whole = np.concatenate([b["image"][0] for b in delivered(4)])
    assert len(np.unique(whole, axis=0)) > 4
    parts = [delivered(4, process_index=p, process_count=2) for p in range(2)]
    shared = np.concatenate([np.stack([parts[p][step]["image"][0] for p in range(2)], 1) for step in range(4)])
    np.testing.assert_array_equal(shared.reshape(whole.shape), whole)
    np.testing.assert_array_equal(delivered(1, start_step=3)[0]["image"][0], whole[12:])
