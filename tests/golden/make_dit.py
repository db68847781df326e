"""Writes dit.npz: a small DiT of diffusers with random weights, an input and its output. Needs `peers`.

    python tests/golden/make_dit.py

Weights are rounded to float16 before the network runs, so that the file is small and exact. The embedders of time and
label, which diffusers stores in each block, are kept once.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import DiTTransformer2DModel

BLOCK, EMBEDDERS = (
    "transformer_blocks.0.norm1.emb.",
    {
        "timestep_embedder.": "time_embedding.",
        "class_embedder.embedding_table.": "class_embedding.",
    },
)


def main():
    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        out_channels=6,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=5,
    ).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((0.1 * torch.randn_like(parameter)).half().float())
    emb = net.transformer_blocks[0].norm1.emb
    for block in net.transformer_blocks:
        block.norm1.emb.load_state_dict(emb.state_dict())
    x, t, label = torch.randn(3, 3, 8, 8), torch.tensor([0, 17, 999]), torch.tensor([0, 4, 5])
    with torch.no_grad():
        out = net(x, timestep=t, class_labels=label).sample
    weights = {}
    for name, value in net.state_dict().items():
        if name.startswith(BLOCK):
            rest = name.removeprefix(BLOCK)
            old = next(old for old in EMBEDDERS if rest.startswith(old))
            name = rest.replace(old, EMBEDDERS[old])
        elif ".norm1.emb." in name or name == "pos_embed.pos_embed":
            continue
        weights[f"weights/{name}"] = value.numpy().astype(np.float16)
    values = {"x": x.numpy(), "t": t.numpy(), "label": label.numpy(), "out": out.numpy()}
    np.savez_compressed(Path(__file__).parent / "dit.npz", version=diffusers.__version__, **weights, **values)


if __name__ == "__main__":
    main()
