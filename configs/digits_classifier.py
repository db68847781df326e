"""A classifier of noisy digits, whose gradients guide an unconditional network to a label. It ships as `digits_classifier`.

    jaxdiff train digits_classifier
    jaxdiff eval runs/digits_classifier --num 500
    jaxdiff sample runs/digits --labels 0-9 --classifier runs/digits_classifier --guidance 4    # of `jaxdiff train digits`

A quarter of an hour of training on two cores of an AMD EPYC with other work beside it. Of the 500 test digits it then read
97.8% at level 1, 97.4% at 250, 96.0% at 500, 75.6% at 750, and of pure noise, at level 1000, 9.0%.
"""

from jaxdiff.config import Config, Data, Diffusion, Optim, Train
from jaxdiff.nets.unet_config import ClassifierConfig


def get_config() -> Config:
    """Learns from the split that generators learn from, at all levels of their schedule."""
    return Config(
        name="digits_classifier",
        data=Data(source="digits", image_shape=(28, 28, 1), augment=1.0),
        net=ClassifierConfig(
            out_channels=10, channels=(32, 64), blocks=1, attention=(1,), head_dim=32, patch=2, groups=8, dropout=0.1
        ),
        diffusion=Diffusion(schedule="cosine", num_levels=1000),
        optim=Optim(
            method="muon", learning_rate=2e-3, warmup=50, decay_to=0.02, ema_decay=0.995, b2=0.99, weight_decay=0.01
        ),
        train=Train(steps=3000, batch_size=64, steps_per_call=10, log_every=50, save_every=500),
    )
