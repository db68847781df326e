"""Adaptation of Stable Diffusion XL, whose network takes two texts side by side, a vector and sizes."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxdiff
from jaxdiff import config as configs
from jaxdiff.config import checks
from jaxdiff.config.adaptation import ControlNet, DreamBooth, FewSteps, LoRA, NewTokens
from jaxdiff.model import adaptation, runs
from jaxdiff.model.frozen_models import open_models
from jaxdiff.objectives.noising import drop_cond
from jaxdiff.pipeline import encoding
from jaxdiff.plan import programs
from jaxdiff.train import base_model, initial, parallel, setup
from jaxdiff.train.loop import fit
from jaxdiff.types import Cond

pytestmark = pytest.mark.usefixtures("one_device")
XL = Path(__file__).parents[1] / "golden" / "pipelines" / "stable_diffusion_xl"
SIZES = ((16, 16), (40, 32), (16, 16), (24, 60))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four pictures of three sizes; the third has an empty caption."""
    root, values = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        Image.fromarray(values.integers(0, 256, (*size, 3), np.uint8)).save(root / f"{i}.png")
        (root / f"{i}.txt").write_text("" if i == 2 else f"a red {i}")
    return root


@pytest.fixture(scope="module")
def base():
    return jaxdiff.load(XL)


def config_of(photos, adapt, **data):
    train = configs.Train(2, 2, steps_per_call=1, log_every=1, save_every=2, sample_every=0)
    optim = configs.Optim(learning_rate=1e-3, warmup=1)
    return configs.Config(
        name="xl", optim=optim, data=configs.Data(f"folder:{photos}", (16, 16, 3), **data), adapt=adapt, train=train
    )


@pytest.fixture(scope="module")
def encoded(photos, base, tmp_path_factory):
    """The examples as contexts, vectors and latents, and the frozen models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        config = base_model.with_base(config_of(photos, LoRA(base=str(XL))), base.config)
        source = setup.open_source(config)
        frozen = open_models(config, source, base=base)
        yield config, encoding.encoded(config, source, frozen), frozen


def test_contexts_and_vectors_are_those_of_sampling(encoded, base):
    """Of images that are not cropped; diffusers' are compared with these in tests/model."""
    _, latents, frozen = encoded
    wanted = jaxdiff.condition(base, ["a red 0"])
    for i, guided in ((0, wanted.cond), (2, wanted.uncond)):
        np.testing.assert_allclose(latents[i]["context"], guided.context[0], atol=2e-3)
        np.testing.assert_allclose(latents[i]["vector"], guided.vector[0], atol=2e-3)
    np.testing.assert_allclose(frozen.empty_text, wanted.uncond.context[0], atol=1e-6)
    np.testing.assert_allclose(frozen.empty_vector, wanted.uncond.vector[0, :12], atol=1e-6)  # sizes are behind it
    assert not latents[2]["context"].any() and latents[0]["context"].any()


def test_sizes_are_those_of_the_file_and_of_the_crop(encoded):
    """As the training script of diffusers has them: of the original, of the corner of the resized one, of the image."""
    _, latents, _ = encoded
    for i, (top, left) in ((1, (2, 0)), (3, (0, 12))):  # 40x32 covers 16x16 as 20x16, and 24x60 as 16x40
        sizes = np.array([*SIZES[i], top, left, 16, 16], np.float32)
        angles = sizes[:, None] * np.exp(-np.log(10000) * np.arange(4) / 4)
        waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).ravel()
        np.testing.assert_allclose(latents[i]["vector"][-48:], waves, atol=2e-3)


