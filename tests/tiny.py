"""Tiny autoencoders, CLIPs and diffusions between them, trained in seconds."""

from pathlib import Path

from helpers import tiny_config

from jaxdiff import UNetConfig, data
from jaxdiff import model as models
from jaxdiff.config import Config, Data, Diffusion, Latent, Reconstruction, Sample
from jaxdiff.data import paths
from jaxdiff.model.frozen_models import open_models
from jaxdiff.model.params import model_params
from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.clip import CLIPConfig, TextConfig, VisionConfig
from jaxdiff.train import initial, setup

DATA = Data("captioned:test", (32, 32, 3))


def tiny_autoencoder(words: int = 0, critic_weight: float = 0.0, **train) -> Config:
    """Images 32x32x3 -> latents 8x8x2."""
    return Config(
        name="tiny_autoencoder",
        data=DATA,
        net=AutoencoderConfig(
            3, (4, 8), 1, 2, codebook_size=words, groups=4, mid_attention=False, patch=2, scaling_factor=1.0
        ),
        reconstruction=Reconstruction(critic_weight=critic_weight),
        **rest(train),
    )


def tiny_clip(**train) -> Config:
    """Texts of 24 tokens, 8 wide."""
    tower = {"width": 8, "layers": 1, "heads": 2}
    text = TextConfig(**tower, vocabulary=640, length=24, end_token=513)
    net = CLIPConfig(text, VisionConfig(**tower, size=32, patch=8), 4)
    return Config(name="tiny_clip", data=DATA, net=net, **rest(train))


def tiny_latent(codec, text, **train) -> Config:
    """Draws the latents of a `tiny_autoencoder` from the texts of a `tiny_clip`."""
    net = UNetConfig(
        out_channels=2,
        channels=(8,),
        blocks=1,
        attention=(0,),
        mid_attention=False,
        groups=4,
        context_dim=8,
        context_length=24,
    )
    sample = Sample(prompts=("a red seven", "4"), guidance=2.0, steps=3, clip=False, num=8, batch_size=8)
    return Config(
        name="tiny_latent",
        data=DATA,
        net=net,
        diffusion=Diffusion("cosine", 50, "v", cond_dropout=0.1),
        latent=Latent(codec and str(codec), codec and (8, 8, 2), text_encoder=text and str(text)),
        sample=sample,
        **rest(train),
    )


def rest(train):
    config = tiny_config(**train)
    return {"optim": config.optim, "train": config.train}


def write_untrained(config: Config, path: Path, words=None) -> Path:
    """Writes a model as it is before training."""
    state = initial.new_state(config)
    params = model_params(config, state.ema, initial.codebook(config, state.extra))
    origin = models.Origin(config.name, 0, "EMA", str(config.data.source))
    models.write(path, models.Model(config=config, params=params, origin=origin, tokenizer=words), "float32")
    return path


def write_ends(folder: Path) -> tuple[Path, Path]:
    """Files of an autoencoder and of a CLIP, in a folder."""
    clip = tiny_clip()
    words = open_models(clip, setup.open_source(clip)).tokenizer
    vae = write_untrained(tiny_autoencoder(), folder / "vae.safetensors")
    return vae, write_untrained(clip, folder / "clip.safetensors", words)


def data_here(folder: Path) -> Path:
    """A new folder for data sets that has the captioned digits, where others may be put that shall not stay."""
    data.load("captioned:test")  # which prepares them, if need be
    folder.mkdir()
    (folder / "captioned_digits").symlink_to(paths.data_dir() / "captioned_digits")
    return folder
