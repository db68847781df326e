"""Grids of levels: against diffusers' timesteps and the papers' formulas, and every ValueError."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import samplers, schedules, testing
from jaxdiff.timesteps import LEVEL_SPACINGS, SIGMA_SPACINGS, SPACINGS, grid, grid_by_sigma, levels

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
@pytest.mark.parametrize("spacing", LEVEL_SPACINGS)
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


def test_the_grids_of_other_libraries():
    """Of diffusers: 20 steps of DPM-Solver++ with offset 1, 4 of Euler; 4 of a consistency model of 50 levels."""
    schedule = schedules.scaled_linear()
    np.testing.assert_array_equal(
        SPACINGS["leading"](offset=1, drop_lowest=True)(schedule, 20)[[0, -2, -1]], [942, 49, 0]
    )
    np.testing.assert_array_equal(SPACINGS["linspace"](rounded=False)(schedule, 3), [1000, 500.5, 1, 0])
    np.testing.assert_array_equal(SPACINGS["consistency"]()(schedule, 4), [1000, 760, 500, 260, 0])
    with pytest.raises(ValueError, match="`num_steps`=51 must be from 1 to `original_steps`=50"):
        SPACINGS["consistency"]()(schedule, 51)
    with pytest.raises(ValueError, match="`rounded`=False is of the spacing linspace, not trailing"):
        grid(1000, 4, rounded=False)


def test_start_spreads_the_steps_over_the_levels_below_it():
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
        ((1000, 1001), "`num_steps`=1001 must be from 1 to 1000"),
        ((1000, 0), "`num_steps`=0"),
        ((1000, -3), "`num_steps`=-3"),
        ((1000, 10, "trailing", 0, 1001), "`start`=1001"),
        ((1000, 10, "trailing", 0, 0), "`start`=0"),
        ((1000, 10, "trailing", 0, 9), "`num_steps`=10 must be from 1 to 9"),  # ten steps, nine levels
        ((1000, 1000, "leading", 1), "`offset`=1.*outside of the levels 0..1000"),
        ((1000, 50, "trailing", 1), "outside of the levels"),
        (
            (1000, 50, "leading", 0, None, -1),
            r"`end`=-1 leads outside of the levels 0..1000: 0, the last, is clean data",
        ),
        ((1000, 10, "trailing", 0, None, -1), "`end`=-1 leads outside"),
        ((1000, 10, "leading", -5), "`offset`=-5 leads outside of the levels 0..1000: use a larger `offset`"),
        ((1000, 1, "trailing", 0, None, 1000), "steps down to `end`=1000 repeat a level: use a lower `end`"),
        ((1000, 2, "trailing", 0, None, 500), "`end`=500 repeat a level: use fewer `num_steps` or a lower `end`"),
        ((1000, 100, "quadratic"), "`end`=0 repeat a level: use fewer `num_steps`"),
        ((1000, 100, "quadratic"), "repeat a level"),
        ((1000, 10, "leading", 0, None, 1), "repeat a level"),  # its lowest level is 1 already
        ((1000, 10, "trailing", 0, None, 100), "repeat a level"),
        ((1000, 10, "trailing", 0, None, 500), "repeat a level"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid(*arguments)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "quadratic", "consistency"])
@pytest.mark.parametrize("end", [-5, 900, 1.5])
def test_an_end_that_is_no_level_below_the_others_is_refused(spacing, end):
    with pytest.raises(ValueError, match=r"`end`|repeat a level"):
        levels(SPACINGS[spacing](end=end), schedules.linear(), 5)


def test_levels_of_a_grid_are_whole_numbers():
    for options in ({"end": 1.5}, {"start": 500.5}, {"offset": 0.5}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}`=.* must be of type int"):
            grid(1000, 10, **options)
    assert grid(1000, 10, start=np.int64(500), end=np.int32(1))[-1] == 1


def test_levels_of_registered_spacings_are_the_grids():
    """Spacings by sigma start at T - 1 and end at clean data, unless given otherwise."""
    schedule = schedules.zero_terminal_snr(schedules.linear())
    for spacing in LEVEL_SPACINGS | SIGMA_SPACINGS:
        expected = (
            grid(1000, 20, spacing)
            if spacing in LEVEL_SPACINGS
            else grid_by_sigma(schedule, 20, spacing, start=999, end=0)
        )
        np.testing.assert_array_equal(levels(spacing, schedule, 20), expected)
    schedule = schedules.linear()
    expected = grid_by_sigma(schedule, 7, "karras", rho=3.0, start=600.5, end=1)
    np.testing.assert_array_equal(levels(SPACINGS["karras"](3.0, 600.5, 1), schedule, 7), expected)
    expected = grid(1000, 7, "leading", offset=1, start=600, end=1)
    np.testing.assert_array_equal(levels(SPACINGS["leading"](1, 600, 1), schedule, 7), expected)
    for typo, meant in (("karas", "karras"), ("trailling", "trailing")):
        with pytest.raises(ValueError, match=f"unknown spacing '{typo}': did you mean '{meant}'"):
            levels(typo, schedule, 7)


# Spaced by sigma / alpha


def ratio(schedule, levels):
    alpha, sigma = (np.asarray(x, np.float64) for x in schedule(jnp.asarray(levels)))
    return sigma / alpha


BY_SIGMA = {
    "linear": schedules.linear(),
    "scaled_linear": schedules.scaled_linear(),
    "log-SNR": schedules.from_log_snr(np.linspace(10, -12, 1000)),
    "shifted": schedules.shift(schedules.linear(), 4.0),
    "fine": schedules.scaled_linear(4096, 0.0002, 0.003),
}
everywhere = pytest.mark.parametrize("schedule", BY_SIGMA.values(), ids=BY_SIGMA)


def test_karras_spacing_is_edms():
    """The noise levels of EDM's code for sigma from 80 to 0.002 in 18 steps, the default of its CIFAR-10 models."""
    published = [80.0, 57.586, 40.7856, 28.3748, 19.3525, 12.9099, 8.4010, 5.3150, 3.2567]
    published += [1.9233, 1.0883, 0.5853, 0.2964, 0.1395, 0.0599, 0.0229, 0.0075, 0.0020]
    schedule = schedules.from_log_snr(-2 * np.linspace(np.log(0.002), np.log(80), 1000))
    levels = grid_by_sigma(schedule, 18, "karras", end=0)
    assert levels.dtype == np.float32 and levels.shape == (19,) and levels[-1] == 0
    np.testing.assert_allclose(ratio(schedule, levels[:-1]), published, rtol=1e-4, atol=5e-5)


