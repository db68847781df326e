"""Published models: every tensor is accounted for, they compute what diffusers computes, and errors name the file."""

import json
import math
import re
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization, traverse_util
from helpers import fails, load_golden
from PIL import Image

import jaxdiff
from jaxdiff import cli
from jaxdiff.adapt import control
from jaxdiff.config import Config, Data
from jaxdiff.model import Model, denoiser_of
from jaxdiff.model.interop import mapping, networks, schedulers, weights
from jaxdiff.model.params import param_shapes
from jaxdiff.nets.controlnet import ControlConfig
from jaxdiff.pipeline import conditions, images
from jaxdiff.types import Guided

GOLDEN = Path(__file__).parents[1] / "golden"
PIPELINES = GOLDEN / "pipelines"
NAMES = sorted(path.name for path in PIPELINES.iterdir())
FIRST = PIPELINES / "stable_diffusion_1"
PROMPT, NEGATIVE, STEPS, GUIDANCE = "a red seven on blue", "a small one", 6, 7.5  # of tests/golden/make_pipelines.py
FULL_SIZE = {name: one for name, one in json.loads((GOLDEN / "published_configs.json").read_text()).items() if name}

pytestmark = pytest.mark.usefixtures("one_device")


def specification(config):
    if "architectures" in config:
        return networks.text_transformer(config, 49407)
    if config["_class_name"] == "ControlNetModel":
        return networks.controlnet(config, networks.unet(FULL_SIZE["stable-diffusion-v1-5/unet"]["config"]))
    return networks.autoencoder(config) if config["_class_name"] == "AutoencoderKL" else networks.unet(config)


def entries_of(net):
    if isinstance(net, ControlConfig):
        return mapping.entries(control.shapes(net, 4))
    channels = getattr(net, "out_channels", getattr(net, "image_channels", 3))
    return mapping.entries(param_shapes(Config(net=net, data=Data(image_shape=(256, 256, channels)))))


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_models_have_the_published_number_of_parameters(name):
    found = entries_of(specification(FULL_SIZE[name]["config"]))
    assert sum(math.prod(entry.shape) for entry in found) == FULL_SIZE[name]["parameters"]
    assert len({entry.published for entry in found}) == len(found)


COMMON = {
    "in_channels": 2, "out_channels": 2, "block_out_channels": [8, 16], "sample_size": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1, "norm_num_groups": 4,
}  # fmt: skip
NO_CONTEXT = {
    "ddpm": {"attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
             "norm_eps": 1e-6},
    "scale_shift": {"attention_head_dim": 4, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
}  # fmt: skip


@pytest.mark.parametrize("golden", NO_CONTEXT)
def test_a_u_net_without_context_is_read_by_its_config(golden):
    """The arrays of tests/golden/make_unet.py, with the config that they were made by and the defaults of the class."""
    arrays, _ = load_golden(f"unet_{golden}")
    published = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
    net = networks.unet(COMMON | NO_CONTEXT[golden] | {"_class_name": "UNet2DModel"})
    tensors = weights.Tensors({name: value.shape for name, value in published.items()}, published.get)
    params = weights.read(entries_of(net), tensors, golden)
    x = arrays["x"].transpose(0, 2, 3, 1)
    found = jax.jit(net.make().apply)({"params": params}, x, arrays["t"])
    np.testing.assert_allclose(found, arrays["y"].transpose(0, 2, 3, 1), atol=2e-5)


def flat(folder, scheduler):
    """A DDPM as Google's are published, all in one folder, of the arrays of tests/golden/make_unet.py."""
    arrays, _ = load_golden("unet_ddpm")
    published = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
    fields = COMMON | NO_CONTEXT["ddpm"] | {"_class_name": "UNet2DModel"}
    files = {"model_index": {"_class_name": "DDPMPipeline"}, "config": fields, "scheduler_config": scheduler}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    path = folder / "diffusion_pytorch_model.safetensors"
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in published.items()}, path)
    return arrays


