"""`captioned_latent` by rectified flow (Lipman et al. 2023): the same network, data and steps with other targets.

    jaxdiff train captioned_flow
    python benchmarks/latent.py --only networks --runs runs/captioned_flow

Of 500 images of combinations that it was never shown it draws the right digit in 95.8%, where `captioned` has 97.4%
after as many steps; the Frechet distance of `captioned_judge`'s features from the real ones is 4.86, and there 4.60.
"""

import dataclasses

from jaxdiff.config import Config, Diffusion
from jaxdiff.config.files import load


def get_config() -> Config:
    """The direction of straight paths between noise and latents, with middle levels trained more often."""
    base = load("captioned_latent")
    return dataclasses.replace(
        base,
        name="captioned_flow",
        diffusion=Diffusion(
            schedule="rectified_flow",
            num_levels=1000,
            predict="flow",
            time="sigma",
            levels="logit_normal",
            cond_dropout=0.1,
        ),
    )
