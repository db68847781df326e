"""`captioned_flow` with a transformer in place of the U-Net, DiT with cross-attention to the caption (Chen et al. 2023).

    jaxdiff train captioned_dit
    python benchmarks/latent.py --only networks --runs runs/captioned_dit

A training step takes as long as one of the U-Net. It has not been trained to its end yet.
"""

import dataclasses

from jaxdiff.config import Config
from jaxdiff.config.files import load
from jaxdiff.nets.dit_config import DiTConfig


def get_config() -> Config:
    """Sixteen tokens, each a square of 2x2 latents."""
    net = DiTConfig(out_channels=6, width=256, depth=6, heads=8, context_dim=64, context_length=24)
    return dataclasses.replace(load("captioned_flow"), name="captioned_dit", net=net)