def test_a_ddpm_in_one_folder_is_drawn_from(tmp_path):
    arrays = flat(tmp_path, {"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "clip_sample": True})
    model = jaxdiff.load(tmp_path)
    x = arrays["x"].transpose(0, 2, 3, 1)
    found = jax.jit(model.apply)(model.weights, x, arrays["t"] + 1)[0]
    np.testing.assert_allclose(found, arrays["y"].transpose(0, 2, 3, 1), atol=2e-5)
    sample = model.config.sample
    assert (sample.steps, sample.clip, sample.sampler.variance) == (1000, True, "beta")
    assert sample.batch_size % 8 == 0  # devices, of which each has a part
    assert jaxdiff.generate(model, steps=4, num=3).shape == (3, 8, 8, 2)
    changed(tmp_path / "config.json", _class_name="UNet2DConditionModel")
    with pytest.raises(ValueError, match=r"config.json: the class UNet2DConditionModel must be UNet2DModel in a DDPM"):
        jaxdiff.load(tmp_path)


CONTROLNET = {
    "_class_name": "ControlNetModel", "in_channels": 2, "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "layers_per_block": 1, "norm_num_groups": 4,
    "cross_attention_dim": 6, "attention_head_dim": 2, "conditioning_embedding_out_channels": [4, 6, 10],
}  # fmt: skip


@pytest.fixture
def controlled(tmp_path):
    """A U-Net and a folder with its ControlNet, of tests/golden/make_controlnet.py, and the arrays of both."""
    unet, params = load_golden("unet_stable_diffusion_1")
    arrays, _ = load_golden("controlnet_stable_diffusion_1")
    shared = {name: value for name, value in CONTROLNET.items() if not name.startswith("conditioning")}
    ups = {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "out_channels": 2}
    net = networks.unet(shared | ups | {"_class_name": "UNet2DConditionModel"})
    model = Model(params=params["params"], config=Config(net=net, data=Data(image_shape=(8, 8, 2))))
    published = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
    (tmp_path / "canny").mkdir()
    (tmp_path / "canny" / "config.json").write_text(json.dumps(CONTROLNET))
    path = tmp_path / "canny" / "diffusion_pytorch_model.fp16.safetensors"
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in published.items()}, path)
    return model, tmp_path / "canny", unet, arrays


def test_a_controlnet_is_read_from_its_folder_and_controls(controlled):
    model, path, unet, arrays = controlled
    model = jaxdiff.with_adapters(model, controlnet=str(path))
    picture, x = (of.transpose(0, 2, 3, 1) for of in (arrays["picture"], unet["x"]))
    cond = jaxdiff.Cond(context=unet["context"], control=picture)
    found, _ = jax.jit(model.apply)(model.weights, x, unet["t"] + 1, cond)  # at levels, one above diffusers' times
    np.testing.assert_allclose(found, arrays["full/y"].transpose(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"attention_head_dim": 4}, r"is of another network: num_heads is \(4, 4\) in it, not \(2, 2\)"),
        ({"block_out_channels": [8, 8]}, r"channels is \(8, 8\) in it, not \(8, 16\)"),
        ({"controlnet_conditioning_channel_order": "bgr"}, "channel_order='bgr' is not supported, only 'rgb'"),
        (
            {"conditioning_embedding_out_channels": [4, 6]},
            r"conv_out.weight is \[8, 10, 3, 3\] and must be \[8, 6, 3, 3\], and 4 ",
        ),
    ],
)
def test_a_controlnet_of_another_network_is_refused(controlled, fields, message):
    model, path, *_ = controlled
    changed(path / "config.json", **fields)
    with pytest.raises(ValueError, match=message):
        jaxdiff.with_adapters(model, controlnet=str(path))


@pytest.fixture(scope="module", params=NAMES)
def pipeline(request):
    """A model from a folder that diffusers has saved, and what diffusers drew with it."""
    with np.load(PIPELINES / request.param / "drawn.npz") as file:
        drawn = dict(file)
    drawn |= {name: of.transpose(0, 2, 3, 1) for name, of in drawn.items() if of.ndim == 4}
    return jaxdiff.load(PIPELINES / request.param), drawn


