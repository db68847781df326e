r"""Noise schedules as tables over T + 1 levels, level 0 being clean data: x_t = alpha_t x_0 + sigma_t eps.

Variance-preserving ones, alpha^2 + sigma^2 = 1, are made of the variances of their steps:

  (1)  q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)          Ho et al. 2020, eq. 2
  (2)  alphabar_t = prod_{i <= t} (1 - beta_i),  alphabar_0 = 1
  (3)  alpha_t = sqrt(alphabar_t),  sigma_t = sqrt(1 - alphabar_t)

Others have a falling or constant alpha and a rising sigma / alpha (Kingma et al. 2021, VDM, section 3.1):

  (4)  alpha_t = 1 - t/T,  sigma_t = t/T               rectified flow, Liu et al. 2022; Lipman et al. 2022
  (5)  alpha_t = 1,  sigma_t rising                    variance-exploding, Song et al. 2021; EDM, Karras et al. 2022
  (6)  q(x_t | x_{t-1}) = N(r x_{t-1}, beta_t I),  r = alpha_t / alpha_{t-1},  beta_t = sigma_t^2 - r^2 sigma_{t-1}^2

Tables are computed once in float64 and cast to float32.
"""

from jaxdiff.schedules.changes import shift, zero_terminal_snr
from jaxdiff.schedules.kinds import (
    SCHEDULES,
    cosine,
    edm,
    linear,
    rectified_flow,
    scaled_linear,
    sigmoid,
    variance_exploding,
)
from jaxdiff.schedules.schedule import Schedule, check_schedule, equal, lookup, preserves_variance
from jaxdiff.schedules.tables import from_alpha_sigma, from_betas, from_log_snr

__all__ = [
    "SCHEDULES",
    "Schedule",
    "check_schedule",
    "cosine",
    "edm",
    "equal",
    "from_alpha_sigma",
    "from_betas",
    "from_log_snr",
    "linear",
    "lookup",
    "preserves_variance",
    "rectified_flow",
    "scaled_linear",
    "shift",
    "sigmoid",
    "variance_exploding",
    "zero_terminal_snr",
]
