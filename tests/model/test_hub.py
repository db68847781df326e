"""Models of the Hugging Face Hub: from its cache, without a network, and only the files that are read."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import fails

import jaxdiff
from jaxdiff import model as models
from jaxdiff.model.interop import hub

FIRST = Path(__file__).parents[1] / "golden" / "pipelines" / "stable_diffusion_1"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache as huggingface_hub lays it out, with one repository."""
    from huggingface_hub import constants

    repo = tmp_path / "models--org--small"
    shutil.copytree(FIRST, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return repo / "snapshots" / COMMIT


def test_a_model_of_the_cache_is_loaded_by_its_name(cache):
    model = jaxdiff.load("hf:org/small")
    assert (model.config.name, model.origin.name) == ("small", "hf:org/small")
    assert models.load_config("hf:org/small") == model.config
    jax.tree.map(np.testing.assert_array_equal, model.params, jaxdiff.load(FIRST).params)


def test_names_that_are_not_there_or_are_no_names(cache, capsys):
    assert "hf:org/other is not in the cache" in fails(capsys, "sample", "hf:org/other", "a seven")
    assert "hf:other must be of the form hf:ORG/NAME" in fails(capsys, "sample", "hf:other", "a seven")
    assert "only .safetensors files are read" in fails(capsys, "sample", "hf:org/small:unet/model.bin", "a seven")


def test_of_several_weights_the_ones_that_are_read_are_fetched():
    network = "diffusion_pytorch_model"
    files = [
        "README.md", "model_index.json", "scheduler/scheduler_config.json", "sd_xl_base.safetensors", "x/y/config.json",
        "tokenizer/vocab.json", "tokenizer/merges.txt", "text_encoder/config.json", "text_encoder/model.fp16.safetensors",
        "text_encoder/flax_model.msgpack", "unet/config.json", f"unet/{network}.safetensors.index.json",
        *(f"unet/{network}-0000{i}-of-00002.safetensors" for i in (1, 2)),
        *(f"unet/{network}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)),
        "safety_checker/model.safetensors", f"vae/{network}.safetensors", f"vae/{network}.fp16.safetensors",
    ]  # fmt: skip
    assert hub.read_of(files) == [
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors", "tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json",
        f"unet/{network}-00001-of-00002.safetensors", f"unet/{network}-00002-of-00002.safetensors",
        f"unet/{network}.safetensors.index.json", f"vae/{network}.safetensors",
    ]  # fmt: skip
    assert hub.read_of(["config.json", f"{network}.safetensors", f"{network}.bin"]) == [
        "config.json",
        f"{network}.safetensors",
    ]
    assert hub.read_of(["unet/config.json", "unet/diffusion_flax_model.msgpack", "merges.txt"]) == [
        "merges.txt",
        "unet/config.json",
        "unet/diffusion_flax_model.msgpack",
    ]


def test_a_repository_with_one_lora_is_that_file(cache, tmp_path):
    repo = tmp_path / "models--org--lora"
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "snapshots" / COMMIT / "style.safetensors").write_bytes(b"")
    assert Path(hub.local("hf:org/lora")).name == "style.safetensors"
    assert Path(hub.local("hf:org/lora:style.safetensors")).name == "style.safetensors"
    assert Path(hub.local("hf:org/small")).name == COMMIT
