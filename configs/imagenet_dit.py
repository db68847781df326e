"""DiT-XL/2 on ImageNet at 256x256, in the latents of an autoencoder (Peebles and Xie 2022), for pods.

    jaxdiff plan imagenet_dit --topology v5e:4x8
    jaxdiff train imagenet_dit --run-dir gs://bucket/run --auto-resume --data.source folder:gs://bucket/imagenet/train

What it takes stands in docs/pods.md; it has not been trained here. The paper's FID is 9.62, with guidance 1.5 2.27, after
7,000,000 steps. `vae` is the folder of Stable Diffusion 1's autoencoder, as diffusers has saved it.
"""

from jaxdiff.config import Config, Data, Diffusion, Latent, Optim, Sample, Train
from jaxdiff.nets.dit_config import dit


def get_config() -> Config:
    """Pictures of 256x256x3 as latents of 32x32x4, a thousand classes; noise and its variance are predicted."""
    return Config(
        name="imagenet_dit",
        data=Data(source="folder:imagenet/train", image_shape=(256, 256, 3)),
        net=dit("XL", patch=2, out_channels=8, num_classes=1000, dtype="bfloat16", remat=True),
        diffusion=Diffusion(schedule="linear", num_levels=1000, predict="eps", objective="hybrid", cond_dropout=0.1),
        latent=Latent(codec="vae", shape=(32, 32, 4)),
        optim=Optim(learning_rate=1e-4, warmup=0, ema_decay=0.9999),
        train=Train(
            steps=7_000_000, batch_size=256, steps_per_call=10, log_every=100, sample_every=50_000, save_every=10_000
        ),
        sample=Sample(guidance=1.5, steps=250, clip=False, num=32, batch_size=32),
    )