@everywhere
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("rho", [3.0, 7.0])
@pytest.mark.parametrize("N", [2, 7, 50])
def test_karras_spacing_is_even_in_a_root(schedule, N, rho, end):
    levels = grid_by_sigma(schedule, N, "karras", rho=rho, end=end)
    visited = levels if end else levels[:-1]
    roots = ratio(schedule, visited) ** (1 / rho)
    # relative 1e-4 of sigma / alpha; as a root, less
    np.testing.assert_allclose(roots, np.linspace(roots[0], roots[-1], len(roots)), rtol=1e-4 / rho)
    assert (levels[0], visited[-1], levels[-1]) == (schedule.num_levels, 1, end)


@everywhere
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("N", [2, 7, 50])
def test_exponential_spacing_is_even_in_log_snr(schedule, N, end):
    levels = grid_by_sigma(schedule, N, "exponential", end=end)
    visited = levels if end else levels[:-1]
    logs = np.log(ratio(schedule, visited))
    np.testing.assert_allclose(logs, np.linspace(logs[0], logs[-1], len(logs)), atol=1e-4)
    assert (levels[0], visited[-1], levels[-1]) == (schedule.num_levels, 1, end)


@pytest.mark.parametrize("make", [schedules.cosine, schedules.sigmoid])
def test_a_long_last_step_is_spaced_as_closely_as_float32_levels_can(make):
    """31 or 547 times the noise from level 999 to 1000, between which float32 levels are 6e-5 apart."""
    schedule = make()
    low, high = ratio(schedule, [999, 1000])
    levels = grid_by_sigma(schedule, 20)
    roots = ratio(schedule, levels) ** (1 / 7)
    np.testing.assert_allclose(roots, np.linspace(roots[0], roots[-1], 21), rtol=high / low * 3.1e-5 / 7 + 1e-6)
    assert 4 < np.sum(levels > 999) < 16


