"""Writes ip_adapter: a small IP-Adapter with random weights, and what diffusers draws with it. Needs `peers`.

python tests/golden/make_ip_adapter.py
"""

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

HERE = Path(__file__).parent
PROMPT, NEGATIVE, STEPS, GUIDANCE, SCALE = "a red seven on blue", "a small one", 4, 7.5, 0.6
TOWER = {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS, WIDTH, CONTEXT = 4, 6, 8


def main():
    torch.manual_seed(0)
    folder = HERE / "ip_adapter"
    config = CLIPVisionConfig(**TOWER, image_size=12, patch_size=4, projection_dim=WIDTH, hidden_act="gelu")
    encoder = CLIPVisionModelWithProjection(config).eval()
    for p in encoder.parameters():
        p.data = (p.data + 0.3 * torch.randn_like(p) / max(1.0, p[0].numel() ** 0.5)).half().float()
    pipe = StableDiffusionPipeline.from_pretrained(HERE / "pipelines" / "stable_diffusion_1", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    normal = lambda *shape: (0.5 * torch.randn(*shape)).half().float()
    tensors = {
        "image_proj.proj.weight": normal(TOKENS * CONTEXT, WIDTH),
        "image_proj.proj.bias": normal(TOKENS * CONTEXT),
    }
    tensors |= {"image_proj.norm.weight": 1 + normal(CONTEXT), "image_proj.norm.bias": normal(CONTEXT)}
    number = 1
    for name in pipe.unet.attn_processors:
        if name.endswith("attn2.processor"):
            net = pipe.unet.get_submodule(name.removesuffix(".processor"))
            for part in ("to_k_ip", "to_v_ip"):
                tensors[f"ip_adapter.{number}.{part}.weight"] = normal(net.to_k.weight.shape[0], CONTEXT)
            number += 2
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file({k: v.half() for k, v in tensors.items()}, folder / "ip.safetensors")
    pipe.load_ip_adapter(str(folder), subfolder="", weight_name="ip.safetensors", image_encoder_folder=None)
    pipe.set_ip_adapter_scale(SCALE)
    pixels, noise = torch.randn(1, 3, 12, 12), torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        embedding = encoder(pixels).image_embeds
        both = torch.stack([torch.zeros_like(embedding), embedding])
        latents = pipe(
            PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=noise.clone(),
            ip_adapter_image_embeds=[both], output_type="latent",
        ).images  # fmt: skip
    encoder.half().save_pretrained(folder / "image_encoder")
    found = {"pixels": pixels, "embedding": embedding, "noise": noise, "latents": latents}
    np.savez_compressed(folder / "drawn.npz", **{key: value.numpy() for key, value in found.items()})


if __name__ == "__main__":
    main()
