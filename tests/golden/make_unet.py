"""Writes unet_*.npz: small U-Nets of diffusers with random weights, an input and their output. Needs `peers`.

    python tests/golden/make_unet.py

Weights are rounded to float16 before the network runs, so that the files are small and exact.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

COMMON = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
VARIANTS = {
    "ddpm": {
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "attention_head_dim": None,
    },
    "scale_shift": {
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "norm_eps": 1e-5,
        "attention_head_dim": 4,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 4,  # otherwise the middle attention goes without its norm
    },
}
LATENT = COMMON | {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 6,
}
LATENT_VARIANTS = {
    "stable_diffusion_1": {"attention_head_dim": 2},  # which diffusers takes as a number of heads
    "stable_diffusion_2": {"attention_head_dim": (1, 2), "use_linear_projection": True, "in_channels": 5},
    "per_resolution": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "layers_per_block": (1, 2),
        "attention_head_dim": (1, 4),
        "transformer_layers_per_block": (2, 1),
    },
}


def main():
    versions = np.array([f"diffusers {diffusers.__version__}", f"torch {torch.__version__}"])
    for name, options in (VARIANTS | LATENT_VARIANTS).items():
        torch.manual_seed(0)
        latent = name in LATENT_VARIANTS
        net = UNet2DConditionModel(**LATENT | options) if latent else UNet2DModel(**COMMON | options)
        for p in net.parameters():
            p.data = (p.data + 0.2 * torch.randn_like(p) / max(1.0, p[0].numel() ** 0.5)).half().float()
        x, t = torch.randn(2, net.config.in_channels, 8, 8), torch.tensor([3, 700])
        read = {"context": torch.randn(2, 5, 6)} if latent else {}
        with torch.inference_mode():
            y = net(x, t, *read.values()).sample
        weights = {f"weights/{key}": value.numpy().astype(np.float16) for key, value in net.state_dict().items()}
        path = Path(__file__).with_name(f"unet_{name}.npz")
        np.savez_compressed(path, x=x.numpy(), t=t.numpy(), y=y.numpy(), versions=versions, **weights, **read)


if __name__ == "__main__":
    main()
