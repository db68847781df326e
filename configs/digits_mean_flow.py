"""Digits in one step: average velocities of rectified flow on 2,500 real handwritten digits, made for two CPU cores.

    jaxdiff train digits_mean_flow
    python benchmarks/digits.py runs/digits_mean_flow

Each step takes longer than that of `digits`, for it has a derivative along the path. Its images are not measured yet.
"""

import dataclasses

from jaxdiff.config import Config, Diffusion, Sample
from jaxdiff.config.files import load
from jaxdiff.objectives import LEVEL_DRAWS


def get_config() -> Config:
    """The network of `digits`, which also takes the level at which its step ends."""
    digits = load("digits")
    return dataclasses.replace(
        digits,
        name="digits_mean_flow",
        net=dataclasses.replace(digits.net, takes_end=True),
        diffusion=Diffusion(
            schedule="rectified_flow",
            num_levels=1000,
            predict="flow",
            time="fraction",
            objective="mean_flow",
            levels=LEVEL_DRAWS["logit_normal"](mean=-0.4),
        ),
        sample=Sample(sampler="mean_flow", steps=1, num=64, batch_size=64),
    )
