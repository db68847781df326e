"""Configs of version 0.1, as its own code wrote them (golden/make_configs.py) and as shipped files hold them."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxdiff import config as configs
from jaxdiff.config import (
    Config,
    ControlNet,
    Data,
    Diffusion,
    DreamBooth,
    Latent,
    LoRA,
    NewTokens,
    Prior,
    Reconstruction,
    Sample,
    TextualInversion,
)
from jaxdiff.config.upgrade import upgraded
from jaxdiff.model import files, shipped
from jaxdiff.nets.autoencoder_config import AutoencoderConfig
from jaxdiff.nets.clip_config import CLIPConfig, TextConfig, VisionConfig
from jaxdiff.nets.unet_config import ClassifierConfig
from jaxdiff.samplers import SAMPLERS

EARLIER = json.loads((Path(__file__).parents[1] / "golden" / "configs.json").read_text())
SOURCES = Data().source.registry
TEXT = TextConfig(width=64, layers=2, heads=4, vocabulary=640, length=24, end_token=513)
NEW = {"new": NewTokens(("<star>", "<moon>"), ("seven",)), "prompts": ("a <star>", "a <moon>")}
PRIOR = Prior(("a seven", "a two"), None, 50, 0.5)
MEANT = {
    "default": Config(),
    "diffusion": Config(
        diffusion=Diffusion("cosine", 50, "v", "min_snr", 2.0, True, "hybrid", "logit_normal", 0.1, 0.05, 0.2),
        latent=Latent("vae", (8, 8, 4), 0.5, "clip", 1),
        sample=Sample(guidance=3.0, spacing="karras", interval=(10, 20), prompts=("a seven",), negative="blue"),
    ),
    "classifier": Config(net=ClassifierConfig(out_channels=10), diffusion=Diffusion(levels="clean")),
    "kl": Config(net=AutoencoderConfig(channels=(32, 64)), reconstruction=Reconstruction(kl_weight=1e-3, error="l2")),
    "vq": Config(
        net=AutoencoderConfig(channels=(32, 64), codebook_size=256),
        reconstruction=Reconstruction(dead_below=2.0, decay=0.9),
    ),
    "clip": Config(
        net=CLIPConfig(TEXT, VisionConfig(stem=(32, 64), patch=4)), data=Data(hard_negatives=4, tokenizer="here")
    ),
    "text": Config(net=TEXT),
    "lora": Config(
        adapt=LoRA(
            base="captioned",
            rank=2,
            alpha=3.0,
            rank_stabilised=True,
            targets="convolutions",
            dropout=0.1,
            text_encoder=True,
            prior=PRIOR,
            **NEW,
        )
    ),
    "full": Config(adapt=DreamBooth(base="captioned", text_encoder=True, prior=Prior(source="folder:dogs"), **NEW)),
    "words": Config(adapt=TextualInversion(base="captioned", prior=PRIOR, **NEW)),
    "control": Config(
        adapt=ControlNet(base="captioned", condition="edges", embedding=(4, 8), prompts=("a seven",)),
    ),
    "folder": Config(
        data=Data(SOURCES["folder"]("my:photos", skip_broken=True, to_srgb=False), (64, 64, 3), flip=True, augment=0.5)
    ),
    "resized": Config(data=Data(SOURCES["digits"]("test", resize=True), (32, 32, 3))),
    "sampler ddim": Config(sample=Sample(SAMPLERS["ddim"](eta=0.5))),
    "sampler ddpm": Config(sample=Sample(SAMPLERS["ddpm"](variance="beta"))),
    "sampler heun": Config(sample=Sample(SAMPLERS["heun"](churn=0.25))),
    "sampler unipc": Config(sample=Sample(SAMPLERS["unipc"](order=3))),
    "sampler predictor_corrector": Config(sample=Sample(SAMPLERS["predictor_corrector"](snr=0.1))),
    "sampler dpmpp_2m_sde": Config(sample=Sample(SAMPLERS["dpmpp_2m"](sde=True))),
    "sampler dpmpp_2m": Config(sample=Sample("dpmpp_2m")),
    "sampler probability_flow": Config(sample=Sample("probability_flow")),
    "sampler ddim_cfgpp": Config(sample=Sample(SAMPLERS["ddim_cfgpp"](scale=0.75), guidance=1.0)),
    "source digits": Config(data=Data(SOURCES["digits"]())),
    "source digits:judge": Config(data=Data(SOURCES["digits"]("judge"))),
    "source outlined:test": Config(data=Data(SOURCES["outlined"]("test"))),
    "source captioned": Config(data=Data(SOURCES["captioned"]())),
    "source tfds:cifar10": Config(data=Data(SOURCES["tfds"]("cifar10"))),
    "source tfds:mnist:train[:80%]": Config(data=Data(SOURCES["tfds"]("mnist:train[:80%]"))),
}


@pytest.mark.parametrize("name", EARLIER)
def test_an_earlier_config_loads_as_what_it_meant(name):
    config = configs.from_json(json.dumps(EARLIER["default"] | EARLIER[name]))
    meant = MEANT[name]  # when attention had no kernel by itself
    assert config == dataclasses.replace(meant, net=meant.net.without_kernels())
    assert configs.from_json(configs.to_json(config)) == config


def test_a_config_of_the_present_form_stays_as_it_is():
    for config in MEANT.values():
        values = configs.to_values(config)
        assert upgraded(values) == values


def test_a_folder_of_before_profiles_keeps_its_colours():
    values = configs.to_values(Config(data=Data("folder:photos")))
    assert configs.from_json(json.dumps(values)).data.source.to_srgb
    del values["data"]["source"]["to_srgb"]
    assert not configs.from_json(json.dumps(values)).data.source.to_srgb


# Of files that ship: class of the network and some of its fields, data source, and sections that tell.
SHIPPED = {
    "captioned": ("unet", {"channels": (64, 96), "context_dim": 64}, "captioned"),
    "captioned_clip": ("clip", {"projection": 64, "text": TEXT}, "captioned"),
    "captioned_judge": ("classifier", {"out_channels": 10, "channels": (32, 64)}, "captioned:judge"),
    "captioned_vae": ("autoencoder", {"latent_channels": 6, "codebook_size": 0, "patch": 2}, "captioned"),
    "captioned_vqvae": ("autoencoder", {"codebook_size": 256}, "captioned"),
    "digits": ("unet", {"channels": (64, 128), "num_classes": 10, "vector_dim": 6}, "digits"),
    "digits_classifier": ("classifier", {"out_channels": 10, "channels": (32, 64)}, "digits"),
    "digits_judge": ("classifier", {"out_channels": 10}, "digits:judge"),
    "outlined": ("unet", {"channels": (48, 96)}, "outlined:judge"),
}


def test_every_file_that_ships_is_listed():
    assert set(SHIPPED) == set(shipped.names())


@pytest.mark.parametrize("name", SHIPPED)
def test_the_config_in_a_file_that_ships(name):
    config = configs.from_json(files.header_of(shipped.WEIGHTS / f"{name}.safetensors")["config"])
    kind, fields, source = SHIPPED[name]
    assert config.net.kind == kind and str(config.data.source) == source
    assert {field: getattr(config.net, field) for field in fields} == fields
    assert config.adapt == Config().adapt


def test_the_process_of_files_that_ship():
    read = lambda name: configs.from_json(files.header_of(shipped.WEIGHTS / f"{name}.safetensors")["config"])
    captioned, clip, judge = read("captioned"), read("captioned_clip"), read("digits_judge")
    assert captioned.latent == Latent("captioned_vae", (8, 8, 6), text_encoder="captioned_clip")
    assert (captioned.sample.sampler, captioned.sample.guidance) == (SAMPLERS.choice("ddim"), 3.0)
    assert captioned.diffusion.cond_dropout > 0 and captioned.diffusion.schedule.kind == "cosine"
    assert clip.data.hard_negatives == 4 and judge.diffusion.levels.kind == "clean"


def test_mistakes_in_an_earlier_config_are_answered_in_one_line():
    broken = EARLIER["default"] | {"sample": EARLIER["default"]["sample"] | {"sampler": "dmd"}}
    with pytest.raises(ValueError, match=r"^config\.sample\.sampler: unknown sampler 'dmd' \(one of ") as error:
        configs.from_json(json.dumps(broken))
    assert "\n" not in str(error.value)
    broken = EARLIER["default"] | {"adapt": EARLIER["lora"]["adapt"] | {"method": "magic"}}
    with pytest.raises(ValueError, match="unknown adaptation 'magic'"):
        configs.from_json(json.dumps(broken))
    broken = EARLIER["default"] | {"data": dataclasses.asdict(Data()) | {"source": "photos:here"}}
    with pytest.raises(ValueError, match="unknown data source 'photos'"):
        configs.from_json(json.dumps(broken))