def test_texts_are_read_as_transformers_reads_them(pipeline):
    model, drawn = pipeline
    np.testing.assert_array_equal(model.text_encoder.tokenizer([PROMPT]), drawn["tokens"])
    read = model.text_encoder.read([PROMPT])
    np.testing.assert_allclose(read.tokens, drawn["context"], atol=1e-5)
    if "vector" in drawn:
        np.testing.assert_allclose(read.pooled, drawn["vector"], atol=1e-5)


def test_what_is_drawn_is_what_diffusers_draws_with_the_scheduler_s_own_file(pipeline):
    model, drawn = pipeline
    sample, negative = model.config.sample, "" if "vector" in drawn else NEGATIVE
    scale = {"guidance": GUIDANCE} if model.config.net.guidance_dim else {}
    cond = jaxdiff.condition(model, prompts=[PROMPT], negative=negative, **scale)
    if "mask" in drawn:
        picture = conditions.masked_picture(model, 255 * drawn["picture"][0], drawn["mask"][0] < 0.5)
        cond = Guided(*(one._replace(image=picture) for one in cond))
    denoise = jaxdiff.guidance.cfg(denoiser_of(model), GUIDANCE)
    if model.config.net.guidance_dim:  # a distilled network takes the scale itself
        denoise = jaxdiff.guidance.on_cond(denoiser_of(model))
    levels = model.levels(STEPS, sample.spacing)
    z, _ = jaxdiff.sample(jax.random.key(0), sample.sampler(), denoise, model.schedule, levels, drawn["noise"], cond)
    assert np.abs(z - drawn["latents"]).max() < 1e-5 * np.abs(drawn["latents"]).max()
    decoded = jax.jit(lambda codec, z: codec.decode(z))(model.codec, drawn["latents"])
    np.testing.assert_allclose(decoded, drawn["image"], atol=1e-5)
    image = np.asarray(images.to_uint8(jaxdiff.decode(model, z)))
    assert np.abs(image.astype(int) - np.round(127.5 + 127.5 * drawn["image"].clip(-1, 1))).max() <= 1


def test_a_folder_is_drawn_from_and_edited_by_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = str(FIRST)
    small = ["--steps", "3"]
    cli.main(["sample", model, PROMPT, *small, "--individual", "--npz", "--out", "drawn.png"])
    drawn = np.load("drawn.npz")["images"]
    assert drawn.shape == (1, 16, 16, 3) and drawn.std() > 0
    Image.fromarray(drawn[0]).save("in.png")
    words = ["--source", PROMPT, "--prompt", "a small seven on blue"]
    for method in (["direct"], ["sdedit", "--strength", "0.5"]):
        asked = words[2:] if method[0] == "sdedit" else words
        cli.main(["edit", model, "--image", "in.png", "--method", *method, *asked, *small])
    cli.main(["export", model, "--out", "ours.safetensors"])
    capsys.readouterr()
    one, other = (jaxdiff.generate(jaxdiff.load(of), PROMPT, steps=3) for of in (model, "ours.safetensors"))
    np.testing.assert_array_equal(one, other)  # the published weights are float16, as those of the file


def test_a_distilled_network_is_edited_at_its_own_scale(tmp_path):
    model = jaxdiff.load(PIPELINES / "latent_consistency")
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    edit = lambda **given: jaxdiff.edit(model, picture, PROMPT, steps=2, **given)
    one, other = (edit(method="sdedit", guidance=scale).image for scale in (1.0, 8.0))
    assert (one != other).any()
    with pytest.raises(ValueError, match="takes `guidance` as a condition: choose `method` sdedit or inpaint"):
        edit(method="direct", source=NEGATIVE)
    with pytest.raises(ValueError, match="takes one `guidance` for all levels: leave out `early`"):
        edit(method="sdedit", early=3.0)


