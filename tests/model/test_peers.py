"""Live beside diffusers and transformers: pytest -m peers, with the extra `peers` (and peft for the LoRAs of diffusers)."""

import itertools
import json
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdiff
from jaxdiff import cli, samplers
from jaxdiff import model as models
from jaxdiff.adapt import control, lora
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.model import denoiser_of
from jaxdiff.model.interop import schedulers
from jaxdiff.nets.controlnet import ControlConfig
from jaxdiff.pipeline import ControlInput, images
from jaxdiff.process import q_sample

torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
PIPELINES = Path(__file__).parents[1] / "golden" / "pipelines"
FIRST = PIPELINES / "stable_diffusion_1"
PROMPT, NEGATIVE, STEPS, GUIDANCE = "a red seven on blue", "a small one", 6, 7.5
KEY, TEXT = jax.random.key(0), "a Red seven on blue, (it's 10:30)"

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("one_device")]


def theirs(folder, kind="StableDiffusionPipeline", **parts):
    pipe = getattr(diffusers, kind).from_pretrained(folder, dtype=torch.float32, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def nchw(x):
    return torch.tensor(np.array(x).transpose(0, 3, 1, 2))


def nhwc(x):
    return np.asarray(x.detach()).transpose(0, 2, 3, 1)


def draw_our_noise(pipe, count=1):
    """The scheduler draws what `jaxdiff.sample` draws for the images of a key."""
    steps, keys = itertools.count(1), samplers.keys_for(KEY, count)
    noise = lambda *args, **kwargs: nchw(samplers.normal(samplers.fold(keys, next(steps)), (8, 8, 4)))
    sys.modules[type(pipe.scheduler).__module__].randn_tensor = noise


def close(found, wanted, pipe):
    """Latents to 1e-4 of their size; images at most 1 level apart, and that in 0.1% of values (of 768: in one)."""
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    factor = pipe.vae.config.scaling_factor
    decode = lambda z: nhwc(pipe.vae.decode(nchw(z) / factor).sample)
    one, other = (images.to_uint8(decode(z)).astype(int) for z in (found, wanted))
    assert np.abs(one - other).max() <= 1 and (one != other).sum() <= max(1, 1e-3 * one.size)


SCHEDULERS = {
    "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": False},
    "PNDMScheduler": {"skip_prk_steps": True, "set_alpha_to_one": False},
    "DPMSolverMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "LCMScheduler": {},
}


def scheduled(kind, **fields):
    """A scheduler, and the model that samples by its file."""
    scheduler = getattr(diffusers, kind).from_config(theirs(FIRST).scheduler.config, **SCHEDULERS[kind] | fields)
    made = schedulers.process(json.loads(scheduler.to_json_string()))
    return scheduler, made


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("strength", [1.0, 0.5], ids=["text to image", "image to image"])
def test_whole_pipelines_by_each_scheduler(kind, strength):
    if kind == "PNDMScheduler" and strength < 1:
        pytest.skip(
            "its list of timesteps repeats one, and image to image of diffusers cuts that list at the wrong place"
        )
    scheduler, made = scheduled(kind)
    name = "StableDiffusionPipeline" if strength == 1 else "StableDiffusionImg2ImgPipeline"
    pipe = theirs(FIRST, name, scheduler=scheduler)
    noise = np.array(samplers.noise(samplers.keys_for(KEY, 1), (8, 8, 4)))
    picture = np.random.default_rng(1).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    asked = {"negative_prompt": NEGATIVE, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    draw_our_noise(pipe)
    with torch.inference_mode():
        if strength == 1:
            latents = pipe(PROMPT, **asked, latents=nchw(noise), output_type="latent").images
        else:
            module = sys.modules[type(pipe).__module__]
            module.retrieve_latents = lambda output, **kwargs: output.latent_dist.mode()
            module.randn_tensor = lambda *args, **kwargs: nchw(noise)
            picture_01 = nchw((picture + 1) / 2)
            latents = pipe(PROMPT, picture_01, strength, **asked, output_type="latent").images
    model = jaxdiff.load(FIRST)
    schedule, cond = model.schedule, jaxdiff.condition(model, prompts=[PROMPT], negative=NEGATIVE)
    levels = model.levels(STEPS, made.spacing)[round(STEPS * (1 - strength)) :]
    x = noise * (float(schedule(levels[0]).sigma) if made.compat.scale_noise else 1)
    if strength < 1:
        x0 = jaxdiff.call(model.codec.encode, picture)
        x = q_sample(schedule, x0, levels[0], noise)
    denoise = jaxdiff.guidance.cfg(denoiser_of(model, made.compat.round_levels), GUIDANCE)
    z, _ = jaxdiff.sample(KEY, made.sampler(), denoise, schedule, levels, x, cond)
    close(np.asarray(z), nhwc(latents), pipe)


@pytest.mark.parametrize("guess", [False, True])
def test_a_controlnet_and_its_guess_mode(guess, tmp_path):
    model = jaxdiff.load(FIRST)
    config = ControlConfig(model.config.net, embedding=(4, 8))
    fresh = control.init(KEY, config, model.params)
    fresh = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape), fresh)
    models.export_adapter(Adapter({"embedding": [4, 8]}, control=fresh), tmp_path / "c", model, "diffusers", "float32")
    net = diffusers.ControlNetModel.from_pretrained(tmp_path / "c", dtype=torch.float32)
    pipe = theirs(FIRST, "StableDiffusionControlNetPipeline", controlnet=net)
    noise = np.array(samplers.noise(samplers.keys_for(KEY, 1), (8, 8, 4)))
    picture = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3), np.uint8)
    with torch.inference_mode():
        latents = pipe(
            PROMPT, nchw(picture / np.float32(255)), negative_prompt=NEGATIVE, num_inference_steps=STEPS,
            guidance_scale=GUIDANCE, latents=nchw(noise), output_type="latent", guess_mode=guess, height=16, width=16,
        ).images  # fmt: skip
    model = jaxdiff.with_adapters(model, controlnet=str(tmp_path / "c"))
    cond = jaxdiff.condition(model, [PROMPT], negative=NEGATIVE, control=ControlInput((picture,), guess=guess))
    sample = model.config.sample
    z, _ = jaxdiff.sample(
        None, sample.sampler(), jaxdiff.guidance.cfg(denoiser_of(model), GUIDANCE), model.schedule,
        model.levels(STEPS, sample.spacing), noise, cond,
    )  # fmt: skip
    close(np.asarray(z), nhwc(latents), pipe)


