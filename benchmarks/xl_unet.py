"""Stable Diffusion XL's U-Net (2.56 B parameters) at 1024x1024 as a config, to be planned for pods.

    jaxdiff plan benchmarks/xl_unet.py --topology v5e:16x16

Without its vector of sizes and pooled texts (5.2 M parameters more), which no data here has.
"""

from jaxdiff import UNetConfig
from jaxdiff.config import Config, Data, Diffusion, Latent, Optim, Sample, Train


def get_config() -> Config:
    """Latents of 128x128x4, texts of 77 tokens."""
    return Config(
        name="xl_unet",
        data=Data(source="folder:.", image_shape=(1024, 1024, 3)),
        net=UNetConfig(
            out_channels=4,
            channels=(320, 640, 1280),
            blocks=2,
            attention=(1, 2),
            num_heads=(5, 10, 20),
            context_dim=2048,
            context_length=77,
            transformer_blocks=(1, 2, 10),
            linear_projection=True,
            eps=1e-5,
            flip_sin_to_cos=True,
            freq_shift=0,
            downsample_padding=1,
            dtype="bfloat16",
            remat=True,
        ),
        diffusion=Diffusion(schedule="scaled_linear", num_levels=1000, predict="eps", cond_dropout=0.1),
        latent=Latent(codec="vae.safetensors", shape=(128, 128, 4), text_encoder="clip.safetensors"),
        optim=Optim(learning_rate=1e-5, weight_decay=0.01),
        train=Train(batch_size=1024, parallel="sharded", mesh="data=4,fsdp=64"),
        sample=Sample(prompts=("a photograph of an astronaut riding a horse",), guidance=5.0, steps=50, clip=False),
    )
