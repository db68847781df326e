"""Specifications of networks: fields of another type are named as they are made, before anything compares them."""

import re

import numpy as np
import pytest

from jaxdiff import UNetConfig
from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.clip_config import CLIPConfig, ImageEncoderConfig, TextConfig, VisionConfig
from jaxdiff.nets.controlnet import ControlConfig
from jaxdiff.nets.dit_config import DiTConfig
from jaxdiff.nets.mmdit_config import MMDiTConfig
from jaxdiff.nets.unet_config import ClassifierConfig

REFUSED = {
    "a U-Net": (lambda: UNetConfig(groups="4"), "groups='4' must be of type int"),
    "channels as text": (lambda: UNetConfig(channels="128"), "channels='128' must be of type tuple[int, ...]"),
    "half a block": (lambda: UNetConfig(blocks=1.5), "blocks=1.5 must be of type int | tuple[int, ...]"),
    "a flag as text": (lambda: UNetConfig(remat="no"), "remat='no' must be of type bool"),
    "a flag as number": (lambda: UNetConfig(num_classes=True), "num_classes=True must be of type int"),
    "a mode that there is not": (lambda: UNetConfig(time_mode="mul"), "time_mode='mul' must be 'add' or 'scale_shift'"),
    "no frequency": (lambda: UNetConfig(freq_shift=float("nan")), "freq_shift=nan must be a finite number"),
    "a classifier": (lambda: ClassifierConfig(out_channels=None), "out_channels=None must be of type int"),
    "a DiT": (lambda: DiTConfig(width="384"), "width='384' must be of type int"),
    "an MMDiT": (lambda: MMDiTConfig(depth="2"), "depth='2' must be of type int"),
    "an autoencoder": (lambda: AutoencoderConfig(patch="2"), "patch='2' must be of type int"),
    "latents without end": (lambda: AutoencoderConfig(latents_std=float("inf")), "latents_std=inf must be above 0"),
    "latents about nan": (lambda: AutoencoderConfig(latents_mean=float("nan")), "latents_mean=nan must be finite"),
    "a text transformer": (lambda: TextConfig(width="8"), "width='8' must be of type int"),
    "an image transformer": (lambda: VisionConfig(mean=("a",)), "mean=('a',) must be of type tuple[float, ...]"),
    "an image encoder": (lambda: ImageEncoderConfig(vision=None), "vision=None must be of type VisionConfig"),
    "a CLIP": (lambda: CLIPConfig(projection="8"), "projection='8' must be of type int"),
    "a ControlNet": (lambda: ControlConfig(UNetConfig(), picture_channels="3"), "picture_channels='3' must be"),
}


@pytest.mark.parametrize("make, message", REFUSED.values(), ids=REFUSED)
def test_a_field_of_another_type_is_named(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_numbers_of_numpy_and_lists_are_taken():
    config = UNetConfig(channels=[np.int64(32), 64], eps=np.float64(1e-5), dropout=0)
    assert config == UNetConfig(channels=(32, 64), eps=1e-5, dropout=0) and hash(config)
    assert type(config.channels[0]) is int
