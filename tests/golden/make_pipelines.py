"""Writes pipelines/NAME: small pipelines of diffusers with random weights, and what they draw. Needs `peers`.

    python tests/golden/make_pipelines.py [NAME ...]

Weights are rounded to float16 before anything runs, so that the files are small and exact.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import diffusers
import jax
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from jaxdiff import samplers
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
SIZES = {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


class Made(NamedTuple):
    """A pipeline: its class, the fields of its parts, and its scheduler."""

    kind: str
    unet: dict
    text: dict
    scheduler: tuple[str, dict]
    second: dict | None = None
    pad: str = "<|endoftext|>"


PIPELINES = {
    "stable_diffusion_1": Made(
        "StableDiffusionPipeline",
        {"attention_head_dim": 2},
        {"hidden_act": "quick_gelu"},
        ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
    ),
    "stable_diffusion_2": Made(
        "StableDiffusionPipeline",
        {"attention_head_dim": (1, 2), "use_linear_projection": True},
        {"hidden_act": "gelu"},
        ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "prediction_type": "v_prediction"}),
        pad="!",
    ),
    "stable_diffusion_xl": Made(
        "StableDiffusionXLPipeline",
        {
            "attention_head_dim": (1, 2),
            "use_linear_projection": True,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "cross_attention_dim": 16,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 60,
        },
        {"hidden_act": "quick_gelu"},
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
        second={"hidden_act": "gelu", "projection_dim": 12, "intermediate_size": 24},
    ),
    "latent_consistency": Made(
        "LatentConsistencyModelPipeline",
        {"attention_head_dim": 2, "time_cond_proj_dim": 8},
        {"hidden_act": "quick_gelu"},
        ("LCMScheduler", {}),
    ),
    "inpainting": Made(
        "StableDiffusionInpaintPipeline",
        {"attention_head_dim": 2, "in_channels": 9},
        {"hidden_act": "quick_gelu"},
        ("DPMSolverMultistepScheduler", {}),
    ),
}


def main(names):
    for name in names or PIPELINES:
        torch.manual_seed(0)
        made, folder = PIPELINES[name], HERE / name
        pipe = make(made, folder)
        found = drawn(pipe, made)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.half()
        pipe.save_pretrained(folder)
        np.savez_compressed(folder / "drawn.npz", **{key: value.numpy() for key, value in found.items()})


def make(made, folder):
    """A pipeline with random weights."""
    words = make_tokenizer(folder, made.pad)
    parts = {"unet": UNet2DConditionModel(**UNET | made.unet), "vae": AutoencoderKL(**VAE)}
    parts["text_encoder"] = text_encoder(CLIPTextModel, made.text, words)
    if made.second:
        parts["text_encoder_2"] = text_encoder(CLIPTextModelWithProjection, made.second, words)
    for net in parts.values():
        for p in net.parameters():
            p.data = (p.data + 0.2 * torch.randn_like(p) / max(1.0, p[0].numel() ** 0.5)).half().float()
    others = {"feature_extractor": None, "safety_checker": None, "requires_safety_checker": False}
    if made.second:
        others = {"tokenizer_2": make_tokenizer(folder, "!"), "add_watermarker": False}
    kind, fields = made.scheduler
    scheduler = getattr(diffusers, kind)(**BETAS, **fields)
    pipe = getattr(diffusers, made.kind)(**parts, tokenizer=words, scheduler=scheduler, **others)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def text_encoder(kind, fields, words):
    config = CLIPTextConfig(**SIZES | fields, vocab_size=len(words), max_position_embeddings=24)
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    for key, value in ids.items():
        setattr(config, key, value)
    return kind(config).eval()


def drawn(pipe, made):
    """What the pipeline draws, and what is on the way."""
    noise = torch.randn(1, 4, 8, 8)
    asked = {
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "latents": noise.clone(),
        "output_type": "latent",
    }
    found = {"noise": noise}
    if made.second:
        asked |= {"height": 16, "width": 16}
    elif "Consistency" not in made.kind:
        asked["negative_prompt"] = NEGATIVE
    draw_noise_of_jaxdiff(type(pipe.scheduler))
    if "Inpaint" in made.kind:
        found["picture"], found["mask"] = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
        found["mask"][..., 4:12, 2:9] = 1
        asked |= {"image": found["picture"], "mask_image": found["mask"], "height": 16, "width": 16}
        module = sys.modules[type(pipe).__module__]
        module.retrieve_latents = lambda output, **kwargs: output.latent_dist.mode()
    with torch.inference_mode():
        found["latents"] = pipe(PROMPT, **asked).images
        found["image"] = pipe.vae.decode(found["latents"] / pipe.vae.config.scaling_factor).sample
        found["tokens"] = pipe.tokenizer(PROMPT, padding="max_length", max_length=24, return_tensors="pt").input_ids
        if made.second:
            found["context"], _, found["vector"], _ = pipe.encode_prompt(PROMPT)
        else:
            found["context"] = pipe.text_encoder(found["tokens"])[0]
    return found


def draw_noise_of_jaxdiff(scheduler):
    """Makes a scheduler draw the noise that jaxdiff draws for one image of seed 0."""
    steps, keys = itertools.count(1), samplers.keys_for(jax.random.key(0), 1)

    def noise(*args, **kwargs):
        z = samplers.normal(samplers.fold(keys, next(steps)), (8, 8, 4))
        return torch.tensor(np.array(z).transpose(0, 3, 1, 2))

    sys.modules[scheduler.__module__].randn_tensor = noise


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
    main(sys.argv[1:])
