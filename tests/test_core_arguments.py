"""Wrong arguments of samplers, guidance, editing, objectives, oracles and metrics: each is refused by its name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff import Prediction, editing, samplers, schedules, testing

KEY, SCHEDULE, X = jax.random.key(0), schedules.cosine(), jnp.ones([4, 2])
ORACLE = testing.gaussian([0.0, 0.0], 1.0)
NAN = float("nan")


def denoiser():
    return ORACLE.denoiser(SCHEDULE)


def sample(timesteps=(1000, 500, 0), sampler="ddim", prediction=None, **given):
    """`jaxdiff.sample` with an exact denoiser, or one that returns what `prediction` makes of x_t."""

    def run():
        denoise = (lambda x_t, t, cond: prediction(x_t)) if prediction else denoiser()
        made = samplers.SAMPLERS.functions[sampler]()
        return jaxdiff.sample(KEY, made, denoise, SCHEDULE, timesteps, X, **given)

    return run


REFUSED = {
    # levels
    **{
        f"rising levels of {sampler}": (sample([0, 500, 1000], sampler), "`timesteps` must fall at every step")
        for sampler in ("ddim", "ddpm", "dpmpp_2m", "unipc", "heun")
    },
    "levels up and down": (sample([500, 1000, 0]), "`timesteps` must fall at every step"),
    "a level twice": (sample([1000, 500, 500, 0]), "`timesteps` must fall at every step"),
    "levels of uint16 that rise": (sample(np.array([0, 1000], np.uint16)), "`timesteps` must fall at every step"),
    "falling levels as rising": (sample([1000, 500, 0], rising=True), "`timesteps` must rise at every step"),
    "levels as texts": (sample(["low"]), "`timesteps` must be a grid of levels [N + 1]"),
    "rising levels in chunks": (
        lambda: next(samplers.chunks(KEY, jaxdiff.ddim(), denoiser(), SCHEDULE, [0, 1000], X, size=1)),
        "`timesteps` must fall at every step",
    ),
    "inverted upwards": (
        lambda: editing.invert(denoiser(), SCHEDULE, [0, 500, 1000], X),
        "`timesteps` must fall at every step",
    ),
    "a bridge upwards": (
        lambda: editing.bridge(denoiser(), denoiser(), SCHEDULE, [0, 500, 1000], X),
        "`timesteps` must fall at every step",
    ),
    # predictions
    "x0 of one column": (
        sample(prediction=lambda x: Prediction(x[:, :1], x)),
        "`denoise` must return x0 of the shape of x_t, [4, 2], not [4, 1]",
    ),
    "eps of one row": (
        sample(prediction=lambda x: Prediction(x, x[:1])),
        "`denoise` must return eps of the shape of x_t, [4, 2], not [1, 2]",
    ),
    "x0 as a number": (
        sample(prediction=lambda x: Prediction(0.0, 1.0)),
        "`denoise` must return x0 of the shape of x_t",
    ),
    "no eps": (
        sample(prediction=lambda x: Prediction(x, None)),
        "`denoise` must return eps of the shape of x_t, [4, 2]",
    ),
    "no prediction": (sample(prediction=lambda x: x), "`denoise` must return a Prediction(x0, eps), not "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_are_refused_by_name(case):
    call, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=re.escape(message)) as error:
        call()
    assert "\n" not in str(error.value)


def test_levels_that_are_traced_are_not_checked():
    run = lambda levels: jaxdiff.sample(None, jaxdiff.ddim(), denoiser(), SCHEDULE, levels, X)[0]
    levels = np.array([1000, 500, 0])
    np.testing.assert_allclose(jax.jit(run)(levels), run(levels), rtol=1e-5)
    assert jax.jit(run)(levels[::-1]).shape == X.shape
