"""An autoencoder of captioned digits whose latents are words of a codebook: 32x32x3 to 8x8 of 256 words.

    jaxdiff train captioned_vqvae
    python benchmarks/latent.py --only autoencoders

Twenty minutes of training on one core of an AMD EPYC, with other work on the other one. 29.9 dB on held-out images, all
words in use. It ships as `captioned_vqvae`.
"""

from jaxdiff.config import Config, Data, Optim, Reconstruction, Train
from jaxdiff.nets.autoencoder import AutoencoderConfig


def get_config() -> Config:
    """An image is 64 words of 8 bits: 48 times fewer bits than its pixels have."""
    return Config(
        name="captioned_vqvae",
        data=Data(source="captioned", image_shape=(32, 32, 3)),
        net=AutoencoderConfig(
            channels=(32, 64), blocks=1, latent_channels=4, codebook_size=256, groups=8, patch=2, scaling_factor=1.0
        ),
        reconstruction=Reconstruction(error="l2"),
        optim=Optim(method="muon", learning_rate=3e-3, warmup=50, decay_to=0.02, ema_decay=0.995, b2=0.99),
        train=Train(steps=4000, batch_size=32, steps_per_call=10, log_every=50, save_every=500),
    )