def test_captions_that_are_dropped_take_the_vector_with_them(encoded):
    config, latents, frozen = encoded
    batch, _ = next(setup.batches(config, latents, 0, frozen))
    assert batch["cond"].vector.shape[-2:] == (2, 60) and batch["cond"].context.shape[-1] == 16
    cond = Cond(*(None if part is None else jax.numpy.ones(part.shape[2:]) for part in batch["cond"]))
    found = drop_cond(np.array([True, False]), setup._null(config, frozen), cond)
    assert not found.context[0].any() and not found.vector[0, :12].any() and found.context[1].all()
    assert found.vector[0, 12:].all() and found.vector[1].all()  # an image keeps its sizes, as where samples are guided


def test_kept_encodings_are_of_one_reading_of_the_texts(encoded):
    config, _, frozen = encoded
    source = setup.open_source(config)
    names = {encoding.identity(config, source, frozen)}
    for change in ({"zero_empty_text": False}, {"context_norm": True}):
        latent = dataclasses.replace(config.latent, **change)
        names.add(encoding.identity(dataclasses.replace(config, latent=latent), source, frozen))
    net = dataclasses.replace(config.net, vector_dim=12)
    names.add(encoding.identity(dataclasses.replace(config, net=net), source, frozen))
    assert len(names) == 4


def test_its_adaptations_are_planned():
    adapt, optim = LoRA(base=str(XL), rank=2), configs.Optim(warmup=1)
    train = configs.Train(2, 2, steps_per_call=1)
    config = configs.Config(name="xl", data=configs.Data("folder:/"), optim=optim, adapt=adapt, train=train)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, image_shape=(16, 16, 3)))
    (program,) = programs.training(config, tuple(jax.devices()))
    assert program.parts["frozen"] > program.parts["parameters"] > 0


@pytest.mark.parametrize(
    "adapt", [FewSteps(base=str(XL), rank=2, guidance=2.0, intervals=10), DreamBooth(base=str(XL))]
)
def test_the_step_of_other_adaptations_takes_vectors(adapt, photos, encoded, base):
    _, latents, frozen = encoded
    config = base_model.with_base(config_of(photos, adapt), base.config)
    config = dataclasses.replace(config, diffusion=dataclasses.replace(config.diffusion, cond_dropout=0.1))
    checks.check(config)
    batch, _ = next(setup.batches(config, latents, 0, frozen))
    devices, params = parallel.of(config.train), adaptation.frozen_params(config, base)
    arguments = devices.place(initial.new_state(config, base)), initial.step_key(config), batch, devices.place(params)
    step = setup.make_step(config, frozen)
    assert devices.lower(step, *arguments)  # traced: the vector reaches the network, and the null condition has one


ADAPTATIONS = {
    "lora": LoRA(base=str(XL), rank=2),
    "controlnet": ControlNet(base=str(XL), condition="thumbnail", embedding=(4, 8)),
}


@pytest.mark.parametrize("kind", ADAPTATIONS)
def test_it_is_adapted_and_samples(kind, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config = config_of(photos, ADAPTATIONS[kind], buckets=((16, 16), (16, 40)))
    prompts = ("a red 0",) if kind == "lora" else ()  # of a ControlNet the first captions that are not empty
    config = dataclasses.replace(config, sample=configs.Sample(prompts=prompts, clip=False, steps=1, num=1))
    state = fit(config, run=tmp_path / "run")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert sorted(runs.kept_base(tmp_path / "run").submodels) == ["codec", "second_text_encoder", "text_encoder"]
    if kind == "lora":
        images = jaxdiff.generate(jaxdiff.load(tmp_path / "run"), ["a red 0"], num=1, steps=1)
        assert images.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("adapt", [LoRA(base="it", text_encoder=True), LoRA(base="it", new=NewTokens(("<star>",)))])
def test_its_text_encoders_are_not_trained(adapt, photos, base):
    config = base_model.with_base(config_of(photos, adapt), base.config)
    with pytest.raises(
        ValueError, match="cannot be trained anew, nor these encoders and new tokens: adapt its denoiser"
    ):
        checks.check(config)
    anew = dataclasses.replace(config, adapt="none")
    with pytest.raises(ValueError, match="cannot be trained anew"):
        checks.check(anew)
