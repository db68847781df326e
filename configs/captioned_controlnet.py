"""A ControlNet for `captioned`: what it draws follows the edges of a picture.

jaxdiff train captioned_controlnet
jaxdiff sample captioned "a red seven on a blue background" --controlnet runs/captioned_controlnet --control edges.png
"""

from jaxdiff.config import Config, ControlNet, Data, Optim, Sample, Train


def get_config() -> Config:
    """A copy of the base network's encoder, conditioned on the edges of the images."""
    return Config(
        name="captioned_controlnet",
        data=Data(source="captioned", image_shape=(32, 32, 3)),
        adapt=ControlNet(base="captioned", condition="edges", embedding=(16, 32, 64)),
        optim=Optim(method="muon", learning_rate=3e-3, warmup=50, decay_to=0.02, ema_decay=0.99),
        train=Train(steps=2000, batch_size=64, steps_per_call=10, log_every=50, sample_every=500, save_every=500),
        sample=Sample(
            prompts=("a small red seven on a blue background",),
            guidance=3.0,
            steps=50,
            clip=False,
            num=16,
            batch_size=16,
        ),
    )
