"""Autoencoders, CLIPs and the diffusions between them, from a config to a file of weights."""

import dataclasses
import functools
import itertools
import json
import shutil
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image
from tiny import data_here, tiny_autoencoder, tiny_clip, tiny_latent, write_ends, write_untrained

from jaxdiff import Cond, cli
from jaxdiff import config as configs
from jaxdiff import model as models
from jaxdiff.config import Data
from jaxdiff.data import paths
from jaxdiff.data.sources.captioned import SIDE
from jaxdiff.model import Model
from jaxdiff.model.frozen_models import open_models
from jaxdiff.nets.clip import TextConfig
from jaxdiff.objectives import to_unit_range
from jaxdiff.pipeline import Request, encoding, requests, sampling
from jaxdiff.samplers import base
from jaxdiff.train import initial, loop, setup
from jaxdiff.train.stop import Asked, Stop
from jaxdiff.types import call


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    return write_ends(tmp_path_factory.mktemp("ends"))


@pytest.fixture(scope="module")
def run(ends, tmp_path_factory):
    """A run of a diffusion between them, which was gone on with when their files were there no more."""
    folder = tmp_path_factory.mktemp("latent")
    moved = [shutil.copy(path, folder) for path in ends]
    with pytest.MonkeyPatch.context() as patch:  # what is encoded shall not stay
        patch.setenv("TFDS_DATA_DIR", str(data_here(folder / "data")))
        loop.fit(tiny_latent(*moved, steps=2), run=folder / "run")
        for path in moved:
            Path(path).unlink()
        assert int(loop.fit(tiny_latent(*moved), run=folder / "run", resume=True).step) == 4  # with what it has kept
        yield folder / "run"


def test_a_run_keeps_what_it_works_with(run, ends, tmp_path):
    model = models.load(str(run))
    assert sorted(model.submodels) == ["codec", "text_encoder"] and (run / "samples" / "step_0000004.png").exists()
    vae, clip = (models.load(str(path)) for path in ends)
    chex.assert_trees_all_equal(model.submodels["codec"].params, vae.params)
    chex.assert_trees_all_equal(model.submodels["text_encoder"].params, clip.params["text_model"])
    assert isinstance(model.submodels["text_encoder"].config.net, TextConfig)
    models.write(tmp_path / "whole.safetensors", model, "float32")
    whole = models.load(str(tmp_path / "whole.safetensors"))
    chex.assert_trees_all_equal(drawn(whole), drawn(model))
    assert whole.origin.trained_on == "captioned:test"


def drawn(model, **sample):
    request = Request(dataclasses.replace(model.config.sample, **sample))
    return np.concatenate([images for images, _ in sampling.batches(model, request)])


def test_what_is_drawn_depends_on_prompt_negative_and_guidance(run):
    model = models.load(str(run))
    model = model.replace(params=jax.tree.map(lambda x: x + 0.05, model.params))  # the last layer began with zeros
    first = drawn(model)
    programs = base._steps._cache_size()
    for change in ({"prompts": ("a blue six", "4")}, {"negative": "a blue six"}, {"guidance": 5.0}, {"seed": 1}):
        assert (drawn(model, **change) != first).any(), change
    assert base._steps._cache_size() == programs
    same = drawn(model, num=3)
    chex.assert_trees_all_equal(same, first[:3])
    chex.assert_trees_all_equal(drawn(model, prompts=("4",), num=8)[1::2], first[1::2])  # image i is of prompt i % 2


def test_encoded_once(run, ends):
    config = tiny_latent(*ends)
    source = setup.open_source(config)
    frozen = open_models(config, source, run)
    folder = paths.data_dir() / "encoded" / encoding.identity(config, source, frozen)
    assert folder.exists()
    latents = encoding.encoded(config, source, frozen, tick=lambda: pytest.fail("they are there"))
    for i in (0, 77, 999):
        z = frozen.codec.encode(np.asarray(source[i]["image"], np.float32)[None] / 127.5 - 1)[0]
        chex.assert_trees_all_close(latents[i]["image"], z, atol=2e-3)
        chex.assert_trees_all_close(latents[i]["context"], frozen.text_encoder([source[i]["caption"]])[0], atol=2e-3)
        assert latents[i]["label"] == source[i]["label"]
    assert latents.image_shape == (8, 8, 2) and len(latents) == 1000
    other = frozen._replace(submodels={**frozen.submodels, "codec": changed(frozen.submodels["codec"])})
    assert encoding.identity(config, source, other) != encoding.identity(config, source, frozen)


