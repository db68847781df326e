"""A person's own photographs, 64x64x3: the network of DDIM's CelebA (78,700,803 parameters), for a TPU or GPU host.

    jaxdiff train folder --data.source folder:photos

Image files below `photos` are cropped to the square in their middle, and mirrored every other time: where left
and right matter, as in letters, add `--data.no-flip`. A file that cannot be read ends the run when its turn comes; with
`--data.source.skip-broken` all files are looked through first, and such files are left out and named. Where `photos` is
made of folders, one for each of N kinds of picture, `--net.num-classes N` trains on the kinds.

Two CPU cores are better served by `folder_small`. This config has not been trained to the end here.
"""

from jaxdiff import UNetConfig
from jaxdiff.config import Config, Data, Diffusion, Optim, Sample, Train


def get_config() -> Config:
    """The images of a folder, 64x64x3."""
    return Config(
        name="folder",
        data=Data(source="folder:photos", image_shape=(64, 64, 3), flip=True),
        net=UNetConfig(channels=(128, 256, 256, 256, 512), attention=(2,), dropout=0.1, dtype="bfloat16"),
        diffusion=Diffusion(schedule="linear", num_levels=1000, predict="eps"),
        optim=Optim(learning_rate=2e-4, warmup=5000, clip=1.0, ema_decay=0.9999),
        train=Train(
            steps=200_000,
            batch_size=128,
            steps_per_call=10,
            log_every=100,
            sample_every=10_000,
            save_every=10_000,
        ),
        sample=Sample(sampler="ddim", steps=100, num=64, batch_size=64),
    )
