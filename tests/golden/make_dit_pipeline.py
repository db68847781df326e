"""Writes dit_pipeline: a small DiTPipeline of diffusers with random weights, and what it draws. Needs `peers`.

    python tests/golden/make_dit_pipeline.py

Weights are rounded to float16, so that the files are small and exact. The embedders of time and label, which diffusers
stores in each block, are equal in all, as in the published file.
"""

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

HERE = Path(__file__).parent / "dit_pipeline"
LABELS, STEPS, GUIDANCE = [1, 207], 6, 4.0


def main():
    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,  # the null class of the pipeline is 1000
    ).eval()
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    ).eval()
    with torch.no_grad():
        for parameter in (*net.parameters(), *vae.parameters()):
            parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half().float())
        net.proj_out_2.weight.mul_(0.0625)  # or random predictions of the noise would grow without end
    for block in net.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(net.transformer_blocks[0].norm1.emb.state_dict())
    names = {str(i): f"class {i}" for i in range(1000)} | {"1": "goldfish, Carassius auratus"}
    scheduler = DDIMScheduler(num_train_timesteps=1000, clip_sample=False, set_alpha_to_one=True)
    pipeline = DiTPipeline(net, vae, scheduler, id2label=names)
    latents, noise = [], torch.randn(len(LABELS), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    decode, vae.decode = vae.decode, lambda z, **kwargs: (latents.append(z.detach()), decode(z, **kwargs))[1]
    diffusers.pipelines.dit.pipeline_dit.randn_tensor = lambda *args, **kwargs: noise
    images = pipeline(LABELS, guidance_scale=GUIDANCE, num_inference_steps=STEPS, output_type="np").images
    del vae.decode
    shutil.rmtree(HERE, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(HERE)
    index = HERE / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": names}, indent=2) + "\n")  # as published
    values = {"noise": noise.numpy(), "latents": latents[0].numpy() * vae.config.scaling_factor, "image": images}
    np.savez_compressed(HERE / "drawn.npz", **values)
    print(images.shape, images.min(), images.max(), latents[0].std())


if __name__ == "__main__":
    main()
