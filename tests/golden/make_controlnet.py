"""Writes controlnet_*.npz: diffusers' ControlNets for the U-Nets of unet_*.npz, and what both say. Needs `peers`.

    python tests/golden/make_controlnet.py

Weights are rounded to float16 before the network runs, so that the files are small and exact; none are left at zero. The
U-Nets' own weights, inputs and contexts are those of `make_unet.py`, which is run first.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from make_unet import LATENT, LATENT_VARIANTS

HERE = Path(__file__).parent
LEFT_OUT = ("sample_size", "out_channels", "up_block_types")
EMBEDDING = {"conditioning_embedding_out_channels": (4, 6, 10), "conditioning_channels": 3}
SCALE = 0.7


def main():
    versions = np.array([f"diffusers {diffusers.__version__}", f"torch {torch.__version__}"])
    for name, options in LATENT_VARIANTS.items():
        torch.manual_seed(0)
        options = LATENT | options
        unet = UNet2DConditionModel(**options)
        with np.load(HERE / f"unet_{name}.npz") as file:
            golden = {key: torch.from_numpy(file[key]) for key in file.files if key != "versions"}
        unet.load_state_dict({k[8:]: value.float() for k, value in golden.items() if k.startswith("weights/")})
        read = golden["x"], golden["t"], golden["context"]

        net = ControlNetModel(**{k: value for k, value in options.items() if k not in LEFT_OUT}, **EMBEDDING)
        for p in net.parameters():
            p.data = (p.data + 0.2 * torch.randn_like(p) / max(1.0, p[0].numel() ** 0.5)).half().float()
        picture = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        said = {"picture": picture}
        with torch.inference_mode():
            for kind, mode in {"full": {}, "guess": {"guess_mode": True, "conditioning_scale": SCALE}}.items():
                down, mid = net(*read, controlnet_cond=picture / 255, return_dict=False, **mode)
                added = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
                said |= {f"{kind}/{i}": r for i, r in enumerate([*down, mid])}
                said[f"{kind}/y"] = unet(*read, **added).sample
        weights = {f"weights/{key}": value.numpy().astype(np.float16) for key, value in net.state_dict().items()}
        arrays = {key: value.numpy() for key, value in said.items()}
        np.savez_compressed(
            HERE / f"controlnet_{name}.npz", scale=np.float32(SCALE), versions=versions, **arrays, **weights
        )


if __name__ == "__main__":
    main()