def test_an_autoencoder_and_other_kinds_of_files(tmp_path):
    model = jaxdiff.load(FIRST / "vae")
    assert model.config.role == "autoencoder" and model.image_shape == (16, 16, 3)
    assert jaxdiff.model.load_config(FIRST / "vae") == model.config
    for load in (jaxdiff.load, jaxdiff.model.load_adapter):
        for name, message in (("a.ckpt", "a.ckpt is a pickle"), ("b.gguf", "b.gguf is of a kind that is not read")):
            with pytest.raises(ValueError, match=message):
                load(str(tmp_path / name))


def test_other_dtypes_and_files_hold_the_same_model(tmp_path):
    """bfloat16, several files with an index, a variant, and names that were given up."""
    copy = Path(shutil.copytree(FIRST, tmp_path / "copy"))
    whole = jaxdiff.load(copy)
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
    names, parts = sorted(half), ("diffusion_pytorch_model-00001-of-00002", "diffusion_pytorch_model-00002-of-00002")
    index = {}
    for part, some in zip(parts, (names[::2], names[1::2])):
        safetensors.numpy.save_file({name: half[name] for name in some}, copy / "unet" / f"{part}.safetensors")
        index |= dict.fromkeys(some, f"{part}.safetensors")
    path.unlink()
    (copy / "unet" / f"{path.name}.index.json").write_text(json.dumps({"weight_map": index}))
    vae = copy / "vae" / "diffusion_pytorch_model.safetensors"
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = safetensors.numpy.load_file(vae)
    for new, old in earlier.items():
        renamed = {name.replace(f"attentions.0.{new}", f"attentions.0.{old}"): v for name, v in renamed.items()}
    safetensors.numpy.save_file(renamed, vae.with_suffix(".fp16.safetensors"))
    vae.unlink()
    found = jaxdiff.load(copy)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), found.params, whole.params)
    jax.tree.map(np.testing.assert_array_equal, found.submodels["codec"].params, whole.submodels["codec"].params)
    (copy / "unet" / f"{parts[1]}.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=f"{parts[1]}.safetensors is missing, which .*index.json names"):
        jaxdiff.load(copy)
    with pytest.raises(ValueError, match="`dtype`='int8' must be one of float32, bfloat16, float16"):
        jaxdiff.load(FIRST, dtype="int8")
    low = jaxdiff.load(FIRST, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(low)} == {
        np.dtype("bfloat16")
    } and low.config.net.dtype == "bfloat16"


def changed(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def pickled(copy):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


def without(copy, name):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    del tensors[name]
    safetensors.numpy.save_file(tensors | {"more.weight": np.zeros(3)}, path)


def indexed(copy, content):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    path.unlink()
    path.with_name(f"{path.name}.index.json").write_text(json.dumps(content))


def integers(copy):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(tensors | {"conv_in.bias": np.zeros(8, np.int8)}, path)


def twice(copy):
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    query = next(name for name in tensors if name.endswith("to_q.weight"))
    safetensors.numpy.save_file(tensors | {query.replace("to_q", "query"): tensors[query].copy()}, path)


def cut_short(copy):
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def lying(copy):
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:])


