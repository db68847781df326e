"""IP-Adapters: what diffusers draws by a picture and a text, and what is refused."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import fails
from PIL import Image

import jaxdiff
from jaxdiff import cli
from jaxdiff import model as models
from jaxdiff.pipeline import ImagePrompt, conditions

GOLDEN = Path(__file__).parents[1] / "golden"
BASE, FOLDER = GOLDEN / "pipelines" / "stable_diffusion_1", GOLDEN / "ip_adapter"
PROMPT, NEGATIVE, STEPS, GUIDANCE, SCALE = "a red seven on blue", "a small one", 4, 7.5, 0.6  # of make_ip_adapter.py

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def model():
    return models.with_ip_adapter(jaxdiff.load(BASE), str(FOLDER / "ip.safetensors"), str(FOLDER / "image_encoder"))


def test_what_is_drawn_by_a_picture_is_what_diffusers_draws(model):
    with np.load(FOLDER / "drawn.npz") as file:
        drawn = {name: x.transpose(0, 2, 3, 1) if x.ndim == 4 else x for name, x in dict(file).items()}
    reader = model.submodels["image_encoder"]
    vision = reader.config.net.vision
    pictures = 2 * (drawn["pixels"] * np.array(vision.std, np.float32) + np.array(vision.mean, np.float32)) - 1
    embedding = jax.jit(reader.config.make_net().apply)({"params": reader.params}, pictures)
    np.testing.assert_allclose(embedding, drawn["embedding"], atol=1e-5)
    texts = conditions.encode(model, [PROMPT], NEGATIVE)._replace(pictures=embedding, picture_scale=SCALE)
    cond = conditions.rows(model, texts, None, None, np.arange(1))
    sample = model.config.sample
    denoise = jaxdiff.guidance.cfg(jaxdiff.denoiser_of(model), GUIDANCE)
    levels = model.levels(STEPS, sample.spacing)
    z, _ = jaxdiff.sample(None, sample.sampler(), denoise, model.schedule, levels, drawn["noise"], cond)
    assert np.abs(z - drawn["latents"]).max() < 1e-5 * np.abs(drawn["latents"]).max()


def test_a_picture_counts_by_its_weight_and_none_changes_nothing(model):
    pictures = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3), np.uint8)
    x = model.noise(jax.random.key(0), 1)

    def predicted(model, prompt=None):
        cond = jaxdiff.condition(model, [PROMPT], image_prompt=prompt).cond
        return np.asarray(jaxdiff.call(jaxdiff.denoiser_of(model), x, 500, cond).x0)

    plain = predicted(jaxdiff.load(BASE))
    np.testing.assert_allclose(predicted(model), plain, atol=1e-5)
    np.testing.assert_allclose(predicted(model, ImagePrompt(pictures, 0.0)), plain, atol=1e-5)
    assert np.abs(predicted(model, ImagePrompt(pictures)) - plain).max() > 1e-3


def test_the_command_line_draws_by_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save("in.png")
    asked = [str(BASE), PROMPT, "--ip-adapter", str(FOLDER / "ip.safetensors"), "--steps", "2", "--out", "out.png"]
    encoder = ["--image-encoder", str(FOLDER / "image_encoder")]
    cli.main(["sample", *asked, *encoder, "--image-prompt", "in.png", "--image-prompt-scale", "0.5"])
    assert Path("out.png").exists()
    capsys.readouterr()
    assert "--ip-adapter, --image-encoder and --image-prompt go together" in fails(capsys, "sample", *asked)
    assert "is for models with an IP-Adapter" in fails(capsys, "sample", BASE, PROMPT, "--image-prompt", "in.png")
    assert "give a picture, or leave it out" in fails(capsys, "sample", BASE, PROMPT, "--image-prompt-scale", "2")
    tensors = safetensors.numpy.load_file(FOLDER / "ip.safetensors")
    shutil.copytree(FOLDER, "wrong")
    for change, message in (
        ({"image_proj.proj.weight": None}, "is no IP-Adapter with a linear projection"),
        ({"ip_adapter.1.to_k_ip.weight": None}, "ip_adapter.1.to_k_ip.weight is missing"),
        ({"ip_adapter.9.to_k_ip.weight": np.zeros((8, 8))}, "ip_adapter.9.to_k_ip.weight is not of this network"),
        ({"image_proj.proj.weight": np.zeros((32, 5))}, "reads embeddings of 5 numbers"),
    ):
        changed = {name: value for name, value in (tensors | change).items() if value is not None}
        safetensors.numpy.save_file(changed, "wrong/ip.safetensors")
        given = [str(BASE), PROMPT, "--ip-adapter", "wrong/ip.safetensors", *encoder, "--image-prompt", "in.png"]
        assert message in fails(capsys, "sample", *given)
