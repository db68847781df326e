"""An autoencoder of captioned digits, 32x32x3 to 8x8x6: eight times fewer numbers. It ships as `captioned_vae`.

    jaxdiff train captioned_vae
    python benchmarks/latent.py --only autoencoders

A quarter of an hour of training on one core of an AMD EPYC, with other work on the other (150 images/s). 34.2 dB on
held-out images.
"""

from jaxdiff.config import Config, Data, Optim, Reconstruction, Train
from jaxdiff.nets.autoencoder import AutoencoderConfig


def get_config() -> Config:
    """Latents kept near a normal distribution, for `captioned_latent` to draw."""
    return Config(
        name="captioned_vae",
        data=Data(source="captioned", image_shape=(32, 32, 3)),
        net=AutoencoderConfig(channels=(32, 64), blocks=1, latent_channels=6, groups=8, patch=2, scaling_factor=1.0),
        reconstruction=Reconstruction(kl_weight=1e-3, error="l2"),
        optim=Optim(method="muon", learning_rate=3e-3, warmup=50, decay_to=0.02, ema_decay=0.995, b2=0.99),
        train=Train(steps=4000, batch_size=32, steps_per_call=10, log_every=50, save_every=500),
    )