UNET, VAE, SCHEDULER = "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"
BAD = {
    "unknown pipeline": (
        lambda copy: changed(copy / "model_index.json", _class_name="KandinskyPipeline"),
        "model_index.json: the class KandinskyPipeline is not supported, only StableDiffusionPipeline",
    ),
    "part": (lambda copy: shutil.rmtree(copy / "vae"), "has no vae, which a StableDiffusionPipeline has"),
    "no config": (lambda copy: (copy / VAE).unlink(), f"{VAE} is missing"),
    "no json": (lambda copy: (copy / VAE).write_text("{"), f"{VAE} is not JSON"),
    "field": (
        lambda copy: changed(copy / UNET, dual_cross_attention=True),
        f"{UNET}: dual_cross_attention=True is not",
    ),
    "unknown field": (lambda copy: changed(copy / UNET, novelty=3), f"{UNET}: the field novelty=3 is not known"),
    "block": (
        lambda copy: changed(copy / UNET, down_block_types=["CrossAttnDownBlock2D", "KDownBlock2D"]),
        f"{UNET}: the block KDownBlock2D is not supported, only DownBlock2D and CrossAttnDownBlock2D",
    ),
    "one way": (
        lambda copy: changed(copy / UNET, up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"]),
        f"{UNET}: down_block_types and up_block_types have attention at different resolutions",
    ),
    "scheduler": (
        lambda copy: changed(copy / SCHEDULER, _class_name="HeunDiscreteScheduler"),
        f"{SCHEDULER}: the class HeunDiscreteScheduler is not supported, only DDIMScheduler",
    ),
    "betas": (lambda copy: changed(copy / SCHEDULER, trained_betas=[0.1]), r"trained_betas=\(0.1,\) is not supported"),
    "spacing": (
        lambda copy: changed(copy / SCHEDULER, timestep_spacing="linspace"),
        "timestep_spacing='linspace' is not",
    ),
    "latents": (lambda copy: changed(copy / VAE, latent_channels=3), "latent_channels=3 must be 4, those of the U-Net"),
    "pickle": (
        pickled,
        "unet/diffusion_pytorch_model.bin is a pickle, which can run code, and is not read: convert it",
    ),
    "tensor": (
        lambda copy: without(copy, "conv_in.bias"),
        "unet: conv_in.bias is missing, and 1 more do not fit",
    ),
    "shape": (
        lambda copy: changed(copy / "text_encoder/config.json", vocab_size=600),
        r"text_encoder: embeddings.token_embedding.weight is \[530, 8\] and must be \[600, 8\]",
    ),
    "type": (lambda copy: changed(copy / SCHEDULER, beta_start="x"), "beta_start='x' must be of the type of 0.0001"),
    "types": (lambda copy: changed(copy / UNET, layers_per_block="2"), "layers_per_block='2' must be of the type of 2"),
    "no blocks": (
        lambda copy: changed(copy / UNET, down_block_types=None),
        "down_block_types=None must be of the type",
    ),
    "list": (lambda copy: changed(copy / VAE, layers_per_block=[1, 1]), r"layers_per_block=\[1, 1\] must be one value"),
    "half": (lambda copy: changed(copy / UNET, block_out_channels=[8.5, 16]), "must be of the type of"),
    "class": (lambda copy: changed(copy / UNET, _class_name=["UNet2DModel"]), "must be a name"),
    "levels": (lambda copy: changed(copy / SCHEDULER, num_train_timesteps=0), f"{SCHEDULER}: --num-levels=0 must be"),
    "size": (lambda copy: changed(copy / UNET, sample_size="8"), "sample_size='8' must be a number of pixels, or two"),
    "quant": (
        lambda copy: changed(copy / VAE, use_quant_conv=False),
        "use_quant_conv=False and use_post_quant_conv=True",
    ),
    "mean": (lambda copy: changed(copy / VAE, latents_mean=[0.5]), "latents_mean has 1 numbers, and must have 4"),
    "norm": (
        lambda copy: changed(copy / "text_encoder/config.json", layer_norm_eps=0.1),
        "layer_norm_eps=0.1 is not supported, only 1e-05",
    ),
    "activation": (
        lambda copy: changed(copy / "text_encoder/config.json", hidden_act="gelu_new"),
        "hidden_act='gelu_new' is not supported, only quick_gelu, gelu",
    ),
    "groups": (
        lambda copy: changed(copy / UNET, norm_num_groups=5),
        f"{UNET}: channels=8 cannot be divided into groups=5",
    ),
    "context": (
        lambda copy: changed(copy / "text_encoder/config.json", hidden_size=16, intermediate_size=64),
        "hidden_size=16 must be 8, the U-Net's cross_attention_dim",
    ),
    "index": (
        lambda copy: indexed(copy, {"weight_map": 3}),
        "index.json: weight_map must give the file of each tensor",
    ),
    "index elsewhere": (
        lambda copy: indexed(copy, {"weight_map": {"a": "../x"}}),
        "index.json: weight_map must give the file of each tensor",
    ),
    "dtype": (
        integers,
        "unet/diffusion_pytorch_model.safetensors: conv_in.bias is I8, and only F32, F16, BF16, F64 are",
    ),
    "twice": (twice, "query.weight and .*to_q.weight are the same tensor|to_q.weight and .*query.weight are the same"),
    "cut short": (cut_short, "vae/diffusion_pytorch_model.safetensors is not a file of weights"),
    "lying": (lying, "vae/diffusion_pytorch_model.safetensors is not a file of weights"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_read_is_named_in_one_line(bad, tmp_path, capsys):
    copy, (spoil, message) = Path(shutil.copytree(FIRST, tmp_path / "copy")), BAD[bad]
    spoil(copy)
    assert re.search(message, fails(capsys, "sample", copy, PROMPT, "--steps", 2))


def test_a_scheduler_s_absent_fields_have_the_defaults_of_its_class():
    plain = schedulers.process({"_class_name": "DDPMScheduler"})
    assert plain.clip and plain.sampler.kind == "ddpm" and plain.diffusion.schedule.beta_end == 0.02
    large = schedulers.process({"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "clip_sample": False})
    assert large.sampler.variance == "beta" and not large.clip
    with pytest.raises(ValueError, match="steps_offset=0 must be at least 1 where set_alpha_to_one=False"):
        schedulers.process({"_class_name": "PNDMScheduler", "skip_prk_steps": True})


def test_weighted_and_long_prompts_by_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    long = "a (red:1.4) seven on blue, " * 6
    cli.main(["sample", str(FIRST), long, "--prompt-syntax", "weighted", "--steps", "2", "--out", "long.png"])
    assert Path("long.png").exists() and "is cut" not in capsys.readouterr().err
    assert "--prompt-syntax=weighted is of prompts" in fails(capsys, "sample", "digits", "--prompt-syntax", "weighted")


def test_a_clip_is_read_from_its_folder(tmp_path):
    """The arrays of tests/golden/make_clip.py, beside a tokenizer; and one that lacks a tower is refused."""
    golden, params = load_golden("clip_gelu")
    published = {k.removeprefix("weights/"): v for k, v in golden.items() if k.startswith("weights/")}
    shutil.copytree(FIRST / "tokenizer", tmp_path / "clip")
    safetensors.numpy.save_file(
        {k: np.asarray(v, order="C") for k, v in published.items()}, tmp_path / "clip" / "model.safetensors"
    )
    tower = {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    tower |= {"hidden_act": "gelu"}
    fields = {
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 6, "logit_scale_init_value": 2.6592,
        "text_config": tower | {"vocab_size": 30, "max_position_embeddings": 7},
        "vision_config": tower | {"image_size": 12, "patch_size": 4},
    }  # fmt: skip
    (tmp_path / "clip" / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"end_token=\d+ must be below vocabulary=30"):  # of another tokenizer
        jaxdiff.load(tmp_path / "clip")
    whole = json.loads((tmp_path / "clip" / "tokenizer.json").read_text())
    words = {"<|startoftext|>": 28, "<|endoftext|>": 29} | {chr(97 + i): i for i in range(14)}
    words |= {f"{chr(97 + i)}</w>": 14 + i for i in range(14)}
    whole["model"] |= {"vocab": words, "merges": []}
    (tmp_path / "clip" / "tokenizer.json").write_text(json.dumps(whole | {"added_tokens": []}))
    model = jaxdiff.load(tmp_path / "clip")
    jax.tree.map(np.testing.assert_array_equal, model.params, params["params"])
    net = model.config.make_net()
    mean, std = (np.array(of, np.float32) for of in (net.config.vision.mean, net.config.vision.std))
    pictures = 2 * (golden["pixels"].transpose(0, 2, 3, 1) * std + mean) - 1
    found = jax.jit(net.apply)({"params": model.params}, golden["tokens"], pictures)
    np.testing.assert_allclose(found[0], golden["text_embeds"], atol=1e-5)
    np.testing.assert_allclose(found[1], golden["image_embeds"], atol=1e-5)
    changed(tmp_path / "clip" / "config.json", vision_config=None)
    with pytest.raises(ValueError, match=r"config.json: vision_config must hold fields"):
        jaxdiff.load(tmp_path / "clip")


def test_weights_of_flax_are_read_by_the_names_of_its_classes(tmp_path):
    """As repositories of 2022 hold them: a tree of msgpack, and attention of the autoencoder by its former names."""
    copy, whole = Path(shutil.copytree(FIRST, tmp_path / "flax")), jaxdiff.load(FIRST)
    for part, name, model in (
        ("unet", "diffusion_flax_model", whole),
        ("vae", "diffusion_flax_model", whole.submodels["codec"]),
        ("text_encoder", "flax_model", whole.submodels["text_encoder"]),
    ):
        for path in (copy / part).glob("*.safetensors"):
            path.unlink()
        flat = {path: np.asarray(x) for path, x in traverse_util.flatten_dict(model.params, sep="/").items()}
        if part == "vae":
            for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out_0", "proj_attn")):
                flat = {path.replace(new, old): x for path, x in flat.items()}
        if part == "text_encoder":
            flat = {"text_model/" + path.replace("layers_", "layers/"): x for path, x in flat.items()}
        tree = traverse_util.unflatten_dict(flat, sep="/")
        (copy / part / f"{name}.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    changed(copy / UNET, _class_name="FlaxUNet2DConditionModel", split_head_dim=False)
    changed(copy / VAE, _class_name="FlaxAutoencoderKL")
    changed(copy / "model_index.json", _class_name="FlaxStableDiffusionPipeline")
    found = jaxdiff.load(copy)
    jax.tree.map(np.testing.assert_array_equal, found.replace(origin=whole.origin, config=whole.config), whole)
    (copy / "vae" / "diffusion_flax_model.msgpack").write_bytes(b"\x81\xa1a\xc9\xff\xff\xff\xff\x01")
    with pytest.raises(ValueError, match=r"diffusion_flax_model.msgpack is not a file of weights"):
        jaxdiff.load(copy)


def test_a_latent_diffusion_with_a_codebook(tmp_path):
    """A U-Net without context, and the quantized autoencoder of tests/golden/make_autoencoder.py."""
    golden, params = load_golden("autoencoder_vq")
    unet = {"_class_name": "UNet2DModel", "sample_size": 8} | COMMON | {"in_channels": 3, "out_channels": 3}
    unet |= {"attention_head_dim": None}
    vq = COMMON | {"_class_name": "VQModel", "num_vq_embeddings": 20, "latent_channels": 3, "scaling_factor": 1.0}
    vq |= {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    shapes = {entry.published: entry.shape for entry in entries_of(networks.unet(unet))}
    rng = np.random.default_rng(0)
    files = {
        "unet": (unet, {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}),
        "vqvae": (vq, {k.removeprefix("weights/"): v for k, v in golden.items() if k.startswith("weights/")}),
    }
    for part, (fields, tensors) in files.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(fields))
        path = tmp_path / part / "diffusion_pytorch_model.safetensors"
        safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "LDMPipeline"}))
    model = jaxdiff.load(tmp_path)
    codec = model.submodels["codec"]
    assert codec.config.net.codebook_size == 20 and not model.config.sample.clip
    wanted = params["params"]
    jax.tree.map(np.testing.assert_array_equal, codec.params, wanted | {"quantize": wanted["quantize"]["embedding"]})
    assert jaxdiff.generate(model, num=1, steps=2).shape == (1, 16, 16, 2)
