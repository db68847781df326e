"""Samplers from noise to data, given a denoiser.

Every module of the package is imported; a registered function, such as `ddim`, is an attribute by its name.
"""

from jaxdiff.registry import import_all
from jaxdiff.samplers.base import SAMPLERS, Sampler, State, chunks, sample
from jaxdiff.samplers.keys import each_key, fold, keys_for, noise, normal

import_all(__name__, __path__)
globals().update(SAMPLERS.functions)

__all__ = [
    "SAMPLERS",
    "Sampler",
    "State",
    "chunks",
    "each_key",
    "fold",
    "keys_for",
    "noise",
    "normal",
    "sample",
    *SAMPLERS.functions,
]
