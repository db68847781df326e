"""Outlined digits drawn by their label: another model, of other images, to translate the digits to; it ships as `outlined`.

    jaxdiff train outlined
    python benchmarks/editing.py --only bridge

Its images are the judges' split of the digits as dark outlines on light ground, so that it has no image in common with
`digits`: from one to the other lead dual diffusion implicit bridges alone (docs/editing.md).
"""

from jaxdiff import UNetConfig
from jaxdiff.config import Config, Data, Diffusion, Optim, Sample, Train


def get_config() -> Config:
    """Outlined digits, 28x28x1, under the forward process of `digits_conditional`."""
    return Config(
        name="outlined",
        data=Data(source="outlined:judge", image_shape=(28, 28, 1), augment=1.0),
        net=UNetConfig(
            out_channels=1,
            channels=(48, 96),
            blocks=1,
            attention=(1,),
            head_dim=48,
            patch=2,
            groups=16,
            context_mode="multiply",
            num_classes=10,
            vector_dim=6,  # how much the image was augmented
        ),
        diffusion=Diffusion(schedule="cosine", num_levels=1000, predict="v", cond_dropout=0.1),
        optim=Optim(method="muon", learning_rate=3e-3, warmup=50, decay_to=0.02, ema_decay=0.999, b2=0.99),
        train=Train(steps=8000, batch_size=32, steps_per_call=10, log_every=50, sample_every=2000, save_every=500),
        sample=Sample(sampler="ddim", steps=50, num=40, batch_size=40),
    )