def test_an_encoding_that_was_stopped_goes_on(ends, tmp_path, monkeypatch):
    """Of files of 400 examples, those are made that are not there; each is as it would have been."""
    config = tiny_latent(*ends)
    source = setup.open_source(config)
    frozen, ticks = open_models(config, source), []
    monkeypatch.setattr(encoding.files, "shards", functools.partial(encoding.files.shards, size=400))
    monkeypatch.setattr(encoding, "PIXELS", 25 * 32 * 32)  # on 8 devices 200 at a time
    monkeypatch.setattr(encoding, "data_dir", lambda: tmp_path)

    def tick():
        ticks.append(len(list(tmp_path.glob("encoded/*/*.array_record"))))
        if len(ticks) == 3:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        encoding.encoded(config, source, frozen, tick)
    (folder,) = (tmp_path / "encoded").iterdir()
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert ticks == [0, 0, 1]
    assert sorted(kept) == ["000000.array_record", "000000.json", "000000.sha256"]
    latents = encoding.encoded(config, source, frozen, tick)
    assert ticks[3:] == [1, 1, 2] and len(latents) == 1000
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    for i, one in zip((0, 399, 400, 999), encode_some(config, source, frozen, (0, 399, 400, 999))):
        chex.assert_trees_all_equal(latents[i], jax.tree.map(lambda x: x.astype(np.float32), one))


def encode_some(config, source, frozen, which):
    return (next(encoding.encode(config, source, frozen, range(i, i + 1))) for i in which)


def changed(model):
    return model.replace(params=jax.tree.map(lambda x: x + 1e-3, model.params))


def test_a_stop_while_encoding_says_how_to_go_on(ends, tmp_path, monkeypatch, capsys):
    def asked(*_):
        raise Asked

    (tmp_path / "own.py").write_text(
        f"from tiny import tiny_latent\nget_config = lambda: tiny_latent({str(ends[0])!r}, {str(ends[1])!r})\n"
    )
    monkeypatch.setattr(loop, "encoded", asked)
    monkeypatch.setattr(Stop, "signum", 15, raising=False)
    monkeypatch.setattr(Stop, "__init__", lambda self: setattr(self, "_before", {}))
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", str(tmp_path / "own.py"), "--run-dir", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert stop.value.code == 128 + 15 and "what was encoded is kept; to go on: jaxdiff train" in said
    assert "--resume" not in said  # for there is no checkpoint yet


def test_encoded_data_lies_where_all_processes_see_it(ends, tmp_path, monkeypatch):
    config = tiny_latent(*ends)
    source = setup.open_source(config)
    frozen = open_models(config, source)
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "data_dir", lambda: tmp_path)
        patch.setattr(encoding.hosts, "on_main", lambda act, name: None)  # as on a host with a disk of its own
        with pytest.raises(FileNotFoundError, match="is only seen by process 0: set TFDS_DATA_DIR"):
            encoding.encoded(config, source, frozen)
    with pytest.raises(ValueError, match="is remote, and array_record is written to disks"):
        encoding.check_folder(epath.Path("gs://bucket/encoded/captioned"))


def test_captions_are_dropped(ends):
    """With a probability of 1 all are, so that they make no difference; the loss is that of no text."""
    config = change(tiny_latent(*ends), diffusion={"cond_dropout": 1.0})
    frozen, keys = open_models(config, setup.open_source(config)), jax.random.split(jax.random.key(0), 4)
    params = jax.tree.map(lambda x: x + 0.05, initial.new_params(config, jax.random.key(1)))
    contexts = frozen.text_encoder(["a red seven", "a blue one", "3", "4"])

    def loss(drop, contexts):
        loss_fn = setup.diffusion_loss(change(config, diffusion={"cond_dropout": drop}), frozen)
        batch = {"image": np.ones([4, 8, 8, 2], np.float32), "cond": Cond(context=contexts)}
        return jax.jit(loss_fn)(params, (), keys, batch)[0]

    none = np.broadcast_to(frozen.empty_text, contexts.shape)
    chex.assert_trees_all_close(loss(1.0, contexts), loss(1.0, contexts[::-1]), loss(0.0, none), rtol=1e-5)
    assert not np.allclose(loss(0.0, contexts), loss(0.0, none), rtol=1e-5)


