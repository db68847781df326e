"""Writes clip_*.npz: small CLIPs of transformers with random weights, and what they read. Needs `peers`.

    python tests/golden/make_clip.py

Weights are rounded to float16 before the network runs, so that the files are small and exact.
"""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import CLIPConfig, CLIPModel

TOWER = {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = TOWER | {
    "vocab_size": 30,
    "max_position_embeddings": 7,
    "eos_token_id": 29,
    "bos_token_id": 28,
    "pad_token_id": 29,
}
VISION = TOWER | {"image_size": 12, "patch_size": 4}


def main():
    for activation in ("quick_gelu", "gelu"):
        torch.manual_seed(0)
        towers = {name: of | {"hidden_act": activation} for name, of in (("text", TEXT), ("vision", VISION))}
        net = CLIPModel(CLIPConfig(text_config=towers["text"], vision_config=towers["vision"], projection_dim=6)).eval()
        for p in net.parameters():
            fan_in = p.shape[-1] if p.ndim else 1
            p.data = (p.data + 0.3 * torch.randn_like(p) / fan_in**0.5).half().float()
        tokens = torch.tensor([[28, 3, 17, 29, 29, 29, 29], [28, 1, 2, 3, 4, 5, 29]])
        pixels = torch.randn(2, 3, 12, 12)
        with torch.inference_mode():
            text = net.text_model(tokens, output_hidden_states=True)
            vision = net.vision_model(pixels)
            both = net(tokens, pixels)
            said = {
                "text": text.last_hidden_state,
                "penultimate": net.text_model.final_layer_norm(text.hidden_states[-2]),
                "text_pooled": text.pooler_output,
                "vision": vision.last_hidden_state,
                "vision_pooled": vision.pooler_output,
                "text_embeds": both.text_embeds,
                "image_embeds": both.image_embeds,
                "logits": both.logits_per_text,
            }
        weights = {f"weights/{key}": value.numpy().astype(np.float16) for key, value in net.state_dict().items()}
        versions = np.array([f"transformers {transformers.__version__}", f"torch {torch.__version__}"])
        path = Path(__file__).with_name(f"clip_{activation}.npz")
        said = {key: value.numpy() for key, value in said.items()}
        np.savez_compressed(path, tokens=tokens.numpy(), pixels=pixels.numpy(), versions=versions, **said, **weights)


if __name__ == "__main__":
    main()
