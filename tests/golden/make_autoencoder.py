"""Writes autoencoder_*.npz: small autoencoders of diffusers with random weights, and what they make of images.

    python tests/golden/make_autoencoder.py

Needs `peers`. Weights are rounded to float16 before the network runs, so that the files are small and exact.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, VQModel

COMMON = {
    "in_channels": 2,
    "out_channels": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "latent_channels": 3,
    "norm_num_groups": 4,
}


def main():
    for name, net in (("kl", AutoencoderKL(**COMMON)), ("vq", VQModel(**COMMON, num_vq_embeddings=20))):
        torch.manual_seed(0)
        for p in net.parameters():
            p.data = (p.data + 0.3 * torch.randn_like(p) / max(1.0, p[0].numel() ** 0.5)).half().float()
        x = torch.randn(2, 2, 8, 8)
        with torch.inference_mode():
            if name == "kl":
                q = net.encode(x).latent_dist
                said = {"mean": q.mean, "std": q.std, "decoded": net.decode(q.mean).sample}
            else:
                z = net.encode(x).latents
                near = z.permute(0, 2, 3, 1).reshape(-1, 3)[:20]  # words that latents fall to
                net.quantize.embedding.weight.data = (near + 0.1 * torch.randn_like(near)).half().float()
                quantized, _, (_, _, index) = net.quantize(z)
                said = {"z": z, "quantized": quantized, "index": index, "decoded": net.decode(z).sample}
        weights = {f"weights/{key}": value.numpy().astype(np.float16) for key, value in net.state_dict().items()}
        versions = np.array([f"diffusers {diffusers.__version__}", f"torch {torch.__version__}"])
        path = Path(__file__).with_name(f"autoencoder_{name}.npz")
        said = {key: value.numpy() for key, value in said.items()}
        np.savez_compressed(path, x=x.numpy(), versions=versions, **said, **weights)


if __name__ == "__main__":
    main()