def test_another_factor_scales_the_latents(ends):
    config = tiny_latent(*ends)
    source, x = setup.open_source(config), np.zeros([1, SIDE, SIDE, 3], np.float32)
    once, twice = (
        open_models(change(config, latent={"scaling_factor": factor}), source).codec for factor in (None, 2.0)
    )
    np.testing.assert_allclose(twice.encode(x), 2 * once.encode(x), rtol=1e-6)  # the file says 1
    np.testing.assert_allclose(twice.decode(2 * once.encode(x)), once.decode(once.encode(x)), rtol=1e-5)


def test_a_run_that_lost_its_autoencoder_does_not_go_on(run, tmp_path):
    lost = tmp_path / "lost"
    shutil.copytree(run, lost, ignore=shutil.ignore_patterns("codec.safetensors"))
    config = models.load(str(run)).config
    with pytest.raises(ValueError, match=r"has lost its codec\.safetensors, without which it cannot go on"):
        open_models(config, setup.open_source(config), lost)


def test_a_codebook_travels_with_its_network(tmp_path):
    config = tiny_autoencoder(words=16, steps=2)
    state = loop.fit(config, run=tmp_path / "run")
    model = models.load(str(tmp_path / "run"))
    chex.assert_trees_all_equal(model.params["quantize"]["embedding"], state.extra.words)
    assert not np.array_equal(state.extra.words, initial.new_state(config).extra.words)
    x = np.zeros([1, SIDE, SIDE, 3], np.float32)
    assert model.codec.decode(model.codec.encode(x)).shape == x.shape


def test_a_critic_does_not(tmp_path):
    config = tiny_autoencoder(critic_weight=0.1)
    shapes = jax.eval_shape(lambda: initial.new_params(config, jax.random.key(0)))
    assert set(shapes) == {"autoencoder", "critic"}
    write_untrained(config, tmp_path / "vae.safetensors")
    assert set(models.load(str(tmp_path / "vae.safetensors")).params) == set(shapes["autoencoder"])


def test_a_clip_learns_its_words(tmp_path):
    loop.fit(tiny_clip(steps=2), run=tmp_path / "run")
    model = models.load(str(tmp_path / "run"))
    assert model.text_encoder(["a red seven"]).shape == (1, 24, 8)
    assert len(model.tokenizer.token_ids("a small purple seven on a yellow background")) == 8
    kept = json.loads((tmp_path / "run" / "tokenizer.json").read_text())
    assert kept["length"] == 24


SIX = {"shape": (8, 8, 6)}


def refused(config):
    configs.check(config)
    if config.samples:
        requests.check(Model(config=config, params=None), Request(config.sample))
    open_models(config, setup.open_source(config))


def change(config, **sections):
    """The config with some fields of some sections changed."""
    changed = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(config, **changed)


def resized(source):
    """A data source whose images are resized."""
    return dataclasses.replace(Data(source).source, resize=True)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        (
            {"latent": SIX, "net": {"out_channels": 6}},
            r"encodes images .32, 32, 3. as latents .8, 8, 2., and `latent.shape` is .*: change it, and `net.out_channels`",
        ),
        ({"latent": SIX}, "`net.out_channels`=2 must be 6 for latents of 6 channels"),
        ({"latent": {"shape": None}}, "`latent.codec` and `latent.shape` go together"),
        (
            {"latent": {"text_encoder": None}},
            "`net.context_dim`=8 is the width of the context that `latent.text_encoder`",
        ),
        ({"latent": {"codec": "digits"}}, "`latent.codec` digits is not an autoencoder"),
        ({"latent": {"text_encoder": "digits"}}, "digits_conditional has no text encoder: name a CLIP"),
        ({"latent": {"skip_blocks": 1}}, "`latent.skip_blocks`=1 must be less than 1, the text encoder's number"),
        ({"net": {"context_length": 77}}, "encodes texts as 24x8, and the network takes `net.context_length` 77"),
        ({"data": {"flip": True}}, "`data.flip` and `data.augment` cannot go with `latent`"),
        ({"data": {"source": resized("digits")}}, "digits has no captions"),
        (
            {"data": {"source": resized("captioned:test"), "image_shape": (30, 30, 3)}},
            "which images of 30x30 do not allow",
        ),
        ({"sample": {"clip": True}}, "`clip` keeps images in their range, and latents have none"),
    ],
)
def test_submodels_that_do_not_fit(ends, sections, why):
    with pytest.raises(ValueError, match=why):
        refused(change(tiny_latent(*ends), **sections))


