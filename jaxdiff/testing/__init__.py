"""Exact oracles, and checks of schedules, denoisers and samplers against them; also for users' own tests.

For example::

    from jaxdiff import testing

    def test_my_sampler():
        testing.check_sampler(my_sampler, order=2)
"""

from jaxdiff.testing.checks import (
    check_denoiser,
    check_prediction_kind,
    check_round_trip,
    check_sampler,
    check_schedule,
)
from jaxdiff.testing.convergence import affine_moments, flow_errors, moment_errors, noise_of_steps, order_of
from jaxdiff.testing.oracle import Labeled, Mixture, gaussian, labeled, mixture, ring

__all__ = [
    "Labeled",
    "Mixture",
    "affine_moments",
    "check_denoiser",
    "check_prediction_kind",
    "check_round_trip",
    "check_sampler",
    "check_schedule",
    "flow_errors",
    "gaussian",
    "labeled",
    "mixture",
    "moment_errors",
    "noise_of_steps",
    "order_of",
    "ring",
]
