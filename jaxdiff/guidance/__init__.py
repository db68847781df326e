"""Guidance as transforms of denoisers, Denoiser -> Denoiser, which samplers do not depend on."""

from jaxdiff.guidance.cfg import cfg, extrapolate, halves, on_cond, on_uncond
from jaxdiff.guidance.clip import clip_similarity
from jaxdiff.guidance.gradient import by_gradient, classifier, label_log_prob
from jaxdiff.guidance.limits import rescaled, rescaled_cfg, within
from jaxdiff.guidance.multidiffusion import multidiffusion
from jaxdiff.guidance.scaled import GUIDANCES
from jaxdiff.guidance.threshold import clip_x0, dynamic_threshold
from jaxdiff.guidance.weights import early, late, stepped
from jaxdiff.registry import import_all

import_all(__name__, __path__)  # guidances that are only chosen by name need no line here

__all__ = [
    "GUIDANCES",
    "by_gradient",
    "cfg",
    "classifier",
    "clip_similarity",
    "clip_x0",
    "dynamic_threshold",
    "early",
    "extrapolate",
    "halves",
    "label_log_prob",
    "late",
    "multidiffusion",
    "on_cond",
    "on_uncond",
    "rescaled",
    "rescaled_cfg",
    "stepped",
    "within",
]