@pytest.mark.parametrize(
    ("config", "sections", "why"),
    [
        (tiny_autoencoder(), {"diffusion": {"num_levels": 10}}, "`diffusion` is for networks of role denoiser"),
        (tiny_autoencoder(), {"sample": {"num": 10}}, "`sample` is for networks of role denoiser"),
        (tiny_autoencoder(), {"data": {"image_shape": (30, 30, 3)}}, "divides sides by 4, which images of 30x30"),
        (tiny_autoencoder(words=8), {"reconstruction": {"kl_weight": 0.1}}, "kl_weight` is for autoencoders without"),
        (tiny_autoencoder(), {"reconstruction": {"decay": 0.1}}, "decay` is for autoencoders with a codebook"),
        (tiny_autoencoder(), {"net": {"codebook_size": 1}}, "`codebook_size`=1 must be 0, or at least 2"),
        (tiny_autoencoder(), {"train": {"sample_every": 2}}, "`train.sample_every`=2 must be 0"),
        (tiny_autoencoder(), {"data": {"tokenizer": "there"}}, "`data.tokenizer` is for a CLIP"),
        (tiny_clip(), {"reconstruction": {"decay": 0.5}}, "`reconstruction` is for networks of role autoencoder"),
        (tiny_clip(), {"data": {"image_shape": (32, 32, 1)}}, "`vision.mean` is of 3 channels"),
        (tiny_clip(), {"train": {"accumulate": 2}}, "`train.accumulate` would change what is learned"),
        (tiny_clip(), {"data": {"tokenizer": "/nowhere"}}, "/nowhere has no vocab.json"),
    ],
)
def test_configs_that_cannot_be(config, sections, why):
    with pytest.raises((ValueError, FileNotFoundError), match=why):
        refused(change(config, **sections))


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["a red seven", "--labels", "3"], "--labels=3 is for models that were trained with labels"),
        (["--negative", "blue", "--guidance", "1"], "--negative is what guidance leads away from"),
        (["a", "b", "c", "--num", "2"], "--num=2 images are too few for 3 prompts"),
        (["a red seven", "--clip"], "latents"),
    ],
)
def test_prompts_that_cannot_be(run, args, why, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(run), *args])
    assert stop.value.code == 2 and why in capsys.readouterr().err


def test_latents_of_several_aspect_ratios(ends, tmp_path, monkeypatch):
    """Each image's latent, of the shape of its bucket, is the codec's of that image alone; and a run trains on them."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_here(tmp_path / "data")))
    buckets, values = ((32, 32), (16, 48)), np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(16):
        image = values.integers(0, 256, (*buckets[i % 2], 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / f"{i:02}.png")
        (tmp_path / "photos" / f"{i:02}.txt").write_text(f"a red {i}")
    config = tiny_latent(*ends, batch_size=8, steps_per_call=1)
    config = dataclasses.replace(config, data=Data(f"folder:{tmp_path}/photos", (32, 32, 3), buckets=buckets))
    source = setup.open_source(config)
    frozen = open_models(config, source)
    latents = encoding.encoded(config, source, frozen)
    assert latents.buckets.shapes == ((8, 8, 2), (4, 12, 2)) and len(latents) == 16
    for i in (0, 1, 15):
        image = to_unit_range(jax.numpy.asarray(source[i]["image"][None]))
        np.testing.assert_allclose(latents[i]["image"], call(frozen.codec.encode, image)[0], atol=2e-3)  # of float16
        np.testing.assert_allclose(latents[i]["context"], frozen.text_encoder([f"a red {i}"])[0], atol=2e-3)
    batches, shapes = setup.batches(config, latents, 0, frozen), set()
    for batch, _ in itertools.islice(batches, 4):
        shapes.add(batch["image"].shape[-3:])
        assert batch["cond"].context.shape[-2:] == (24, 8)
    assert shapes == set(latents.buckets.shapes)