def test_karras_with_a_large_rho_is_exponential():
    schedule = schedules.linear()
    exponential = grid_by_sigma(schedule, 10, "exponential")
    np.testing.assert_allclose(grid_by_sigma(schedule, 10, "karras", rho=1e6), exponential, rtol=1e-4)


def test_by_sigma_from_a_start():
    schedule = schedules.linear()
    levels = grid_by_sigma(schedule, 5, "exponential", start=600.5)
    assert (levels[0], levels[-1]) == (600.5, 1)
    logs = np.log(ratio(schedule, levels))
    np.testing.assert_allclose(logs, np.linspace(logs[0], logs[-1], 6), atol=1e-4)
    pure_noise = schedules.zero_terminal_snr(schedule)
    assert grid_by_sigma(pure_noise, 5, start=999)[0] == 999
    assert grid_by_sigma(pure_noise, 5, start=999.5)[0] == 999.5
    np.testing.assert_array_equal(grid_by_sigma(schedule, 1), [1000, 1])
    np.testing.assert_array_equal(grid_by_sigma(schedule, 1, end=0), [1000, 0])
    np.testing.assert_array_equal(grid_by_sigma(schedule, 1, start=1, end=0), [1, 0])


def test_a_sampler_runs_over_it():
    """On data that is a single point DDIM does not change the initial noise, for any levels."""
    schedule, data = schedules.linear(), testing.gaussian([3.0], 0.0)
    eps = jnp.array([[-1.0], [0.5]])
    levels = grid_by_sigma(schedule, 6, start=700.25)
    alpha, sigma = schedule(jnp.asarray(levels))
    x_T = alpha[0] * 3 + sigma[0] * eps
    x, _ = samplers.sample(None, samplers.ddim(), data.denoiser(schedule), schedule, levels, x_T)
    np.testing.assert_allclose(x, alpha[-1] * 3 + sigma[-1] * eps, atol=1e-5)


@pytest.mark.parametrize("spacing", ["karras", "exponential"])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_steps": 0}, "`num_steps`=0 must be at least 1"),
        ({"start": 0.5}, "`start`=0.5 must be a level from 1 to 1000"),
        ({"start": 1000.5}, "`start`=1000.5"),
        ({"start": np.nan}, "`start`=nan"),
        ({"end": 2}, "`end`=2 either 1 or 0"),
        ({"rho": 0.0}, "`rho`=0.0 must be above 0"),
        ({"start": 1}, "repeat a level"),
        ({"start": 1.001, "num_steps": 10000}, "repeat a level"),
        ({"schedule": schedules.zero_terminal_snr(schedules.linear())}, "infinite at level 1000.*such as to 999"),
        ({"schedule": schedules.zero_terminal_snr(schedules.linear()), "start": 1000}, "infinite"),
    ],
)
def test_impossible_grids_by_sigma_are_refused(spacing, options, message):
    with pytest.raises(ValueError, match=message):
        grid_by_sigma(**({"schedule": schedules.linear(), "num_steps": 10, "spacing": spacing} | options))


def test_unknown_spacings_and_a_rho_without_effect_are_refused():
    schedule = schedules.linear(10)
    with pytest.raises(ValueError, match="unknown spacing 'karas': did you mean 'karras'"):
        grid_by_sigma(schedule, 5, "karas")
    with pytest.raises(ValueError, match=r"`rho`=5.0 must be above 0, and left at 7 with spacings other than 'karras'"):
        grid_by_sigma(schedule, 5, "exponential", rho=5.0)
