"""Writes ldm_names.json.gz: names of single files, as diffusers converts them. Needs `peers`.

python tests/golden/make_ldm_names.py
"""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from diffusers.loaders import single_file_utils as convert

from jaxdiff.config import Config, Data
from jaxdiff.model.interop import ldm_names, mapping, networks
from jaxdiff.model.params import param_shapes

HERE = Path(__file__).parent


def main():
    configs = json.loads((HERE / "published_configs.json").read_text())
    found = {}
    for name in ("stable-diffusion-v1-5/unet", "stable-diffusion-xl-base-1.0/unet", "stable-diffusion-v1-5/vae"):
        config = configs[name]["config"]
        is_unet = name.endswith("unet")
        net = (networks.unet if is_unet else networks.autoencoder)(config)
        place, prefix = (
            (ldm_names.unet_place, "model.diffusion_model.")
            if is_unet
            else (ldm_names.autoencoder_place, "first_stage_model.")
        )
        data = Data(image_shape=(64, 64, 4 if is_unet else 3))
        entries = mapping.entries(param_shapes(Config(net=net, data=data)))
        names = [place(entry.published, net).name for entry in entries]
        # The converter goes by the names of the file alone; each tensor is the position of its own name.
        tensors = {prefix + name: torch.tensor(float(i)) for i, name in enumerate(names)}
        kinds = {"class_embed_type": None, "down_block_types": [0] * 4, "up_block_types": [0] * 4}
        made = (convert.convert_ldm_unet_checkpoint if is_unet else convert.convert_ldm_vae_checkpoint)(
            tensors, config | kinds if is_unet else kinds
        )
        found[name] = {theirs: names[int(i)] for theirs, i in made.items()}
    found["open_clip"] = open_clip()
    content = json.dumps(found, sort_keys=True).encode()
    (HERE / "ldm_names.json.gz").write_bytes(gzip.compress(content, mtime=0))


def open_clip():
    """Tensors of an OpenCLIP of width 2, and those that diffusers makes of them."""
    shapes = {"positional_embedding": (3, 2), "token_embedding.weight": (4, 2), "text_projection": (2, 2)}
    shapes |= {"ln_final.weight": (2,), "ln_final.bias": (2,)}
    for name, width in (("ln_1", 2), ("ln_2", 2), ("mlp.c_fc", 8), ("mlp.c_proj", 2), ("attn.out_proj", 2)):
        inner = {"mlp.c_fc": (8, 2), "mlp.c_proj": (2, 8), "attn.out_proj": (2, 2)}.get(name, (2,))
        shapes |= {f"transformer.resblocks.0.{name}.weight": inner, f"transformer.resblocks.0.{name}.bias": (width,)}
    shapes |= {"transformer.resblocks.0.attn.in_proj_weight": (6, 2), "transformer.resblocks.0.attn.in_proj_bias": (6,)}
    rng = np.random.default_rng(0)
    tensors = {name: torch.tensor(rng.integers(0, 99, shape)) for name, shape in shapes.items()}
    prefix = "conditioner.embedders.1.model."
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=2))
    made = convert.convert_open_clip_checkpoint(model, {prefix + k: v for k, v in tensors.items()}, prefix)
    as_lists = lambda found: {name: value.tolist() for name, value in found.items()}
    return {"file": as_lists(tensors), "diffusers": as_lists(made)}


if __name__ == "__main__":
    main()
