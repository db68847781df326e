"""Single files of Stable Diffusion: names as diffusers converts them, and the same model as its folder."""

import gzip
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from helpers import fails

import jaxdiff
from jaxdiff.config import Config, Data
from jaxdiff.model.interop import ldm_names, mapping, networks, single_file
from jaxdiff.model.params import param_shapes

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = json.loads(gzip.decompress((GOLDEN / "ldm_names.json.gz").read_bytes()))
CONFIGS = json.loads((GOLDEN / "published_configs.json").read_text())
PROMPT = "a red seven on blue"

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "open_clip"])
def test_names_are_those_that_diffusers_converts(name):
    unet = name.endswith("unet")
    net = (networks.unet if unet else networks.autoencoder)(CONFIGS[name]["config"])
    place = ldm_names.unet_place if unet else ldm_names.autoencoder_place
    assert {published: place(published, net).name for published in NAMES[name]} == NAMES[name]


def test_tensors_of_open_clip_are_those_that_diffusers_makes_of_them():
    file, wanted = NAMES["open_clip"]["file"], NAMES["open_clip"]["diffusers"]
    for name, value in wanted.items():
        place = ldm_names.open_clip_place(name.removeprefix("text_model."))
        found = place.value(np.array(file[place.name]), np.ndim(value))
        np.testing.assert_array_equal(found, value)
    assert len(wanted) == len(file) + 4  # q, k and v of one tensor each


SIZES = {"width": 64, "layers": 2, "heads": 1, "vocabulary": 530, "length": 77}


