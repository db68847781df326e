"""Stable Diffusion 1's network (859,520,964 parameters) on one's own captioned pictures, for a TPU pod or GPU hosts.

    jaxdiff train stable_diffusion_1 --data.source folder:pictures --latent.codec VAE --latent.text-encoder CLIP

VAE and CLIP are an autoencoder and a text transformer of the published shapes, which are the defaults of
`AutoencoderConfig` and `CLIPConfig`: .safetensors files or runs of this library. Pictures are cropped to squares of 512
pixels; captions are in a .txt beside each, or in a `metadata.jsonl`. All are read once, by all hosts, before training, and
kept in TFDS_DATA_DIR/encoded (32 kB of latents and 118 kB of text each). Version 1-1 was trained for 237,000 steps of batch
2,048 at 256x256 and then 194,000 at 512x512 (its model card). This config has not been trained here.
"""

from jaxdiff import UNetConfig
from jaxdiff.config import Config, Data, Diffusion, Latent, Optim, Sample, Train


def get_config() -> Config:
    """Pictures of 512x512x3 as latents of 64x64x4, texts of 77 tokens."""
    return Config(
        name="stable_diffusion_1",
        data=Data(source="folder:pictures", image_shape=(512, 512, 3)),
        net=UNetConfig(
            out_channels=4,
            channels=(320, 640, 1280, 1280),
            blocks=2,
            attention=(0, 1, 2),
            num_heads=8,
            context_dim=768,
            context_length=77,
            eps=1e-5,
            flip_sin_to_cos=True,
            freq_shift=0,
            downsample_padding=1,
            dtype="bfloat16",
            remat=True,
        ),
        diffusion=Diffusion(schedule="scaled_linear", num_levels=1000, predict="eps", cond_dropout=0.1),
        latent=Latent(codec="vae.safetensors", shape=(64, 64, 4), text_encoder="clip.safetensors"),
        optim=Optim(learning_rate=1e-4, warmup=10_000, clip=1.0, weight_decay=0.01, ema_decay=0.9999),
        train=Train(
            steps=431_000, batch_size=2048, steps_per_call=10, log_every=100, sample_every=10_000, save_every=10_000
        ),
        sample=Sample(
            prompts=("a photograph of an astronaut riding a horse",),
            guidance=7.5,
            steps=50,
            clip=False,
            num=8,
            batch_size=8,
        ),
    )
