"""Wrong arguments of samplers, guidance, editing, objectives, oracles and metrics: each is refused by its name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff import Cond, Guided, Prediction, editing, guidance, samplers, schedules, testing
from jaxdiff.objectives import weightings
from jaxdiff.objectives.autoencoder import psnr
from jaxdiff.objectives.dreambooth import dreambooth
from jaxdiff.objectives.variational import decoder_nll
from jaxdiff.types import Gaussian

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


def guided(scale, make=guidance.cfg):
    """A guided prediction for four rows."""
    cond = Guided(Cond(label=jnp.zeros(4, int)), Cond(label=jnp.ones(4, int)))
    return lambda: make(denoiser(), scale)(X, 500, cond)


def inpaint(x0=X, known=True, rounds=1):
    """Two steps of inpainting."""
    return lambda: jaxdiff.sample(
        KEY, editing.inpaint(jaxdiff.ddim(), x0, known, rounds), denoiser(), SCHEDULE, [1000, 500, 0], X
    )


def nll(x0, bins=256):
    return lambda: decoder_nll(x0, Gaussian(jnp.zeros([2]), 1.0), bins)


def weighed(name, **options):
    return lambda: weightings.WEIGHTINGS.functions[name](SCHEDULE, jnp.array([5]), "x0", **options)


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
    # guidance
    "a scale that is nan": (guided(NAN), "`scale`=nan must be a finite number"),
    "a scale on the device that is nan": (guided(jnp.float32(NAN)), "`scale`=nan must be a finite number"),
    "a scale as text": (guided("2"), "`scale`='2' must be a finite number"),
    "no scale": (guided(None), "`scale`=None must be a finite number"),
    "scales in two axes": (guided(np.ones([4, 1])), "`scale` must be one number, or one for each example [B]"),
    "scales of other examples": (
        guided(jnp.ones(3)),
        "`scale` must be one number, or one for each of 4 examples, not of shape [3]",
    ),
    "a function's scales": (guided(lambda t: jnp.ones(3)), "`scale` must be one number, or one for each of 4 examples"),
    "an infinite scale of autoguidance": (
        lambda: guidance.extrapolate(denoiser(), denoiser(), np.inf),
        "`scale`=inf must be a finite number",
    ),
    "contrast above 1": (
        lambda: guidance.rescaled(denoiser(), denoiser(), SCHEDULE, phi=2.0),
        "`phi`=2.0 must lie in [0, 1]",
    ),
    "contrast nan": (lambda: guidance.rescaled_cfg(denoiser(), 2.0, SCHEDULE, NAN), "`phi`=nan must lie in [0, 1]"),
    "contrast of other examples": (
        guided(jnp.ones(3) / 2, lambda denoise, phi: guidance.rescaled_cfg(denoise, 2.0, SCHEDULE, phi)),
        "`phi` must be one number, or one for each of 4 examples",
    ),
    "an empty interval": (
        lambda: guidance.within(denoiser(), denoiser(), 900, 100),
        "`t_low`=900 must be at most `t_high`=100",
    ),
    "an interval from nan": (lambda: guidance.within(denoiser(), denoiser(), NAN, 100), "`t_low`=nan must be a level"),
    "clipped to nothing": (
        lambda: guidance.clip_x0(denoiser(), SCHEDULE, lo=1, hi=-1),
        "`lo`=1 must be at most `hi`=-1",
    ),
    "clipped at nan": (lambda: guidance.clip_x0(denoiser(), SCHEDULE, hi=NAN), "`hi`=nan must be a number"),
    "clipped by a number": (lambda: guidance.clip_x0(denoiser(), 1.0), "`schedule` must be a Schedule"),
    "thresholds by a number": (lambda: guidance.dynamic_threshold(denoiser(), 1.0), "`schedule` must be a Schedule"),
    "a threshold as text": (
        lambda: guidance.dynamic_threshold(denoiser(), SCHEDULE, "99"),
        "`percentile`='99' must lie in (1, 100]",
    ),
    "late by nan": (lambda: guidance.late(SCHEDULE, NAN), "`scale`=nan must be a finite number"),
    "early without a schedule": (lambda: guidance.early("linear", 2.0), "`schedule` must be a Schedule"),
    "stepped to nan": (lambda: guidance.stepped(NAN, 3.0, 800), "`above`=nan must be a finite number"),
    "stepped at no level": (lambda: guidance.stepped(20.0, 3.0, None), "`level`=None must be a finite number"),
    "a gradient of nan": (
        lambda: guidance.by_gradient(denoiser(), lambda x0, t, cond: x0.sum(1), SCHEDULE, NAN),
        "`strength`=nan must be a finite number",
    ),
    "a classifier on no schedule": (
        lambda: guidance.classifier(denoiser(), lambda x, t, cond: x.sum(1), None, 1.0),
        "`schedule` must be a Schedule",
    ),
    "a classifier for other examples": (
        guided(jnp.ones(3), lambda f, s: guidance.classifier(f, lambda x, t, cond: x.sum(1), SCHEDULE, s)),
        "`scale` must be one number, or one for each of 4 examples",
    ),
    "CFG++ of nan": (lambda: samplers.ddim_cfgpp(np.float32(NAN)), "`scale`=nan must lie in [0, 1]"),
    "CFG++ of an example above 1": (
        lambda: samplers.ddim_cfgpp(np.array([0.5, 1.5])),
        "`scale`=1.5 must lie in [0, 1]",
    ),
    # weightings
    "min-SNR below 0": (weighed("min_snr", gamma=-1), "`gamma`=-1 must be above 0"),
    "min-SNR of nan": (weighed("min_snr", gamma=NAN), "`gamma`=nan must be above 0"),
    "P2 of no k": (weighed("p2", k=0.0), "`k`=0.0 must be above 0"),
    "P2 below 0": (weighed("p2", gamma=-1.0), "`gamma`=-1.0 must be at least 0 and finite"),
    "sigmoid of nan": (weighed("sigmoid", bias=NAN), "`bias`=nan must be a finite number"),
    "EDM's data without variance": (weighed("edm", sigma_data=0.0), "`sigma_data`=0.0 must be above 0"),
    "EDM's data as text": (weighed("edm", sigma_data="0.5"), "`sigma_data`='0.5' must be above 0"),
    "a class of weight nan": (
        lambda: dreambooth(lambda *_: None, prior_weight=NAN),
        "`prior_weight`=nan must be at least 0 and finite",
    ),
    # editing, keys and data
    "a mask of 2": (inpaint(known=np.full([4, 2], 2.0)), "`known` must lie in [0, 1]"),
    "a mask of nan": (inpaint(known=NAN), "`known` must lie in [0, 1]"),
    "a mask of other examples": (
        inpaint(known=np.ones([3, 2])),
        "`known` must fit the shape of `x0`, [4, 2], not [3, 2]",
    ),
    "a mask of more axes": (inpaint(known=np.ones([1, 4, 2])), "`known` must fit the shape of `x0`"),
    "known pixels of other examples": (inpaint(X[:3]), "`x0` must have the shape of x, [4, 2], not [3, 2]"),
    "known pixels of uint8": (inpaint(np.zeros([4, 2], np.uint8)), "`x0` must be of floats, not uint8"),
    "half a round": (inpaint(rounds=1.5), "`rounds`=1.5 must be at least 1, and whole"),
    "rounds as text": (inpaint(rounds="2"), "`rounds`='2' must be at least 1, and whole"),
    "half a refinement": (lambda: editing.ddim_inversion(0.5), "`refine`=0.5 must be at least 0, and whole"),
    "fewer keys than none": (lambda: samplers.keys_for(KEY, -1), "`n`=-1 must be at least 0"),
    "keys for keys": (lambda: samplers.keys_for(samplers.keys_for(KEY, 2), 2), "`key` must be one random key, not [2]"),
    "noise of a negative size": (
        lambda: samplers.noise(samplers.keys_for(KEY, 2), (-3,)),
        "`shape`=(-3,) must be the shape of one example",
    ),
    "noise of a number": (
        lambda: samplers.normal(samplers.keys_for(KEY, 2), 3),
        "`shape`=3 must be the shape of one example",
    ),
    "likelihood of uint8": (nll(np.zeros(2, np.uint8)), "`x0` must be of floats, not uint8"),
    "likelihood of one bin": (nll(jnp.zeros(2), bins=1), "`bins`=1 must be at least 2"),
    "psnr of two shapes": (
        lambda: psnr(jnp.zeros([2, 3, 3, 1]), jnp.zeros([3, 3, 1])),
        "`y` must have the shape of `x`, [2, 3, 3, 1], not [3, 3, 1]",
    ),
    "psnr of uint8": (
        lambda: psnr(jnp.zeros([2, 3]), jnp.zeros([2, 3], jnp.uint8)),
        "`y` must be of floats, not uint8",
    ),
    # oracles, orders and schedules
    "an order of one count": (
        lambda: testing.order_of([10], [0.1]),
        "`counts`=[10.0] must be of at least two different",
    ),
    "an order of equal counts": (lambda: testing.order_of([10, 10], [0.1, 0.1]), "must be of at least two different"),
    "an order of no error": (
        lambda: testing.order_of([10, 20], [0.1, 0.0]),
        "`errors` must be a vector of finite numbers above 0",
    ),
    "an order of too few errors": (
        lambda: testing.order_of([10, 20], [0.1]),
        "`errors` must be one for each of 2 `counts`, not 1",
    ),
    "an order of texts": (lambda: testing.order_of(["a"], [0.1]), "`counts` must be an array of numbers"),
    "errors after no steps": (lambda: testing.flow_errors(jaxdiff.ddim(), [0]), "`counts`=0 must be at least 1"),
    "a ring of std -1": (lambda: testing.ring(3, std=-1.0), "`std`=-1.0 must be at least 0 and finite"),
    "a ring of nothing": (lambda: testing.ring(0), "`count`=0 must be at least 1"),
    "a ring of half a point": (lambda: testing.ring(2.5), "`count`=2.5 must be of type int"),
    "a ring of no radius": (lambda: testing.ring(3, radius=NAN), "`radius`=nan must be a finite number"),
    "a Gaussian at nan": (lambda: testing.gaussian([NAN], 1.0), "`mean` must be finite"),
    "a Gaussian of nan": (lambda: testing.gaussian([0.0], NAN), "`cov` must be finite"),
    "a Gaussian at a number": (lambda: testing.gaussian(0.0, 1.0), "`mean` must be a vector [D], not of shape []"),
    "a mixture at texts": (lambda: testing.mixture([1], [["a"]], [1]), "`means` must be an array of numbers"),
    "infinite weights": (lambda: testing.mixture([1, np.inf], [[0.0], [1.0]], [1, 1]), "`weights` must be finite"),
    "no schedule checked": (lambda: testing.check_schedule(None), "`schedule` must be a Schedule"),
    "a denoiser on no schedule": (
        lambda: testing.check_denoiser(denoiser(), None, (2,)),
        "`schedule` must be a Schedule",
    ),
    "a kind on no schedule": (lambda: testing.check_prediction_kind("eps", "linear"), "`schedule` must be a Schedule"),
    "another sum preserved": (
        lambda: testing.check_schedule(SCHEDULE, preserves="snr"),
        "unknown preserved sum 'snr'",
    ),
    **{
        f"{num} levels of {name}": (lambda make=make, num=num: make(num), f"`num_levels`={num} must be at least 1")
        for name, make in schedules.SCHEDULES.functions.items()
        for num in (0, -3)
    },
    "betas as texts": (lambda: schedules.linear(10, "a"), "`beta_start`='a' must lie in (0, 1]"),
    "betas above 1": (lambda: schedules.scaled_linear(10, beta_end=2.0), "`beta_end`=2.0 must lie in (0, 1]"),
    "a cosine below 0": (lambda: schedules.cosine(10, s=-1.0), "`s`=-1.0 must be at least 0 and finite"),
    "a cosine's beta": (lambda: schedules.cosine(10, beta_max=NAN), "`beta_max`=nan must lie in (0, 1]"),
    "a sigmoid to a text": (lambda: schedules.sigmoid(10, end="3"), "`end`='3' must be a finite number"),
    "a sigmoid cut at nan": (lambda: schedules.sigmoid(10, clip_min=NAN), "`clip_min`=nan must be a finite number"),
    "noise to a text": (lambda: schedules.edm(10, sigma_max="80"), "`sigma_max`='80' must be a finite number"),
    "EDM's power as text": (lambda: schedules.edm(10, rho="7"), "`rho`='7' must be above 0 and finite"),
    "a table of texts": (lambda: schedules.from_betas(["a"]), "`betas` must be an array of numbers"),
    "a ragged table": (lambda: schedules.from_alpha_sigma([[1], [1, 2]], [1]), "`alpha` must be an array of numbers"),
    "shifted by a text": (lambda: schedules.shift(SCHEDULE, "2"), "`factor`='2' must be a finite number above 0"),
    "shifted nothing": (lambda: schedules.shift(None, 2.0), "`schedule` must be a Schedule"),
    "pure noise of nothing": (lambda: schedules.zero_terminal_snr(None), "`schedule` must be a Schedule"),
    "compared with nothing": (lambda: schedules.equal(SCHEDULE, None), "`other` must be a Schedule"),
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
