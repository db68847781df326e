"""DDPM on CIFAR-10, the network and training of Ho et al. 2020 (35,746,307 parameters), for a TPU or GPU host.

    tfds build cifar10 --file_format=array_record  # once, where pip install tensorflow apache-beam mlcroissant was done
    jaxdiff train cifar10

The paper trains 800,000 steps of batch 128 (10.6 hours on a TPU v3-8) and reports FID 3.17 (50,000 samples, EMA, 1,000
ancestral steps with fixed-large variance). Like the paper, this config mirrors images at random. It has not been trained to
the end here.
"""

from jaxdiff import UNetConfig
from jaxdiff.config import Config, Data, Diffusion, Optim, Sample, Train
from jaxdiff.samplers import SAMPLERS


def get_config() -> Config:
    """CIFAR-10, 32x32x3."""
    return Config(
        name="cifar10",
        data=Data(source="tfds:cifar10", image_shape=(32, 32, 3), flip=True),
        net=UNetConfig(dropout=0.1),
        diffusion=Diffusion(schedule="linear", num_levels=1000, predict="eps"),
        optim=Optim(learning_rate=2e-4, warmup=5000, clip=1.0, ema_decay=0.9999),
        train=Train(
            steps=800_000,
            batch_size=128,
            steps_per_call=10,
            log_every=100,
            sample_every=10_000,
            save_every=10_000,
        ),
        sample=Sample(sampler=SAMPLERS["ddpm"](variance="beta"), steps=1000, num=64, batch_size=64),
    )
