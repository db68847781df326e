"""Models and adapters in the layouts of others: what is written is read as the same, bit for bit."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from helpers import fails

import jaxdiff
from jaxdiff import cli
from jaxdiff import model as models
from jaxdiff.adapt import control, lora
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.config import Config, Latent, Sample
from jaxdiff.model.interop import published, schedulers
from jaxdiff.nets.controlnet import ControlConfig
from jaxdiff.samplers import SAMPLERS
from jaxdiff.schedules import SCHEDULES

GOLDEN = Path(__file__).parents[1] / "golden"
PIPELINES = sorted((GOLDEN / "pipelines").iterdir(), key=lambda path: path.name)
FIRST = GOLDEN / "pipelines" / "stable_diffusion_1"
SCHEDULERS = json.loads(str(np.load(GOLDEN / "schedulers.npz")["configs"]))

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def model():
    return jaxdiff.load(FIRST)


def same(one, other):
    """Whether two models are the same but for their names."""
    named = lambda model: model.replace(
        origin=one.origin,
        config=dataclasses.replace(model.config, name=""),
        submodels={name: named(submodel) for name, submodel in model.submodels.items()},
    )
    assert jax.tree.structure(named(one)) == jax.tree.structure(named(other))
    jax.tree.map(np.testing.assert_array_equal, named(one), named(other))


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_a_folder_that_is_written_is_the_model_that_was_read(path, tmp_path):
    model = jaxdiff.load(path)
    jaxdiff.export(model, tmp_path / path.name, layout="diffusers")  # float16, as it was published
    same(model, jaxdiff.load(tmp_path / path.name))
    for file in sorted(path.rglob("*.safetensors")):  # names, and bits
        ours = tmp_path / path.name / file.relative_to(path)
        with safetensors.safe_open(file, "numpy") as one, safetensors.safe_open(ours, "numpy") as other:
            names = {name.removeprefix("text_model.") for name in one.keys()}
            assert names == {name.removeprefix("text_model.") for name in other.keys()}
            assert other.metadata() == {"format": "pt"}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_scheduler_that_is_written_samples_as_the_one_that_was_read(name):
    made = schedulers.process(SCHEDULERS[name])
    sample = Sample(made.sampler, 50, made.spacing, clip=made.clip, compat=made.compat)
    config = Config(diffusion=made.diffusion, sample=sample, latent=Latent())
    found = schedulers.process(published.scheduler(config))
    assert found._replace(steps=made.steps) == made


def test_samplers_of_ours_alone_become_ddim_and_schedules_are_refused():
    config = Config(sample=Sample(SAMPLERS["heun"]()))
    written = published.scheduler(config)
    assert (written["_class_name"], written["timestep_spacing"]) == ("DDIMScheduler", "trailing")
    diffusion = dataclasses.replace(config.diffusion, schedule=SCHEDULES["sigmoid"]())
    with pytest.raises(ValueError, match=r"sigmoid.* is none that diffusers knows by name"):
        published.scheduler(dataclasses.replace(config, diffusion=diffusion))


def small_lora(params, rank=2, **options):
    fresh = lora.init(jax.random.key(0), params, rank, **options)
    up = lambda path, both: both._replace(up=jax.random.normal(jax.random.key(len(path)), both.up.shape))
    return fresh._replace(factors={path: up(path, both) for path, both in fresh.factors.items()})


@pytest.mark.parametrize("layout", ["peft", "kohya"])
@pytest.mark.parametrize("alpha", [2.0, 3.0], ids=["alpha is rank", "another alpha"])
def test_a_lora_that_is_written_is_the_one_that_was_trained(model, layout, alpha, tmp_path):
    text = model.submodels["text_encoder"].params
    loras = {
        "unet": small_lora(model.params, alpha=alpha, targets=lora.pattern("attention+convolutions")),
        "text": small_lora(text, alpha=alpha, targets=lora.TEXT_ATTENTION),
    }
    adapter = Adapter({"base": "x"}, loras, {"<star>": np.arange(8.0)})
    models.export_adapter(adapter, tmp_path / "theirs.safetensors", model, layout, "float32")
    found = models.load_adapter(str(tmp_path / "theirs.safetensors"), model)
    assert found.loras.keys() == loras.keys()
    for net, one in loras.items():
        assert found.loras[net].factors.keys() == one.factors.keys()
        jax.tree.map(np.testing.assert_array_equal, found.loras[net], one)
    token = models.load_adapter(str(tmp_path / "theirs_star.safetensors"), model)
    np.testing.assert_array_equal(token.new_tokens["<star>"], np.arange(8.0))


def test_a_controlnet_that_is_written_is_the_one_that_was_trained(model, tmp_path):
    config = ControlConfig(model.config.net, embedding=(4, 8))
    adapter = Adapter({"embedding": [4, 8]}, control=control.init(jax.random.key(0), config, model.params))
    models.export_adapter(adapter, tmp_path / "edges", model, "diffusers", "float32")
    found = models.load_adapter(str(tmp_path / "edges"), model)
    jax.tree.map(np.testing.assert_array_equal, found.control, adapter.control)
    assert found.metadata["embedding"] == [4, 8]


def test_the_command_line_converts_there_and_back(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["convert", str(FIRST), "ours.safetensors"])
    cli.main(["convert", "ours.safetensors", "theirs"])
    same(model, jaxdiff.load("theirs"))
    adapter = Adapter({"base": "ours.safetensors", "name": "small"}, {"unet": small_lora(model.params)})
    models.write_adapter(tmp_path / "small.safetensors", adapter, "float32")
    cli.main(["convert", "small.safetensors", "kohya.safetensors", "--layout", "kohya", "--dtype", "float32"])
    cli.main(["convert", "kohya.safetensors", "again.safetensors", "--layout", "jaxdiff", "--base", "theirs"])
    assert "written      again.safetensors" in capsys.readouterr().out
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        models.load_adapter("./again.safetensors").loras,
        adapter.loras,
    )
    assert "theirs is there already" in fails(capsys, "convert", "ours.safetensors", "theirs")
    assert "needs what to convert and where to" in fails(capsys, "convert", "ours.safetensors")
    assert "unknown layout of a model 'kohya'" in fails(
        capsys, "convert", "ours.safetensors", "b.safetensors", "--layout", "kohya"
    )
    assert not Path("b.safetensors").exists()


def test_what_others_cannot_read_is_refused_by_name(model, tmp_path):
    digits = jaxdiff.load("digits")
    with pytest.raises(ValueError, match="patch=2 is nothing that a UNet2DModel has"):
        jaxdiff.export(digits, tmp_path / "digits", layout="diffusers")
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    with pytest.raises(ValueError, match="were rounded to bfloat16 when they were loaded"):
        jaxdiff.export(low, tmp_path / "low", layout="diffusers")
    huge = model.replace(params=jax.tree.map(lambda leaf: leaf + 1e6, model.params))
    with pytest.raises(ValueError, match="some weights are not finite as float16: choose `dtype`=float32"):
        jaxdiff.export(huge, tmp_path / "huge", layout="diffusers")
    with pytest.raises(ValueError, match="unknown layout 'diffuser': did you mean 'diffusers'"):
        jaxdiff.export(model, tmp_path / "x", layout="diffuser")
    assert [*tmp_path.iterdir()] == []  # nothing half-written
