"""Grids of levels: against diffusers' timesteps, the papers' formulas, and every refusal."""

import pathlib

import numpy as np
import pytest

from jaxdiff.timesteps import SPACINGS, grid

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "grids.npz")


@pytest.mark.parametrize("case", [name for name in GOLDEN if name != "versions"])
def test_levels_are_diffusers_timesteps_plus_one(case):
    spacing, *numbers = case.split("/")
    T, N, offset = map(int, numbers)
    end = min(1, offset)  # Stable Diffusion, offset 1, ends at the first trained level
    levels = grid(T, N, spacing, offset=offset, end=end)
    np.testing.assert_array_equal(levels, [*GOLDEN[case], end])


@pytest.mark.parametrize("T, N", [(1000, 10), (1000, 20), (1000, 29), (4000, 50)])
def test_quadratic_is_the_ddim_papers(T, N):
    """Timesteps floor(c i^2), i < N, with c such that the last is 0.8 T (Song et al. 2021, appendix D.2)."""
    published = [4 * T * i**2 // (5 * (N - 1) ** 2) for i in range(N)]
    np.testing.assert_array_equal(grid(T, N, "quadratic"), [*(1 + p for p in reversed(published)), 0])


def test_trailing_goes_by_integer_index():
    """A running sum of 1000/61 ends a little above 0 and would add a step (diffusers has 62 timesteps here)."""
    levels = grid(1000, 61, "trailing")
    np.testing.assert_array_equal(levels, [round(1000 - i * 1000 / 61) for i in range(61)] + [0])


@pytest.mark.parametrize("T, N", [(1000, 1), (1000, 2), (1000, 29), (128, 5), (10, 3)])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_levels_fall_strictly_to_clean_data(spacing, T, N):
    levels = grid(T, N, spacing)
    assert levels.shape == (N + 1,) and levels.dtype == np.int32
    assert np.all(np.diff(levels) < 0)
    assert levels[0] <= T and levels[-1] == 0
    if spacing in ("trailing", "linspace") and N > 1:
        assert levels[0] == T


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_level_can_be_visited(spacing):
    np.testing.assert_array_equal(grid(40, 40, spacing), np.arange(40, -1, -1))


def test_end_is_the_last_level():
    np.testing.assert_array_equal(grid(1000, 4, "trailing", end=1), [1000, 750, 500, 250, 1])
    np.testing.assert_array_equal(grid(1000, 4, "leading", offset=1, end=1), [752, 502, 252, 2, 1])
    np.testing.assert_array_equal(grid(1000, 2, "trailing", end=300), [1000, 500, 300])


def test_start_spreads_the_steps_over_what_is_left():
    np.testing.assert_array_equal(grid(1000, 4, "trailing", start=600), [600, 450, 300, 150, 0])
    np.testing.assert_array_equal(grid(1000, 4, "leading", start=600), [451, 301, 151, 1, 0])
    np.testing.assert_array_equal(grid(1000, 3, "linspace", start=601), [601, 301, 1, 0])
    np.testing.assert_array_equal(grid(1000, 600, "trailing", start=600), np.arange(600, -1, -1))


@pytest.mark.parametrize("typo, meant", [("trailling", "trailing"), ("lead", "leading"), ("quad", "quadratic")])
def test_an_unknown_spacing_is_refused_and_the_nearest_named(typo, meant):
    with pytest.raises(ValueError, match=f"{typo}.*did you mean '{meant}'"):
        grid(1000, 10, typo)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1000, 1001), "num_steps=1001 must be from 1 to 1000"),
        ((1000, 0), "num_steps=0"),
        ((1000, -3), "num_steps=-3"),
        ((1000, 10, "trailing", 0, 1001), "start=1001"),
        ((1000, 10, "trailing", 0, 0), "start=0"),
        ((1000, 10, "trailing", 0, 9), "num_steps=10 must be from 1 to 9"),  # ten steps, nine levels to take them
        ((1000, 1000, "leading", 1), "offset=1.*outside of the levels 0..1000"),
        ((1000, 50, "trailing", 1), "outside of the levels"),
        ((1000, 50, "leading", 0, None, -1), "outside of the levels"),
        ((1000, 100, "quadratic"), "repeat a level"),
        ((1000, 10, "leading", 0, None, 1), "repeat a level"),  # its lowest level is 1 already
        ((1000, 10, "trailing", 0, None, 100), "repeat a level"),
        ((1000, 10, "trailing", 0, None, 500), "repeat a level"),
    ],
)
def test_what_cannot_be_walked_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid(*arguments)