def written(folder, version, **header):
    """A small Stable Diffusion with random weights as a single file, by the names that the goldens prove."""
    from jaxdiff.nets.autoencoder_config import AutoencoderConfig
    from jaxdiff.nets.clip_config import TextConfig
    from jaxdiff.nets.unet_config import UNetConfig

    open_text = TextConfig(**SIZES, activation="gelu", end_token=513)
    texts = {
        "1": {"cond_stage_model.transformer.": TextConfig(**SIZES, end_token=513)},
        "2": {"cond_stage_model.model.": open_text},
        "xl": {
            "conditioner.embedders.0.transformer.": TextConfig(**SIZES, end_token=513),
            "conditioner.embedders.1.model.": TextConfig(**SIZES, activation="gelu", end_token=513, projection=32),
        },
    }[version]
    published = {"flip_sin_to_cos": True, "freq_shift": 0.0, "eps": 1e-5, "downsample_padding": 1}
    net = UNetConfig(
        out_channels=4,
        channels=(64, 128),
        blocks=1,
        attention=(1,) if version == "xl" else (0,),
        num_heads=(1, 2),
        context_dim=64 * len(texts),
        transformer_blocks=(1, 2) if version == "xl" else 1,
        linear_projection=version != "1",
        vector_dim=32 + 6 * 8 if version == "xl" else 0,
        **published,
    )
    codec = AutoencoderConfig(channels=(32, 64), blocks=1, scaling_factor=0.13025 if version == "xl" else 0.18215)
    parts = {"model.diffusion_model.": (net, (8, 8, 4)), "first_stage_model.": (codec, (16, 16, 3))}
    parts |= {prefix: (text, None) for prefix, text in texts.items()}
    tensors, params = {}, {}
    rng = np.random.default_rng(0)
    for prefix, (spec, shape) in parts.items():
        shapes = param_shapes(Config(net=spec, data=Data(image_shape=shape or (8, 8, 1))))
        params[prefix] = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
        flat = flatten_dict(params[prefix], sep="/")
        fused = {}
        for entry in mapping.entries(params[prefix]):
            if prefix.endswith("transformer."):
                place = ldm_names.clip_place(entry.published)
            elif prefix.endswith(".model."):
                place = ldm_names.open_clip_place(entry.published)
            elif prefix.startswith("first"):
                place = ldm_names.autoencoder_place(entry.published, spec)
            else:
                place = ldm_names.unet_place(entry.published, spec)
            value = np.asarray(mapping.LAYOUTS[entry.layout].to_published(np.asarray(flat[entry.ours])))
            if ".attn_1." in place.name and value.ndim == 2 and ".norm" not in place.name:
                value = value[:, :, None, None]
            value = value.T if place.transposed else value
            if place.third is None:
                tensors[prefix + place.name] = np.ascontiguousarray(value)
            else:
                fused.setdefault(prefix + place.name, {})[place.third] = value
        tensors |= {
            name: np.ascontiguousarray(np.concatenate([thirds[i] for i in range(3)])) for name, thirds in fused.items()
        }
    tensors["model_ema.num_updates"] = np.array(3)
    tensors["alphas_cumprod"] = np.zeros(3)
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(tensors, path, header or None)
    shutil.copytree(GOLDEN / "pipelines" / "stable_diffusion_1" / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    return path, params, net, codec


@pytest.mark.parametrize("version", ["1", "2", "xl"])
def test_a_single_file_is_read_whole(version, tmp_path):
    path, params, net, codec = written(tmp_path, version)
    model = jaxdiff.load(path)
    assert model.config.net == net and model.submodels["codec"].config.net == codec
    names = {"model.diffusion_model.": model, "first_stage_model.": model.submodels["codec"]}
    texts = [prefix for prefix in params if prefix not in names]
    names |= dict(zip(texts, [model.submodels[name] for name in model.submodels if name != "codec"], strict=True))
    for prefix, part in names.items():
        jax.tree.map(np.testing.assert_array_equal, part.params, params[prefix])
    sides = {"1": 512, "2": 768, "xl": 1024}
    assert model.image_shape == (sides[version],) * 2 + (3,)
    assert model.config.diffusion.predict == {"1": "eps", "2": "v", "xl": "eps"}[version]
    kinds = [model.submodels[name].tokenizer.pad_id for name in model.submodels if name != "codec"]
    assert kinds == {"1": [513], "2": [0], "xl": [513, 0]}[version]
    assert jaxdiff.model.load_config(path) == model.config


def test_the_kind_of_prediction_is_given_or_in_the_header(tmp_path):
    path, *_ = written(tmp_path, "2", **{"modelspec.prediction_type": "epsilon"})
    config = jaxdiff.model.load_config(path)
    assert (config.diffusion.predict, config.data.image_shape) == ("eps", (512, 512, 3))
    assert jaxdiff.load(path, predict="v").config.diffusion.predict == "v"
    with pytest.raises(ValueError, match="`predict`='x0' must be 'eps' or 'v'"):
        jaxdiff.load(path, predict="x0")
    with pytest.raises(
        ValueError, match="`tokenizer` and `predict` are for single files of others, and digits is none"
    ):
        jaxdiff.load("digits", predict="v")


def test_what_a_file_says_of_its_process_is_heard(tmp_path, caplog):
    path, *_ = written(tmp_path, "xl")
    tensors = safetensors.numpy.load_file(path)
    flags = {"v_pred": np.zeros(0), "ztsnr": np.zeros(0)}
    safetensors.numpy.save_file(tensors | flags, path)
    diffusion = jaxdiff.model.load_config(path).diffusion
    assert (diffusion.predict, diffusion.zero_snr) == ("v", True)
    safetensors.numpy.save_file(tensors | {"edm_mean": np.zeros(4)}, path)
    with pytest.raises(ValueError, match="edm_mean is of a process of EDM, which is not supported"):
        jaxdiff.load(path)
    safetensors.numpy.save_file(tensors, path, {"modelspec.prediction_type": "rf"})
    with pytest.raises(ValueError, match=r"modelspec.prediction_type='rf' is not supported"):
        jaxdiff.load(path)


def test_what_is_wrong_with_a_single_file_is_named(tmp_path, capsys):
    path, *_ = written(tmp_path, "1")
    tensors = safetensors.numpy.load_file(path)
    shutil.rmtree(tmp_path / "tokenizer")
    assert "holds no tokenizer: put the folder 'tokenizer'" in fails(capsys, "sample", path, PROMPT)
    shutil.copytree(GOLDEN / "pipelines" / "stable_diffusion_1" / "tokenizer", tmp_path / "tokenizer")
    for change, message in (
        (
            {"model.diffusion_model.more": np.zeros(2)},
            "model.diffusion_model.more is of no network of Stable Diffusion",
        ),
        ({"model.diffusion_model.out.0.bias": None}, "conv_norm_out.bias is missing"),
        ({"model.diffusion_model.out.0.bias": np.zeros(3)}, r"conv_norm_out.bias is [3] and must be [64]"),
    ):
        changed = {name: value for name, value in (tensors | change).items() if value is not None}
        safetensors.numpy.save_file(changed, path)
        assert message in fails(capsys, "sample", path, PROMPT)
    for lost in ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.post_quant_conv.weight"):
        safetensors.numpy.save_file({name: value for name, value in tensors.items() if name != lost}, path)
        name = lost.removeprefix("model.diffusion_model.").removeprefix("first_stage_model.")
        assert f"{name} is missing" in fails(capsys, "sample", path, PROMPT)
    unet = {name: value for name, value in tensors.items() if name.startswith("model.")}
    safetensors.numpy.save_file(unet, path)
    assert "has no autoencoder, and only whole models of these are read" in fails(capsys, "sample", path, PROMPT)
    assert not single_file.is_single_file(tmp_path / "none.safetensors")
