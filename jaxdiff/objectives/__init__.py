"""Training objectives; one loss per example."""

from jaxdiff.objectives.autoencoder import kl_autoencoder, vq_autoencoder
from jaxdiff.objectives.classification import classification
from jaxdiff.objectives.consistency import consistency
from jaxdiff.objectives.contrastive import contrastive
from jaxdiff.objectives.couplings import optimal_transport, reflow
from jaxdiff.objectives.denoising import denoising
from jaxdiff.objectives.distillation import distillation
from jaxdiff.objectives.dreambooth import dreambooth
from jaxdiff.objectives.levels import (
    LEVEL_DRAWS,
    LevelDraw,
    clean,
    importance,
    log_normal,
    logit_normal,
    stratified,
    uniform,
)
from jaxdiff.objectives.mean_flow import mean_flow
from jaxdiff.objectives.noising import to_unit_range
from jaxdiff.objectives.variational import variational_bound
from jaxdiff.objectives.weightings import WEIGHTINGS, bound, edm, min_snr, p2, sigmoid, simple

__all__ = [
    "LEVEL_DRAWS",
    "WEIGHTINGS",
    "LevelDraw",
    "bound",
    "classification",
    "clean",
    "consistency",
    "contrastive",
    "denoising",
    "distillation",
    "dreambooth",
    "edm",
    "importance",
    "kl_autoencoder",
    "log_normal",
    "logit_normal",
    "mean_flow",
    "min_snr",
    "optimal_transport",
    "p2",
    "reflow",
    "sigmoid",
    "simple",
    "stratified",
    "to_unit_range",
    "uniform",
    "variational_bound",
    "vq_autoencoder",
]
