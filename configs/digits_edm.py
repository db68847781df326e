"""EDM on 2,500 real handwritten digits: `digits` with a variance-exploding process and a preconditioned network.

    jaxdiff train digits_edm
    python benchmarks/digits.py runs/digits_edm

Its images are not measured yet.
"""

import dataclasses

from jaxdiff.config import Config, Diffusion, Sample
from jaxdiff.config.files import load
from jaxdiff.objectives import LEVEL_DRAWS, WEIGHTINGS
from jaxdiff.samplers import SAMPLERS


def get_config() -> Config:
    """Noise from 0.002 to 80, drawn log-normally; input and output of the network have variance 1 at every level."""
    return dataclasses.replace(
        load("digits"),
        name="digits_edm",
        diffusion=Diffusion(
            schedule="edm",
            num_levels=1000,
            predict="x0",
            time="log_ratio",
            sigma_data=1.0,  # root mean square of digits in [-1, 1], whose mean is not 0
            weighting=WEIGHTINGS["edm"](sigma_data=1.0),
            levels=LEVEL_DRAWS["log_normal"](mean=-0.5, std=1.2),
        ),
        sample=Sample(sampler=SAMPLERS["heun"](), steps=25, num=64, batch_size=64, clip=False),
    )
