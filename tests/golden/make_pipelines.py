"""Writes pipelines/NAME: small pipelines of diffusers with random weights, and what they draw. Needs `peers`.

    python tests/golden/make_pipelines.py

Weights are rounded to float16 before anything runs, so that the files are small and exact.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jaxdiff.text import tokenizer

HERE = Path(__file__).parent / "pipelines"
PROMPT, NEGATIVE = "a red seven on blue", "a small one"
STEPS, GUIDANCE = 6, 7.5
UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 8,
}
VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 16,
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
PIPELINES = {
    "stable_diffusion_1": (
        {"attention_head_dim": 2},
        {"hidden_act": "quick_gelu"},
        lambda: PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False),
    ),
    "stable_diffusion_2": (
        {"attention_head_dim": (1, 2), "use_linear_projection": True},
        {"hidden_act": "gelu", "pad_token": "!"},
        lambda: DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"),
    ),
}


def main():
    for name, (unet, text, scheduler) in PIPELINES.items():
        torch.manual_seed(0)
        folder, pad = HERE / name, text.pop("pad_token", "<|endoftext|>")
        words = make_tokenizer(folder, pad)
        sizes = {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = CLIPTextConfig(**sizes, **text, vocab_size=len(words), max_position_embeddings=24)
        ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
        for key, value in (ids | {"pad_token_id": words.pad_token_id}).items():
            setattr(config, key, value)
        parts = {"unet": UNet2DConditionModel(**UNET | unet), "vae": AutoencoderKL(**VAE)}
        parts["text_encoder"] = CLIPTextModel(config).eval()
        for net in parts.values():
            for p in net.parameters():
                p.data = (p.data + 0.2 * torch.randn_like(p) / max(1.0, p[0].numel() ** 0.5)).half().float()
        others = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = StableDiffusionPipeline(**parts, tokenizer=words, scheduler=scheduler(), **others)
        pipe.set_progress_bar_config(disable=True)
        noise = torch.randn(1, 4, 8, 8)
        asked = {"negative_prompt": NEGATIVE, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        with torch.inference_mode():
            latents = pipe(PROMPT, **asked, latents=noise.clone(), output_type="latent").images
            image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
            ids = words(PROMPT, padding="max_length", max_length=24, return_tensors="pt").input_ids
            context = pipe.text_encoder(ids)[0]
        for part in parts.values():
            part.half()
        pipe.save_pretrained(folder)
        found = {"noise": noise, "latents": latents, "image": image, "tokens": ids, "context": context}
        np.savez_compressed(folder / "drawn.npz", **{key: value.numpy() for key, value in found.items()})


def make_tokenizer(folder, pad):
    """A tokenizer of transformers with the vocabulary of one that is trained here."""
    whole = json.loads(tokenizer.to_json(tokenizer.train([PROMPT, NEGATIVE] * 5, 560, 24)))
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps(whole["vocab"]))
    merges.write_text("#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in whole["merges"]))
    words = CLIPTokenizer(str(vocab), str(merges), pad_token=pad, model_max_length=24)
    vocab.unlink()
    merges.unlink()
    return words


if __name__ == "__main__":
    main()
