"""Wrong arguments of samplers, guidance, editing, objectives, oracles and metrics: each is refused by its name."""

import re

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff import Cond, Guided, Prediction, editing, guidance, objectives, samplers, schedules, testing
from jaxdiff.eval import likelihood, neighbors
from jaxdiff.objectives import levels, weightings
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


def network(params, x_t, t, cond, keys=None):
    """A network that is never called."""
    raise NotImplementedError


def null_text(**given):
    arguments = {
        "denoise": denoiser(),
        "schedule": SCHEDULE,
        "timesteps": [1000, 500, 0],
        "trajectory": jnp.ones([3, 4, 2]),
        "guided": Guided(Cond(context=jnp.ones([4, 1, 2])), Cond(context=jnp.ones([4, 1, 2]))),
        "scale": 2.0,
    }
    return lambda: editing.null_text(**arguments | given)


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
    "complex levels": (sample([1000 + 1j, 500, 0]), "`timesteps` must be a grid of levels [N + 1]"),
    "what is collected as a number": (sample(collect=3), "`collect` must be a function (State, Prediction) -> pytree"),
    "collected in chunks as a number": (
        lambda: next(samplers.chunks(KEY, jaxdiff.ddim(), denoiser(), SCHEDULE, [9, 5, 0], X, size=1, collect=3)),
        "`collect` must be a function (State, Prediction) -> pytree, not int",
    ),
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
    # conditions
    **{
        f"a condition as {type(cond).__name__}": (
            sample(cond=cond),
            f"`cond` must be of arrays, such as jaxdiff.condition makes, and it holds a {kind}",
        )
        for cond, kind in (
            ("a seven", "str"),
            ({"text": "a seven"}, "str"),
            (np.array(["a seven"] * 4), "array of <U7"),
            (Cond(context="a seven"), "str"),
        )
    },
    "chunks of a text": (
        lambda: next(samplers.chunks(KEY, jaxdiff.ddim(), denoiser(), SCHEDULE, [9, 5, 0], X, "a", size=1)),
        "`cond` must be of arrays",
    ),
    "a density of a text": (
        lambda: likelihood.log_prob(KEY, denoiser(), SCHEDULE, X, "a seven"),
        "`cond` must be of arrays, such as jaxdiff.condition makes, and it holds a str",
    ),
    **{
        f"a network's condition as {type(cond).__name__}": (
            lambda cond=cond: jaxdiff.network(None)({}, X, 500, cond),
            f"`cond` must be a Cond, such as jaxdiff.condition(...).cond, not {type(cond).__name__}",
        )
        for cond in ("a seven", {"label": 7}, 7)
    },
    **{
        f"a network's label as {label!r}": (
            lambda label=label: jaxdiff.network(None)({}, X, 500, Cond(label=label)),
            "`cond.label` must be an array with one row for each example, not ",
        )
        for label in ("7", [7, 3], 7)
    },
    **{
        f"{name} as {kind}": (
            lambda name=name, made=made: objectives.denoising(
                **{"apply": network, "schedule": SCHEDULE} | {name: made}
            ),
            f"`{name}` must be a function, see `jaxdiff.objectives`, not {kind}",
        )
        for name in ("weighting", "coupling")
        for kind, made in (("str", "p2"), ("dict", {}))
    },
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
    "autoguidance from nothing": (
        lambda: guidance.extrapolate(denoiser(), None, 2.0),
        "`bad`: a function is needed, not a NoneType",
    ),
    "autoguidance from nothing, unused": (
        lambda: guidance.extrapolate(denoiser(), None, 1.0),
        "`bad`: a function is needed, not a NoneType",
    ),
    "half of a number": (lambda: guidance.on_cond(3), "`denoise`: a function is needed, not a int"),
    "a gradient of a number": (
        lambda: guidance.by_gradient(denoiser(), 3, SCHEDULE, 1.0),
        "`objective`: a function is needed, not a int",
    ),
    "regions of nan": (
        lambda: guidance.multidiffusion(denoiser(), np.array([[[1.0, NAN]]])),
        "`masks` must be at least 0 and finite",
    ),
    "regions without end": (
        lambda: guidance.multidiffusion(denoiser(), np.array([[[1.0, np.inf]]])),
        "`masks` must be at least 0 and finite",
    ),
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
    "prompts in regions of nan": (
        lambda: editing.regions(np.array([[[1.0, NAN]]])),
        "`masks` must be in [0, 1]",
    ),
    "a mask of tokens of nan": (
        lambda: editing.local_blend(jaxdiff.ddim(), [[0.0], [NAN]], [0, -1]),
        "`token_mask` must lie in [0, 1]",
    ),
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
    **{
        f"a bound of {what}": (
            lambda x0=x0: likelihood.variational_bound(KEY, denoiser(), SCHEDULE, [1000, 500, 0], x0),
            "`x0` must lie in [-1, 1]",
        )
        for what, x0 in (("numbers in 0..255", 200 * X), ("nan", NAN * X))
    },
    "bits of no numbers": (
        lambda: likelihood.bits_per_dim(jnp.zeros(2), (0, 3)),
        "`shape`=(0, 3) must be that of an example",
    ),
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
    # levels that float32 cannot hold or tell apart
    **{
        f"{name} in float32": (make, message)
        for name, make, message in [
            (
                "noise from 1e-300",
                lambda: schedules.variance_exploding(10, 1e-300, 1e300),
                "`sigma_min`=1e-300 and `sigma_max`=1e+300: level 1, of alpha=1, sigma=1e-300 and beta=0, is not within",
            ),
            (
                "noise of one size",
                lambda: schedules.variance_exploding(10, 1.0, 1 + 1e-9),
                "level 2, of alpha=1, sigma=1 and beta=2.222e-10, is the same as the one before in float32",
            ),
            ("EDM's noise to 1e300", lambda: schedules.edm(10, 1e-3, 1e300), "`sigma_max`=1e+300, `rho`=7.0: level "),
            ("EDM's power of 1e-3", lambda: schedules.edm(10, rho=1e-3), "`rho`=0.001: sigma / alpha must rise"),
            ("EDM's power of 1e300", lambda: schedules.edm(10, rho=1e300), "`rho`=1e+300: sigma / alpha must rise"),
            ("betas of 1e-300", lambda: schedules.from_betas([1e-300] * 10), "`betas`: level 1, of alpha=1, sigma=0 "),
            ("a beta of 1 before others", lambda: schedules.from_betas([0.5, 1, 0.5]), "`betas`: level 3, of alpha=0"),
            (
                "betas without signal",
                lambda: schedules.from_betas([0.999] * 100),
                "`betas`: level 13, of alpha=3.162e-20",
            ),
            (
                "linear from 1e-300",
                lambda: schedules.linear(10, 1e-300),
                "`beta_start`=1e-300 and `beta_end`=0.02: level 1",
            ),
            ("scaled from 1e-300", lambda: schedules.scaled_linear(10, 1e-300), "`beta_start`=1e-300 and `beta_end`="),
            ("linear without signal", lambda: schedules.linear(10**5), "`num_levels`=100000, `beta_start`=0.0001 and"),
            (
                "a cosine of 1e300",
                lambda: schedules.cosine(10, s=1e300),
                "`s`=1e+300 and `beta_max`=0.999 must give betas",
            ),
            ("a cosine of 1e-30", lambda: schedules.cosine(10, beta_max=1e-30), "`beta_max`=1e-30: level 1"),
            ("ratios beside each other", lambda: schedules.from_log_snr([1, 1 - 1e-15]), "`log_snr`: level 2, of "),
            (
                "signal of 1e-300",
                lambda: schedules.from_alpha_sigma([1e-300], [1]),
                "`alpha` and `sigma`: level 1, of ",
            ),
            (
                "noise of 1e300",
                lambda: schedules.from_alpha_sigma([1, 1], [1, 1e300]),
                "`alpha` and `sigma`: level 2, of ",
            ),
        ]
    },
    **{
        f"{name} shifted by {factor}": (
            lambda name=name, factor=factor: schedules.shift(schedules.SCHEDULES.functions[name](10), factor),
            f"`factor`={factor}: level 1, of ",
        )
        for name in ("linear", "rectified_flow", "variance_exploding")
        for factor in (1e300, 1e-300)
    },
    "levels on a text": (lambda: schedules.from_alpha_sigma([1], [1], bend="x"), "`bend`='x' must be 0 or 1"),
    "levels on nan": (lambda: schedules.from_alpha_sigma([1], [1], bend=NAN), "`bend`=nan must be 0 or 1"),
    "shifted nothing": (lambda: schedules.shift(None, 2.0), "`schedule` must be a Schedule"),
    "pure noise of nothing": (lambda: schedules.zero_terminal_snr(None), "`schedule` must be a Schedule"),
    "compared with nothing": (lambda: schedules.equal(SCHEDULE, None), "`other` must be a Schedule"),
    # options of samplers
    "etas of examples": (lambda: jaxdiff.ddim(eta=np.ones(3)), "`eta` must be one number, not of shape [3]"),
    "eta as text": (lambda: jaxdiff.ddim(eta="1"), "`eta`='1' must lie in [0, 1]"),
    "churn of examples": (lambda: samplers.heun(churn=np.ones(3)), "`churn` must be one number, not of shape [3]"),
    "noise of EDM's sampler": (lambda: samplers.heun(s_noise=NAN), "`s_noise`=nan must be at least 0"),
    "LCM's data without variance": (
        lambda: samplers.lcm(sigma_data=0.0),
        "`sigma_data`=0.0 must be above 0 and finite",
    ),
    "LCM's time": (lambda: samplers.lcm(timestep_scaling=NAN), "`timestep_scaling`=nan must be above 0 and finite"),
    "an SDE as text": (lambda: samplers.dpmpp_2m(sde="no"), "`sde`='no' must be of type bool"),
    "Runge-Kutta as text": (lambda: samplers.pndm(runge_kutta="no"), "`runge_kutta`='no' must be of type bool"),
    "an order as text": (lambda: samplers.unipc(order="2"), "`order`='2' must be of type int"),
    "a tolerance of nan": (lambda: samplers.probability_flow(rtol=NAN), "`rtol`=nan must be above 0 and finite"),
    "no tolerance": (lambda: samplers.probability_flow(rtol=0.0, atol=0.0), "`rtol`=0.0 must be above 0 and finite"),
    "a tolerance below 0": (lambda: samplers.probability_flow(atol=-1.0), "`atol`=-1.0 must be at least 0 and finite"),
    "a solver as text": (
        lambda: samplers.probability_flow(solver="dopri5"),
        "`solver` must be an adaptive solver of diffrax, such as diffrax.Dopri5(), not 'dopri5'",
    ),
    "a solver's class": (
        lambda: samplers.probability_flow(solver=diffrax.Tsit5),
        "`solver` must be an adaptive solver of diffrax, such as diffrax.Dopri5(), not the class Tsit5",
    ),
    "a solver without tolerances": (
        lambda: samplers.probability_flow(solver=diffrax.Euler()),
        "`solver` must be an adaptive solver of diffrax",
    ),
    "a fixed solver as text": (
        lambda: samplers.probability_flow_fixed(solver="heun"),
        "`solver` must be a solver of diffrax, such as diffrax.Heun(), not 'heun'",
    ),
    "churn between no noises": (
        lambda: samplers.heun(churn=1.0, s_min=5.0, s_max=1.0),
        "`s_min`=5.0 must be at most `s_max`=1.0",
    ),
    "half a solver's step": (lambda: samplers.probability_flow(max_steps=2.5), "`max_steps`=2.5 must be of type int"),
    "half a substep": (lambda: samplers.probability_flow_fixed(1.5), "`substeps`=1.5 must be of type int"),
    "half a corrector": (
        lambda: samplers.predictor_corrector(corrector_steps=1.5),
        "`corrector_steps`=1.5 must be of type int",
    ),
    "a corrector of nan": (lambda: samplers.predictor_corrector(snr=NAN), "`snr`=nan must be above 0 and finite"),
    # objectives
    **{
        f"{make.__name__} on no schedule": (lambda make=make: make(network, None), "`schedule` must be a Schedule")
        for make in (objectives.denoising, objectives.variational_bound, objectives.classification)
    },
    "distillation on no schedule": (
        lambda: objectives.distillation(network, network, None),
        "`schedule` must be a Schedule",
    ),
    "a bound of weight nan": (
        lambda: objectives.denoising(network, SCHEDULE, "x0", bound_weight=NAN),
        "`bound_weight`=nan must be at least 0 and finite",
    ),
    "offset noise below 0": (
        lambda: objectives.denoising(network, SCHEDULE, "x0", offset_noise=-0.1),
        "`offset_noise`=-0.1 must be at least 0 and finite",
    ),
    "dropout above 1": (
        lambda: objectives.denoising(network, SCHEDULE, "x0", null_cond=Cond(label=2), cond_dropout=1.5),
        "`cond_dropout`=1.5 must lie in [0, 1]",
    ),
    "smoothing as text": (
        lambda: objectives.classification(network, SCHEDULE, label_smoothing="0.1"),
        "`label_smoothing`='0.1' must be in [0, 1)",
    ),
    "levels about nan": (lambda: levels.logit_normal(mean=NAN), "`mean`=nan must be a finite number"),
    "levels of no schedule": (lambda: levels.log_normal(None), "`schedule` must be a Schedule"),
    "levels by a seed": (lambda: levels.stratified(0, 4), "`key` must be a typed random key"),
    "half a history": (lambda: levels.importance(history=2.5), "`history`=2.5 must be of type int"),
    # editing
    "settings of no steps": (lambda: editing.null_text_config(0), "`num_steps`=0 must be at least 1"),
    "settings of a rate of nan": (
        lambda: editing.null_text_config(5, learning_rate=NAN),
        "`learning_rate`=nan must be above 0 and finite",
    ),
    "null text upwards": (null_text(timesteps=[0, 500, 1000]), "`timesteps` must fall at every step"),
    "null text of one condition": (null_text(guided=Cond()), "`guided` must be a Guided(cond, uncond), not Cond"),
    "null text of another leaf": (
        null_text(leaf="words"),
        "`leaf`='words' must be the name of an array in `guided.uncond`",
    ),
    "a negative prompt of another leaf": (
        lambda: editing.negative_prompt_inversion([2, 1, 0], Guided(Cond(), Cond()), "label"),
        "`leaf`='label' must be the name of an array in `guided.cond`",
    ),
    "sources of other examples": (
        lambda: editing.direct_inversion(jaxdiff.ddim(), [2, 1, 0], jnp.ones([3, 4, 2]), [True]),
        "`is_source` must be bool [4], not of shape [1]",
    ),
    "inverted integers": (
        lambda: editing.invert(denoiser(), SCHEDULE, [1000, 0], jnp.ones([4, 2], int)),
        "`x0` must be float32 [B, ...], not int32 [4, 2]",
    ),
    "edited integers": (
        lambda: editing.sdedit(KEY, jaxdiff.ddim(), denoiser(), SCHEDULE, [500, 0], np.ones([4, 2], np.uint8)),
        "`x0` must be float32 [B, ...], not uint8 [4, 2]",
    ),
    "a strength as text": (lambda: editing.strength_grid(1000, 5, "half"), "`strength`='half' must lie in [0, 1]"),
    "a strength of no steps": (lambda: editing.strength_grid(1000, 0, 0.5), "`num_steps`=0 must be at least 1"),
    # metrics
    "half a neighbour": (lambda: neighbors.precision_recall(X, X, k=2.5), "`k`=2.5 must be of type int"),
    "nothing is nearest": (
        lambda: neighbors.nearest(np.zeros([2, 3]), np.zeros([0, 3])),
        "`others` must be at least one image, not of shape [0, 3]",
    ),
    "one key for all pixels": (
        lambda: likelihood.dequantize(KEY, np.zeros([2, 3], np.uint8)),
        "`keys` must be one for each of 2 images, not of shape []",
    ),
    "keys of other images": (
        lambda: likelihood.dequantize(samplers.keys_for(KEY, 3), np.zeros([2, 3], np.uint8)),
        "`keys` must be one for each of 2 images, not of shape [3]",
    ),
    "half a probe": (
        lambda: likelihood.log_prob(KEY, denoiser(), SCHEDULE, X, trace=2.5),
        "`trace`=2.5 must be of type int",
    ),
    "a density of integers": (
        lambda: likelihood.log_prob(KEY, denoiser(), SCHEDULE, np.ones([4, 2], int)),
        "`x` must be float32 [B, ...], not int64",
    ),
    "a density of one column": (
        lambda: likelihood.log_prob(KEY, lambda x, t, cond: Prediction(x[:, :1], x), SCHEDULE, X),
        "`denoise` must return x0 of the shape of x_t",
    ),
    "a bound of one column": (
        lambda: likelihood.variational_bound(
            KEY, lambda x, t, cond: Prediction(x[:, :1], x), SCHEDULE, [1000, 500, 0], X
        ),
        "`denoise` must return x0 of the shape of x_t",
    ),
    "a bound on no schedule": (
        lambda: likelihood.variational_bound(KEY, denoiser(), None, [1000, 500, 0], X),
        "`schedule` must be a Schedule",
    ),
    # samplers around samplers, and what goes with them
    "inpainting by a name": (lambda: editing.inpaint("ddim", X, True), "`sampler` must be a Sampler"),
    "inversion by a function": (
        lambda: editing.direct_inversion(jaxdiff.ddim, [2, 1, 0], jnp.ones([3, 4, 2]), [True] * 4),
        "`sampler` must be a Sampler",
    ),
    "a blend by a name": (lambda: editing.local_blend("ddim", np.ones([2, 3]), [0, -1]), "`sampler` must be a Sampler"),
    "a blend of other examples": (
        lambda: editing.local_blend(jaxdiff.ddim(), np.ones([2, 3]), [0, -1, 0]),
        "`token_mask` must be [B, L] and `source_offset` [B], not of shapes [2, 3] and [3]",
    ),
    "a blend above nan": (
        lambda: editing.local_blend(jaxdiff.ddim(), np.ones([2, 3]), [0, -1], threshold=NAN),
        "`threshold`=nan must lie in [0, 1]",
    ),
    "a blend of maps of size 0": (
        lambda: editing.local_blend(jaxdiff.ddim(), np.ones([2, 3]), [0, -1], size=0),
        "`size`=0 must be at least 1",
    ),
    "a word of weight nan": (
        lambda: editing.reweight(None, editing.no_edit(1, 3), "a seven", "seven", NAN),
        "`scale`=nan must be a finite number",
    ),
    "a picture lit above 1": (
        lambda: editing.highlight(np.zeros([2, 2, 1], np.uint8), np.ones([2, 2]), min_brightness=2.0),
        "`min_brightness`=2.0 must lie in [0, 1]",
    ),
    "pairs of one condition": (
        lambda: editing.sample_pairs(denoiser(), SCHEDULE, [1000, 0], X, Cond(), Cond(), 2.0),
        "`guided` must be a Guided(cond, uncond), not Cond",
    ),
    "pairs of integers": (
        lambda: editing.sample_pairs(denoiser(), SCHEDULE, [1000, 0], [[1]], Guided(Cond(), Cond()), Cond(), 2.0),
        "`x_T` must be float32 [B, ...], not list",
    ),
    "an autoencoder's weight of nan": (
        lambda: objectives.kl_autoencoder(None, kl_weight=NAN),
        "`kl_weight`=nan must be at least 0 and finite",
    ),
    "a critic's weight of nan": (
        lambda: objectives.kl_autoencoder(None, critic_weight=NAN),
        "`critic_weight`=nan must be at least 0 and finite",
    ),
    "a codebook's decay as text": (
        lambda: objectives.vq_autoencoder(None, decay="0.9"),
        "`decay`='0.9' must lie in [0, 1)",
    ),
    "a codebook's commitment of nan": (
        lambda: objectives.vq_autoencoder(None, commitment=NAN),
        "`commitment`=nan must be at least 0 and finite",
    ),
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


def test_conditions_that_are_traced_are_taken():
    run = lambda cond: jaxdiff.sample(None, jaxdiff.ddim(), denoiser(), SCHEDULE, [1000, 500, 0], X, cond)[0]
    cond = Cond(label=jnp.zeros(4, int))
    np.testing.assert_allclose(jax.jit(run)(cond), run(cond), rtol=1e-5)
    assert jax.vmap(run)(jax.tree.map(lambda x: x[None], cond)).shape == (1, *X.shape)
