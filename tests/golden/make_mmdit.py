"""Writes mmdit.npz: small SD3Transformer2DModels of diffusers with random weights, inputs and outputs. Needs `peers`.

    python tests/golden/make_mmdit.py

One is as in Stable Diffusion 3, one as in 3.5 medium, with norms of queries and keys and a second attention. Weights are
rounded to float16 before the network runs, so that the file is small and exact.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import SD3Transformer2DModel

COMMON = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 3,
    "out_channels": 3,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 6,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 5,
    "pos_embed_max_size": 9,
}
MADE = {"3": {}, "3.5": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}}


def main():
    values = {"version": diffusers.__version__}
    for name, fields in MADE.items():
        torch.manual_seed(0)
        net = SD3Transformer2DModel(**COMMON, **fields).eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_((0.15 * torch.randn_like(parameter)).half().float())
            x, t = torch.randn(2, 3, 8, 6), torch.tensor([17.0, 950.5])
            context, vector = torch.randn(2, 5, 6), torch.randn(2, 5)
            out = net(x, encoder_hidden_states=context, pooled_projections=vector, timestep=t).sample
        for key, value in net.state_dict().items():
            kept = value.numpy().astype(np.float32 if key == "pos_embed.pos_embed" else np.float16)
            values[f"{name}/weights/{key}"] = kept
        values |= {
            f"{name}/{key}": value.numpy()
            for key, value in zip("x t context vector out".split(), (x, t, context, vector, out))
        }
        print(name, out.abs().max(), sum(p.numel() for p in net.parameters()))
    np.savez_compressed(Path(__file__).parent / "mmdit.npz", **values)


if __name__ == "__main__":
    main()
