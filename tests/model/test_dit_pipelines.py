"""Published diffusion transformers: what diffusers draws with one, its names in files, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import fails

import jaxdiff
from jaxdiff.adapt import lora
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.config import Config, Data
from jaxdiff.model.export import export_adapter
from jaxdiff.model.interop import dits, networks
from jaxdiff.model.params import param_shapes
from jaxdiff.nets.dit import waves_of_places

FOLDER = Path(__file__).parents[1] / "golden" / "dit_pipeline"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
LABELS, STEPS, GUIDANCE = [1, 207], 6, 4.0  # of tests/golden/make_dit_pipeline.py
XL = {  # transformer/config.json of facebook/DiT-XL-2-256
    "_class_name": "Transformer2DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "cross_attention_dim": None,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "upcast_attention": False,
    "use_linear_projection": False,
}

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "dit")
    return tmp_path / "dit"


def changed(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def with_tensors(folder, change):
    """The folder with other tensors of the transformer."""
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)


def test_what_is_drawn_is_what_diffusers_draws():
    model = jaxdiff.load(FOLDER)
    with np.load(FOLDER / "drawn.npz") as file:
        noise, latents = (file[name].transpose(0, 2, 3, 1) for name in ("noise", "latents"))
        image = file["image"]
    denoise = jaxdiff.guidance.cfg(jaxdiff.denoiser_of(model), GUIDANCE)
    levels, cond = model.levels(STEPS, model.config.sample.spacing), jaxdiff.condition(model, labels=LABELS)
    sampler = model.config.sample.sampler()
    z, _ = jaxdiff.sample(jax.random.key(0), sampler, denoise, model.schedule, levels, noise, cond)
    assert np.abs(z - latents).max() < 1e-5 * np.abs(latents).max()
    decoded = jaxdiff.decode(model, latents)
    np.testing.assert_allclose(np.clip(decoded / 2 + 0.5, 0, 1), image, atol=1e-5)


def test_labels_have_the_published_names():
    model = jaxdiff.load(FOLDER)
    assert model.config.data.classes[:3] == ("class 0", "goldfish", "class 2")
    drawn = [jaxdiff.generate(model, labels=label, steps=2, num=1) for label in ("goldfish", [1], [2])]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert model.config.sample.guidance == 4.0 and not model.config.sample.clip


def test_a_folder_that_is_written_has_the_same_bits(tmp_path):
    jaxdiff.export(jaxdiff.load(FOLDER), tmp_path / "out", layout="diffusers")
    for part in ("transformer", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        one, other = (safetensors.numpy.load_file(folder / name) for folder in (FOLDER, tmp_path / "out"))
        assert one.keys() == other.keys()
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key])
    assert jaxdiff.load(tmp_path / "out").config.data.classes[1] == "goldfish"


def test_the_published_size():
    """675,129,632 numbers in the file, of which 294,912 are positions."""
    net = networks.dit(XL)
    entries = dits.entries(net, param_shapes(Config(net=net, data=Data(image_shape=(32, 32, 4)))))
    assert sum(np.prod(entry.shape) for entry in entries) == 675_129_632 - 256 * 1152
    assert net.heads == 16 and net.out_channels == 8 and net.eps == 1e-5
    assert {name for entry in entries for name in dits.places(entry.published, net)} > {
        "transformer_blocks.27.norm1.emb.timestep_embedder.linear_1.weight"
    }


def test_blocks_with_embedders_of_their_own_are_refused(copy):
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    with_tensors(copy, lambda tensors: tensors.update({name: tensors[name] + np.float16(1)}))
    with pytest.raises(ValueError, match=rf"{name} is not transformer_blocks.0.*share it are supported"):
        jaxdiff.load(copy)


def test_positions_in_a_file_are_those_that_are_computed(copy):
    waves = waves_of_places((4, 4), 16)[None]
    with_tensors(copy, lambda tensors: tensors.update({"pos_embed.pos_embed": waves}))
    jaxdiff.load(copy)
    with_tensors(copy, lambda tensors: tensors.update({"pos_embed.pos_embed": waves[:, ::-1].copy()}))
    with pytest.raises(ValueError, match="is not of sines and cosines"):
        jaxdiff.load(copy)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"norm_type": "layer_norm"}, "norm_type='layer_norm' is not supported, only 'ada_norm_zero'"),
        ({"patch_size": 3}, "patch_size=3 is not supported, only 1, 2, 4, 8"),
        ({"activation_fn": "geglu"}, "activation_fn='geglu' is not supported"),
        ({"_class_name": "FluxTransformer2DModel"}, "the class FluxTransformer2DModel must be DiTTransformer2DModel"),
        ({"num_embeds_ada_norm": 999}, r"id2label must name the labels 0 to 998"),
    ],
)
def test_other_transformers_are_refused(copy, capsys, fields, message):
    changed(copy / "transformer" / "config.json", **fields)
    assert message in fails(capsys, "sample", copy, "--out", copy.parent / "out.png")


@pytest.mark.parametrize("kind", ["FluxPipeline", "StableDiffusion3Img2ImgPipeline", "PixArtAlphaPipeline"])
def test_other_pipelines_are_refused_by_name(copy, capsys, kind):
    changed(copy / "model_index.json", _class_name=kind)
    assert f"the class {kind} is not supported" in fails(capsys, "sample", copy, "--out", copy.parent / "out.png")


def test_loras_of_dits_stay_in_their_own_layout(tmp_path):
    """Others know none of them by name; ours is written and read."""
    model = jaxdiff.load(FOLDER)
    adapter = Adapter({"method": "lora"}, {"unet": lora.init(jax.random.key(0), model.params, 2)})
    with pytest.raises(ValueError, match="LoRAs of U-Nets alone, and dit_pipeline is of kind 'dit'"):
        export_adapter(adapter, tmp_path / "peft.safetensors", model, layout="peft")
    export_adapter(adapter, tmp_path / "ours.safetensors", model)
    assert jaxdiff.with_adapters(model, str(tmp_path / "ours.safetensors")).params.keys() == model.params.keys()


def test_what_a_dit_pipeline_cannot_say_is_not_written(tmp_path):
    model = jaxdiff.load(FOLDER)
    for change in ({"qk_norm": True}, {"positions": "rotary"}):
        other = model.replace(
            config=dataclasses.replace(model.config, net=dataclasses.replace(model.config.net, **change))
        )
        with pytest.raises(ValueError, match=next(iter(change))):
            jaxdiff.export(other, tmp_path / "out", layout="diffusers")
        assert not (tmp_path / "out").exists()
