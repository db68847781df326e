"""A CLIP of captioned digits, whose texts `captioned_latent` draws from. It ships as `captioned_clip`.

    jaxdiff train captioned_clip
    python benchmarks/latent.py --only clip

An hour of training on one core of an AMD EPYC, with other work on the other one (130 images/s); what ships was trained for
4,000 steps and then went on to 8,000. Each image is also to be told from four captions that are wrong in one word: a wider
network without those and without the stem of convolutions found 60% of held-out digits after 4,000 steps, this one 94%.
"""

from jaxdiff.config import Config, Data, Optim, Train
from jaxdiff.nets.clip import CLIPConfig, TextConfig, VisionConfig


def get_config() -> Config:
    """Two small transformers."""
    tower = {"width": 64, "heads": 4}
    return Config(
        name="captioned_clip",
        data=Data(source="captioned", image_shape=(32, 32, 3), augment=1.0, hard_negatives=4),
        net=CLIPConfig(
            text=TextConfig(**tower, layers=2, vocabulary=640, length=24, end_token=513),
            vision=VisionConfig(**tower, layers=4, size=32, patch=4, stem=(32, 64)),
            projection=64,
        ),
        optim=Optim(
            method="muon", learning_rate=3e-3, warmup=100, decay_to=0.02, ema_decay=0.995, b2=0.99, weight_decay=0.01
        ),
        train=Train(steps=8000, batch_size=64, steps_per_call=10, log_every=50, save_every=500),
    )
