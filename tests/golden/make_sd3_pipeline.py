"""Writes sd3_pipeline: a small StableDiffusion3Pipeline of diffusers with random weights, and what it draws. Needs `peers`.

    python tests/golden/make_sd3_pipeline.py

Weights are rounded to float16 before anything runs, so that the files are small and exact.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from make_pipelines import VAE, make_tokenizer, text_encoder
from transformers import CLIPTextModelWithProjection

HERE = Path(__file__).parent / "sd3_pipeline"
PROMPT, NEGATIVE = "a red seven on blue", "a small one"
STEPS, GUIDANCE = 6, 7.0


def main():
    torch.manual_seed(0)
    shutil.rmtree(HERE, ignore_errors=True)
    net = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=6,
        out_channels=6,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=22,
        pos_embed_max_size=12,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    ).eval()
    vae = AutoencoderKL(
        **VAE, latent_channels=6, scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False
    ).eval()
    words, other_words = make_tokenizer(HERE, "<|endoftext|>"), make_tokenizer(HERE, "!")
    first = {"hidden_act": "quick_gelu", "projection_dim": 10}
    second = {"hidden_act": "gelu", "projection_dim": 12, "intermediate_size": 24}
    parts = {
        "transformer": net,
        "vae": vae,
        "text_encoder": text_encoder(CLIPTextModelWithProjection, first, words),
        "text_encoder_2": text_encoder(CLIPTextModelWithProjection, second, words),
    }
    for part in parts.values():
        for p in part.parameters():
            p.data = (p.data + 0.2 * torch.randn_like(p) / max(1.0, p[0].numel() ** 0.5)).half().float()
    pipe = StableDiffusion3Pipeline(
        **parts,
        tokenizer=words,
        tokenizer_2=other_words,
        text_encoder_3=None,
        tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    noise = torch.randn(1, 6, 8, 8)
    asked = {"guidance_scale": GUIDANCE, "num_inference_steps": STEPS, "latents": noise, "negative_prompt": NEGATIVE}
    latents = pipe(PROMPT, **asked, output_type="latent").images
    image = pipe(PROMPT, **asked, output_type="np").images
    context, negative, vector, negative_vector = pipe.encode_prompt(PROMPT, None, None, negative_prompt=NEGATIVE)
    values = {"noise": noise, "latents": latents, "context": context, "negative": negative}
    values |= {"vector": vector, "negative_vector": negative_vector}
    values |= {"sigmas": pipe.scheduler.sigmas, "timesteps": pipe.scheduler.timesteps}
    pipe.scheduler.set_timesteps(28)
    values |= {"sigmas_28": pipe.scheduler.sigmas}
    pipe.to(torch.float16).save_pretrained(HERE)
    np.savez_compressed(HERE / "drawn.npz", image=image, **{k: v.detach().numpy() for k, v in values.items()})
    print(image.shape, image.min(), image.max(), latents.std(), context.shape, vector.shape)


if __name__ == "__main__":
    main()
