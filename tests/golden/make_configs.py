"""Writes configs.json: configs of version 0.1, as its own code writes them.

git worktree add /tmp/old 483e364
PYTHONPATH=/tmp/old python tests/golden/make_configs.py
"""

import json
from dataclasses import replace
from pathlib import Path

from jaxdiff.config import Adapt, Config, Data, Diffusion, Latent, Reconstruction, Sample, to_json
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.clip import CLIPConfig, TextConfig, VisionConfig
from jaxdiff.nets.unet import UNetConfig

TEXT = TextConfig(width=64, layers=2, heads=4, vocabulary=640, length=24, end_token=513)
NEW = {"words": ("<star>", "<moon>"), "begin": ("seven",), "prompts": ("a <star>", "a <moon>")}
PRIOR = {"prior": ("a seven", "a two"), "prior_images": 50, "prior_weight": 0.5}
SAMPLERS = {
    "ddim": {"eta": 0.5},
    "ddpm": {"variance": "beta"},
    "heun": {"churn": 0.25},
    "unipc": {"order": 3},
    "predictor_corrector": {"snr": 0.1},
    "dpmpp_2m_sde": {},
    "dpmpp_2m": {},
    "probability_flow": {},
    "ddim_cfgpp": {"guidance": 0.75},
}
SOURCES = ("digits", "digits:judge", "outlined:test", "captioned", "tfds:cifar10", "tfds:mnist:train[:80%]")


def adapted(method, **fields):
    """A config that adapts a base."""
    return Config(adapt=Adapt(base="captioned", method=method, **fields))


CONFIGS = {
    "default": Config(),
    "diffusion": Config(
        diffusion=Diffusion("cosine", 50, "v", "min_snr", 2.0, True, "hybrid", "logit_normal", 0.1, 0.05, 0.2),
        latent=Latent("vae", (8, 8, 4), 0.5, "clip", 1),
        sample=Sample(guidance=3.0, spacing="karras", interval=(10, 20), prompts=("a seven",), negative="blue"),
    ),
    "classifier": Config(
        net=UNetConfig(out_channels=10), diffusion=Diffusion(objective="classification", levels="clean")
    ),
    "kl": Config(net=AutoencoderConfig(channels=(32, 64)), reconstruction=Reconstruction(kl_weight=1e-3, error="l2")),
    "vq": Config(net=AutoencoderConfig(channels=(32, 64)), reconstruction=Reconstruction(256, dead=2.0, decay=0.9)),
    "clip": Config(net=CLIPConfig(TEXT, VisionConfig(stem=(32, 64), patch=4)), data=Data(wrong=4, tokenizer="here")),
    "text": Config(net=TEXT),
    "lora": adapted(
        "lora", rank=2, alpha=3.0, stabilised=True, where="convolutions", dropout=0.1, text=True, **NEW, **PRIOR
    ),
    "full": adapted("full", text=True, **NEW, prior_source="folder:dogs"),
    "words": adapted("words", **NEW, **PRIOR),
    "control": adapted("control", condition="edges", embedding=(4, 8), prompts=("a seven",)),
    "folder": Config(data=Data("folder:my:photos", (64, 64, 3), skip_broken=True, flip=True, augment=0.5)),
    "resized": Config(data=Data("digits:test", (32, 32, 3), resize=True)),
    **{f"sampler {name}": Config(sample=Sample(name, **options)) for name, options in SAMPLERS.items()},
    **{f"source {name}": Config(data=replace(Data(), source=name)) for name in SOURCES},
}

if __name__ == "__main__":
    written = {name: json.loads(to_json(config)) for name, config in CONFIGS.items()}
    default = written["default"]
    shorter = {  # the default whole, of the others those sections that differ from it
        name: {section: fields for section, fields in config.items() if name == "default" or fields != default[section]}
        for name, config in written.items()
    }
    Path(__file__).with_name("configs.json").write_text(json.dumps(shorter, indent=1) + "\n")
