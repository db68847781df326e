"""Published pipelines of Stable Diffusion 3: what diffusers draws with one, its names in files, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers import fails
from PIL import Image

import jaxdiff
from jaxdiff import cli
from jaxdiff.config import Config, Data
from jaxdiff.model.interop import dits, networks, schedulers
from jaxdiff.model.params import param_shapes
from jaxdiff.nets.dit import waves_of_places

FOLDER = Path(__file__).parents[1] / "golden" / "sd3_pipeline"
PROMPT, NEGATIVE, STEPS, GUIDANCE = "a red seven on blue", "a small one", 6, 7.0  # of tests/golden/make_sd3_pipeline.py
MEDIUM = {  # transformer/config.json of stabilityai/stable-diffusion-3-medium-diffusers
    "_class_name": "SD3Transformer2DModel",
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "sd3")
    return tmp_path / "sd3"


@pytest.fixture(scope="module")
def drawn():
    with np.load(FOLDER / "drawn.npz") as file:
        return dict(file)


def changed(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_texts_are_read_as_diffusers_reads_them(drawn):
    """Both side by side, with zeros up to the width of the context and in place of the 256 tokens of T5."""
    both = jaxdiff.condition(jaxdiff.load(FOLDER), prompts=[PROMPT], negative=NEGATIVE)
    for cond, context, vector in ((both.cond, "context", "vector"), (both.uncond, "negative", "negative_vector")):
        np.testing.assert_allclose(cond.context, drawn[context], atol=2e-6)
        np.testing.assert_allclose(cond.vector, drawn[vector], atol=2e-6)


@pytest.mark.parametrize("steps, name", [(STEPS, "sigmas"), (28, "sigmas_28")])
def test_noise_is_that_of_diffusers(drawn, steps, name):
    model = jaxdiff.load(FOLDER)
    levels = model.levels(steps, model.config.sample.spacing)
    np.testing.assert_allclose(model.schedule(levels).sigma, drawn[name], atol=2e-6)
    assert model.config.diffusion.shift == 3.0 and model.config.sample.steps == 28


def test_what_is_drawn_is_what_diffusers_draws(drawn):
    model = jaxdiff.load(FOLDER)
    noise, latents = (drawn[name].transpose(0, 2, 3, 1) for name in ("noise", "latents"))
    denoise = jaxdiff.guidance.cfg(jaxdiff.denoiser_of(model), GUIDANCE)
    levels = model.levels(STEPS, model.config.sample.spacing)
    cond = jaxdiff.condition(model, prompts=[PROMPT], negative=NEGATIVE)
    z, _ = jaxdiff.sample(None, model.config.sample.sampler(), denoise, model.schedule, levels, noise, cond)
    assert np.abs(z - latents).max() < 3e-5 * np.abs(latents).max()
    decoded = jaxdiff.decode(model, latents)
    np.testing.assert_allclose(np.clip(decoded / 2 + 0.5, 0, 1), drawn["image"], atol=1e-5)


def test_weights_of_words_leave_the_zeros_alone():
    model = jaxdiff.load(FOLDER)
    plain = jaxdiff.condition(model, prompts=[PROMPT])
    same = jaxdiff.condition(model, prompts=[PROMPT], prompt_syntax="weighted")
    np.testing.assert_allclose(plain.cond.context, same.cond.context, atol=1e-6)
    heavy = jaxdiff.condition(model, prompts=["a (red:1.5) seven on blue"], prompt_syntax="weighted").cond.context
    assert heavy.shape == (1, 24 + 256, 32) and not heavy[:, 24:].any() and not heavy[..., 16:].any()
    assert np.abs(heavy - plain.cond.context).max() > 0.01


def test_generate_has_its_defaults():
    model = jaxdiff.load(FOLDER)
    image = jaxdiff.generate(model, PROMPT, negative=NEGATIVE, steps=3, num=1)
    assert image.shape == (1, 16, 16, 3) and model.config.sample.guidance == 7.0
    other = jaxdiff.generate(model, "a seven", negative=NEGATIVE, steps=3, num=1)
    assert (image != other).any()


def test_a_folder_that_is_written_has_the_same_bits(tmp_path):
    jaxdiff.export(jaxdiff.load(FOLDER), tmp_path / "out", layout="diffusers")
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        one, other = (
            safetensors.numpy.load_file(folder / part / f"{stem}.safetensors") for folder in (FOLDER, tmp_path / "out")
        )
        inner = lambda tensors: {name.removeprefix("text_model."): value for name, value in tensors.items()}
        one, other = inner(one), inner(other)
        assert one.keys() == other.keys()
        for key, value in one.items():
            np.testing.assert_allclose(value, other[key], atol=1e-3 if "pos_embed" in key else 0)
    index, found = (json.loads((folder / "model_index.json").read_text()) for folder in (FOLDER, tmp_path / "out"))
    assert {name: index[name] for name in found if name[0] != "_"} == {
        name: value for name, value in found.items() if name[0] != "_"
    }
    assert jaxdiff.load(tmp_path / "out").config.diffusion == jaxdiff.load(FOLDER).config.diffusion


def test_the_published_size():
    """Of the 3 medium, without positions: 2,028,328,000 numbers."""
    net = networks.mmdit(MEDIUM)
    entries = dits.entries(net, param_shapes(Config(net=net, data=Data(image_shape=(128, 128, 16)))))
    assert sum(np.prod(entry.shape) for entry in entries) == 2_028_328_000
    names = {entry.published for entry in entries}
    assert {"time_text_embed.text_embedder.linear_1.weight", "transformer_blocks.23.attn.to_out.0.weight"} < names


def test_positions_in_a_file_are_those_that_are_computed(copy):
    path = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    np.testing.assert_allclose(tensors["pos_embed.pos_embed"][0], waves_of_places((12, 12), 16, unit=4 / 12), atol=1e-3)
    tensors["pos_embed.pos_embed"] = tensors["pos_embed.pos_embed"][:, ::-1].copy()
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match="is not of sines and cosines"):
        jaxdiff.load(copy)


@pytest.mark.parametrize(
    "part, fields, message",
    [
        ("transformer", {"patch_size": 3}, "patch_size=3 is not supported, only 1, 2, 4, 8"),
        ("transformer", {"qk_norm": "layer_norm"}, "qk_norm='layer_norm' is not supported"),
        ("transformer", {"caption_projection_dim": 17}, "caption_projection_dim=17"),
        ("transformer", {"sample_size": None}, "sample_size=None must be one number"),
        ("transformer", {"pooled_projection_dim": 23}, "its pooled_projection_dim=23"),
        ("transformer", {"joint_attention_dim": 15}, "joint_attention_dim=15"),
        ("transformer", {"_class_name": "FluxTransformer2DModel"}, "must be SD3Transformer2DModel"),
        ("scheduler", {"use_dynamic_shifting": True}, "use_dynamic_shifting=True is not supported"),
        ("scheduler", {"shift": 0.0}, "shift=0.0 must be above 0"),
        ("scheduler", {"num_train_timesteps": 500}, "num_train_timesteps=500 is not supported, only 1000"),
        ("vae", {"latent_channels": 4}, "latent_channels=4 must be 6"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(copy, capsys, part, fields, message):
    path = copy / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    changed(path, **fields)
    assert message in fails(capsys, "sample", copy, "a", "--out", copy.parent / "out.png")


def test_schedulers_of_other_processes_are_refused(copy):
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    with pytest.raises(ValueError, match="the class DDIMScheduler is of no StableDiffusion3Pipeline"):
        jaxdiff.load(copy)
    flow = schedulers.process({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    assert flow.diffusion.shift == 1.0 and flow.diffusion.predict == "flow"


def test_training_is_refused_and_so_are_edits_of_its_attention(copy, capsys):
    train = fails(capsys, "train", "captioned_lora", "--base", copy, "--run-dir", copy.parent / "run")
    assert "networks of kind mmdit take texts as context and as vector, which trainings do not have yet" in train
    Image.fromarray(np.full([16, 16, 3], 90, np.uint8)).save(copy.parent / "in.png")
    edit = ["edit", copy, "--image", copy.parent / "in.png", "--prompt", "a red one", "--out", copy.parent / "out.png"]
    direct = [*edit, "--source", "a red seven", "--method", "direct"]
    assert "joint attention of image and text has no cross-attention" in fails(capsys, *direct)
    cli.main([*map(str, edit), "--method", "sdedit", "--steps", "2"])
    assert (copy.parent / "out.png").exists()


def test_loras_of_others_are_refused_as_not_read_yet(tmp_path):
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {
        f"{name}.lora_A.weight": np.ones((2, 16), np.float32),
        f"{name}.lora_B.weight": np.ones((16, 2), np.float32),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "theirs.safetensors")
    with pytest.raises(ValueError, match="of networks of kind 'mmdit' are not read yet"):
        jaxdiff.with_adapters(jaxdiff.load(FOLDER), str(tmp_path / "theirs.safetensors"))


def test_what_the_pipeline_cannot_say_is_not_written(tmp_path):
    model = jaxdiff.load(FOLDER)
    for change, message in (
        ({"latent": dataclasses.replace(model.config.latent, zero_tokens=77)}, "reads texts otherwise"),
        ({"diffusion": dataclasses.replace(model.config.diffusion, time="level")}, "rectified flow of 1000 levels"),
    ):
        other = model.replace(config=dataclasses.replace(model.config, **change))
        with pytest.raises(ValueError, match=message):
            jaxdiff.export(other, tmp_path / "out", layout="diffusers")
    assert not (tmp_path / "out").exists()
