"""DreamBooth of `captioned`: all weights learn one thing from a few images, and what its class looks like stays.

python benchmarks/glyphs.py star --word sks --out glyphs/sks
jaxdiff train captioned_dreambooth --data.source folder:glyphs/sks
jaxdiff sample runs/captioned_dreambooth "a red sks on a blue background"
"""

from jaxdiff.config import Config, Data, DreamBooth, Optim, Prior, Sample, Train
from jaxdiff.data.sources import captioned


def get_config() -> Config:
    """All weights of the network; "sks" is the rare word that stands for the thing, digits are its class."""
    return Config(
        name="captioned_dreambooth",
        data=Data(source="folder:glyphs/sks", image_shape=(32, 32, 3)),
        adapt=DreamBooth(base="captioned", prior=Prior(tuple(captioned.prompts(200)[0]))),
        optim=Optim(method="muon", learning_rate=3e-3, warmup=20, decay_to=0.02, ema_decay=0.99),
        train=Train(steps=600, batch_size=32, steps_per_call=10, log_every=50, sample_every=0, save_every=200),
        sample=Sample(
            prompts=("a red sks on a blue background", "a small white sks on a green background, top left"),
            guidance=3.0,
            steps=50,
            clip=False,
            num=16,
            batch_size=16,
        ),
    )
