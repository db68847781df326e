"""Models and adapters in the layouts of others: what is written is read as the same, bit for bit."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict
from helpers import fails

import jaxdiff
from jaxdiff import cli
from jaxdiff import model as models
from jaxdiff.adapt import control, lora
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.config import Config, Latent, Sample
from jaxdiff.model.interop import mapping, published, schedulers
from jaxdiff.model.interop.ldm_names import unet_place
from jaxdiff.nets.controlnet import ControlConfig
from jaxdiff.samplers import SAMPLERS
from jaxdiff.schedules import SCHEDULES
from jaxdiff.timesteps import SPACINGS

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
    pndm = Config(sample=Sample(SAMPLERS["pndm"](), spacing=SPACINGS["leading"](offset=1, end=1), clip=False))
    snr = dataclasses.replace(pndm.diffusion, zero_snr=True, predict="v")
    assert published.scheduler(pndm)["_class_name"] == "PNDMScheduler"
    written = published.scheduler(dataclasses.replace(pndm, diffusion=snr))
    assert (written["_class_name"], written["rescale_betas_zero_snr"]) == ("DDIMScheduler", True)
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


def test_scales_of_one_network_are_not_those_of_another(model, tmp_path):
    """Ranks differ in the U-Net, so that its scales stand in the matrices; those of the text encoder in the header."""
    mixed = small_lora(model.params, 4, alpha=2.0)
    path = next(iter(mixed.factors))
    wider = lora.Factors(*(np.concatenate([x, x], axis) for x, axis in zip(mixed.factors[path], (1, 0))))
    loras = {
        "unet": mixed._replace(factors=mixed.factors | {path: wider}),
        "text": small_lora(model.submodels["text_encoder"].params, 4, targets=lora.TEXT_ATTENTION, alpha=2.0),
    }
    models.export_adapter(Adapter({}, loras), tmp_path / "a.safetensors", model, "peft", "float32")
    found = models.load_adapter(str(tmp_path / "a.safetensors"), model).loras
    update = lambda of, path: of.scale[path] * (of.factors[path].down @ of.factors[path].up)
    for net, one in loras.items():
        for path in one.factors:
            np.testing.assert_allclose(update(found[net], path), update(one, path), rtol=1e-5, atol=1e-6)


def test_each_of_several_tokens_has_a_file(model, tmp_path):
    adapter = Adapter({}, new_tokens={"<one>": np.ones(8), "<two>": np.zeros(8)})
    models.export_adapter(adapter, tmp_path / "t.safetensors", model, "peft")
    for token, row in adapter.new_tokens.items():
        found = models.load_adapter(str(tmp_path / f"t_{token.strip('<>')}.safetensors"), model)
        np.testing.assert_array_equal(found.new_tokens[token], row)


def test_a_controlnet_that_is_written_is_the_one_that_was_trained(model, tmp_path):
    config = ControlConfig(model.config.net, embedding=(4, 8))
    adapter = Adapter({"embedding": [4, 8]}, control=control.init(jax.random.key(0), config, model.params))
    models.export_adapter(adapter, tmp_path / "edges", model, "diffusers", "float32")
    found = models.load_adapter(str(tmp_path / "edges"), model)
    jax.tree.map(np.testing.assert_array_equal, found.control, adapter.control)
    assert found.metadata["embedding"] == [4, 8]
    single = {f"control_model.{LDM.get(name, name)}": value for name, value in ldm_tensors(config, adapter).items()}
    safetensors.numpy.save_file(single, tmp_path / "edges.safetensors")
    found = models.load_adapter(str(tmp_path / "edges.safetensors"), model)
    jax.tree.map(np.testing.assert_array_equal, found.control, adapter.control)
    assert found.metadata["embedding"] == [4, 8]
    first = single.pop("control_model.input_hint_block.0.bias")
    safetensors.numpy.save_file(single | {"control_model.more": first}, tmp_path / "edges.safetensors")
    with pytest.raises(ValueError, match=r"control_model.more is no tensor of a ControlNet of this base"):
        models.load_adapter(str(tmp_path / "edges.safetensors"), model)


# Names of the authors' files, counted by hand for two resolutions of one block each, and an embedding of two sizes.
LDM = {
    "controlnet_cond_embedding.conv_in": "input_hint_block.0", "controlnet_cond_embedding.blocks.0": "input_hint_block.2",
    "controlnet_cond_embedding.blocks.1": "input_hint_block.4", "controlnet_cond_embedding.conv_out": "input_hint_block.6",
    "controlnet_mid_block": "middle_block_out.0", **{f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(4)},
}  # fmt: skip


def ldm_tensors(config, adapter):
    """Tensors of a ControlNet by the names of its authors."""
    flat, found = flatten_dict(adapter.control, sep="/"), {}
    for entry in mapping.entries(adapter.control):
        module, _, kind = entry.published.rpartition(".")
        name = f"{LDM[module]}.{kind}" if module in LDM else unet_place(entry.published, config.unet).name
        found[name] = np.ascontiguousarray(mapping.LAYOUTS[entry.layout].to_published(np.asarray(flat[entry.ours])))
    return found


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
    with pytest.raises(ValueError, match=r"the weights .* are not finite as float16: choose `dtype`=float32"):
        jaxdiff.export(huge, tmp_path / "huge", layout="diffusers")
    with pytest.raises(ValueError, match="unknown layout 'diffuser': did you mean 'diffusers'"):
        jaxdiff.export(model, tmp_path / "x", layout="diffuser")
    assert [*tmp_path.iterdir()] == []  # nothing half-written