@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_a_lora_of_ours_in_diffusers(layout, tmp_path):
    pytest.importorskip("peft")
    model = jaxdiff.load(FIRST)
    loras = {}
    for net, params, targets in (
        ("unet", model.params, "attention"),
        ("text", model.submodels["text_encoder"].params, lora.TEXT_ATTENTION),
    ):
        fresh = lora.init(KEY, params, 2, targets if net == "text" else lora.pattern(targets), alpha=3.0)
        ups = {
            path: both._replace(up=0.2 * jax.random.normal(KEY, both.up.shape)) for path, both in fresh.factors.items()
        }
        loras[net] = fresh._replace(factors=ups)
    path = tmp_path / "ours.safetensors"
    models.export_adapter(Adapter({}, loras), path, model, layout, "float32")
    pipe = theirs(FIRST)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe.load_lora_weights(tmp_path, weight_name=path.name)
    noise = np.array(samplers.noise(samplers.keys_for(KEY, 1), (8, 8, 4)))
    with torch.inference_mode():
        latents = pipe(
            PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=nchw(noise),
            output_type="latent",
        ).images  # fmt: skip
    model = jaxdiff.with_adapters(model, str(path))
    cond, sample = jaxdiff.condition(model, [PROMPT], negative=NEGATIVE), model.config.sample
    z, _ = jaxdiff.sample(
        None, sample.sampler(), jaxdiff.guidance.cfg(denoiser_of(model), GUIDANCE), model.schedule,
        model.levels(STEPS, sample.spacing), noise, cond,
    )  # fmt: skip
    close(np.asarray(z), nhwc(latents), pipe)


KINDS = {
    "stable_diffusion_1": "StableDiffusionPipeline",
    "stable_diffusion_2": "StableDiffusionPipeline",
    "stable_diffusion_xl": "StableDiffusionXLPipeline",
    "inpainting": "StableDiffusionInpaintPipeline",
    "latent_consistency": "LatentConsistencyModelPipeline",
}


@pytest.mark.parametrize("name", KINDS)
def test_folders_of_ours_load_in_diffusers_without_a_warning(name, tmp_path, caplog, capfd):
    jaxdiff.export(jaxdiff.load(PIPELINES / name), tmp_path / name, layout="diffusers", dtype="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, whole = theirs(tmp_path / name, KINDS[name]), theirs(PIPELINES / name, KINDS[name])
    said = capfd.readouterr().err
    assert "were passed to" not in said and "not used" not in said and "newly initialized" not in said, said
    for part, net in whole.components.items():
        if isinstance(net, torch.nn.Module):
            weights, wanted = getattr(ours, part).state_dict(), net.state_dict()
            assert weights.keys() == wanted.keys() and all(torch.equal(weights[key], wanted[key]) for key in wanted)
        if "tokenizer" in part:
            one, other = (words(TEXT, padding="max_length", truncation=True) for words in (getattr(ours, part), net))
            assert one.input_ids == other.input_ids


def test_every_edit_and_personalisation_runs_by_the_command_line(tmp_path, monkeypatch):
    """Slow, and therefore not of the daily suite: on an imported pipeline."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "photos").mkdir()
    for i, caption in enumerate(("a <star> red seven", "a small one", "blue")):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(f"photos/{i}.png")
        Path(f"photos/{i}.txt").write_text(caption)
    Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), 4)).save("mask.png")
    few = (
        "--train.steps 4 --train.batch-size 2 --train.log-every 2 --train.save-every 4 --train.sample-every 0 "
        "--train.steps-per-call 1 --optim.warmup 1 --sample.steps 2 --sample.num 4 --data.source folder:photos"
    ).split()
    model = str(FIRST)
    for config, more in {
        "captioned_lora": [],
        "captioned_dreambooth": [],
        "captioned_textual_inversion": [],
        "captioned_controlnet": ["--adapt.embedding", "4", "8"],
    }.items():
        cli.main(["train", config, "--base", model, "--run-dir", f"runs/{config}", *few, *more])
    small = ["--steps", "2"]
    for name in ("captioned_lora", "captioned_textual_inversion"):
        cli.main(["sample", model, "a <star>", "--lora", f"runs/{name}", *small, "--out", f"{name}.png"])
    control = ["--controlnet", "runs/captioned_controlnet", "--control", "photos/0.png"]
    cli.main(["sample", model, "a seven", *control, *small, "--out", "control.png"])
    source, image = ["--source", "a small one"], ["--image", "photos/1.png"]
    for method, more in {
        "null-text": source + image,
        "negative-prompt": source + image,
        "direct": source + image,
        "p2p": source,
        "sdedit": image,
        "inpaint": [*image, "--mask", "mask.png"],
        "ddib": source + image,
    }.items():
        cli.main(
            ["edit", model, "--method", method, "--prompt", "a small seven", *more, *small, "--out", f"{method}.png"]
        )
        assert Path(f"{method}.png").exists()
