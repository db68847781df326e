"""What ships: configs that can be trained and fit one another, and models that do what the documentation says."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

import jaxdiff
from jaxdiff import config as configs
from jaxdiff import data, editing, guidance
from jaxdiff import model as models
from jaxdiff.data import control_inputs
from jaxdiff.data.sources import captioned
from jaxdiff.eval import features, measure, shown, zero_shot
from jaxdiff.model import Model, denoiser_of, frozen_models, shipped
from jaxdiff.pipeline import Request, images, requests
from jaxdiff.pipeline.edit import EDIT_METHODS
from jaxdiff.pipeline.edit.run import prepare as prepare_edit
from jaxdiff.text import tokenizer
from jaxdiff.train import base_model

pytestmark = pytest.mark.usefixtures("one_device")

MADE_BY = {"digits": "digits_conditional", "captioned": "captioned_latent"}  # the others are called as their configs


@pytest.mark.parametrize("name", configs.names())
def test_configs_can_be_trained(name):
    config = configs.load(name)
    base = config.adapt.base and models.load_config(config.adapt.base)
    config = base_model.with_base(config, base)
    configs.check(config)
    if config.samples:  # on as many devices as there are here
        request = Request(dataclasses.replace(config.sample, batch_size=8))
        requests.check(Model(config=config, params=None), request)


@pytest.mark.parametrize("name", models.names())
def test_models_are_what_their_configs_say(name):
    """But for the kernel of attention, which is of the device."""
    meant = configs.load(MADE_BY.get(name, name))
    assert models.load(name).config == dataclasses.replace(meant, net=meant.net.without_kernels())


def test_text_to_image_works_with_the_parts_that_ship():
    model, latent = models.load("captioned"), configs.load("captioned_latent").latent
    clip = models.text_transformer_of(models.load(latent.text_encoder))
    submodels = {"codec": models.load(latent.codec), "text_encoder": clip}
    frozen_models.check(model.config, submodels)
    both = model.submodels, submodels
    chex.assert_trees_all_equal(*({name: one.params for name, one in of.items()} for of in both))
    words = [tokenizer.to_json(of["text_encoder"].tokenizer) for of in both]
    assert words[0] == words[1]


def test_all_weights_together_are_small():
    assert sum(path.stat().st_size for path in shipped.WEIGHTS.glob("*.safetensors")) < 30e6


@pytest.mark.parametrize("name, least", [("captioned_vae", 28.0), ("captioned_vqvae", 28.0)])
def test_autoencoders_give_back_held_out_images(name, least):
    model = models.load(name)
    found = jaxdiff.evaluate(model, measure.metrics_of(model.config), num=400, batch_size=80)
    assert found["psnr"]["mean"] >= least and 0.8 < found["latents"]["root_mean_square"] < 1.25
    assert not model.config.net.codebook_size or found["codebook"]["used"] > 0.8


def test_clip_finds_digits_and_colours_of_held_out_images():
    """Among all captions that say everything there is to say."""
    model, source = models.load("captioned_clip"), data.load("captioned:test")
    examples, (texts, said) = list(source), captioned.descriptions()
    texts = zero_shot.embed_texts(model, texts, batch_size=840)
    images = zero_shot.embed_images(model, np.stack([one["image"] for one in examples]), batch_size=200)
    scale = float(np.exp(model.params["logit_scale"]))
    for i, name in enumerate(captioned.ATTRIBUTES):
        found = zero_shot.probabilities(images, texts, said[:, i], scale).argmax(1)
        assert np.mean(found == [one[name] for one in examples]) >= 0.95, name


def test_an_image_is_inverted_and_redrawn_in_another_colour():
    """The drawn digits of docs/editing.md, 6 of them in 25 steps, and one way up and back."""
    model = models.load("captioned")
    schedule, levels, words = model.schedule, model.levels(25), model.text_encoder.tokenizer
    source, target = (
        "a large red seven in the middle on a blue background",
        "a large green seven in the middle on a blue background",
    )
    told, x_T = jaxdiff.condition(model, source, num=6), model.noise(jax.random.key(0), 6)
    edit = editing.pairs([editing.replace(words, source, target, cross_attention=0.2, self_attention=1.0)] * 6)
    both, _ = editing.sample_pairs(
        denoiser_of(model), schedule, levels, x_T, told, jaxdiff.condition(model, target, num=6).cond,
        guidance.stepped(20.0, 3.0, 800), edit=edit,
    )  # fmt: skip
    said = [shown.read(image) for image in images.to_uint8(jaxdiff.decode(model, both))]
    colours = [list(captioned.COLOURS)[one.colour] for one in said]
    assert colours == ["red"] * 6 + ["green"] * 6
    assert np.mean([shown.overlap(a.mask, b.mask) for a, b in zip(said[:6], said[6:])]) > 0.8
    path = editing.invert(denoiser_of(model), schedule, levels, both[:4], jax.tree.map(lambda x: x[:4], told.cond), 3)
    again = editing.reconstruct(denoiser_of(model), schedule, levels, path[0], jax.tree.map(lambda x: x[:4], told.cond))
    assert 10 * np.log10(12.8**2 / np.square(again - both[:4]).mean()) > 45  # 12.8 is the range of latents


def test_text_to_image_draws_combinations_that_were_never_trained_on():
    model, source, judge = models.load("captioned"), data.load("captioned:unseen"), models.load("digits_judge")
    judge = features.classifier_features(judge.config.net, judge.params, "digits_judge")
    asked = [source[i] for i in range(32)]
    drawn = jaxdiff.generate(model, [one["caption"] for one in asked], batch_size=32, steps=20)
    found = shown.right(drawn, [shown.asked_for(one) for one in asked], judge)
    assert found["label"] >= 0.9 and found["colours"] >= 0.95, found  # of 32: docs/latent.md has 500


def test_few_steps_are_four():
    """With the LoRA that ships, of unseen combinations; its sampler, steps and guidance are defaults."""
    judge, source = models.load("digits_judge"), data.load("captioned:unseen")
    judge = features.classifier_features(judge.config.net, judge.params, "digits_judge")
    model, asked = jaxdiff.with_adapters(jaxdiff.load("captioned"), "few_steps"), [source[i] for i in range(100)]
    sample = model.config.sample
    assert (sample.sampler.kind, sample.steps, sample.guidance) == ("lcm", 4, 1.0)
    drawn = jaxdiff.generate(model, [one["caption"] for one in asked], batch_size=100)
    found = shown.right(drawn, [shown.asked_for(one) for one in asked], judge)
    assert found["label"] >= 0.92 and found["colours"] >= 0.97, found  # of 100: docs/latent.md has 500


def test_adapters_are_of_the_model_that_they_name():
    """LoRAs change what is drawn of their word, and not the base where they weigh nothing; edges are followed."""
    for name in models.adapter_names():
        adapter = models.load_adapter(name)
        base = models.load(adapter.metadata["base"])
        model = models.with_adapter(base, adapter, 0.0)
        chex.assert_trees_all_equal(model.params, jax.tree.map(np.asarray, base.params))
        assert bool(adapter.control) == (name == "edges")
        assert list(adapter.new_tokens) == [f"<{name}>"] * (name not in ("edges", "few_steps"))
    model, source = models.with_adapter(base, models.load_adapter("edges")), data.load("captioned:test")
    real = np.stack([source[i]["image"] for i in range(8)])
    prompts = tuple(f"a {captioned.DIGIT_NAMES[source[i]['label']]} in black on yellow" for i in range(8))
    edges = np.stack([control_inputs.edges(image) for image in real])
    x = jaxdiff.generate(model, prompts, control=edges, batch_size=8, steps=10)
    masks = [[control_inputs.mask(image)[..., 0] > 0 for image in of] for of in (x, real)]
    overlaps = [shown.overlap(*both) for both in zip(*masks)]
    assert np.mean(overlaps) > 0.7, overlaps


def test_edits_of_a_model_for_few_steps_are_in_few_steps():
    """By its own sampler, steps and guidance; what inverts the image is refused."""
    model, image = (
        jaxdiff.with_adapters(jaxdiff.load("captioned"), "few_steps"),
        data.load("captioned:test")[0]["image"],
    )
    job = prepare_edit(model, EDIT_METHODS.choice("sdedit"), {"image": image, "prompt": "a red 7 on blue"})
    assert (job.num_steps, job.sampler.kind, job.guidance) == (4, "lcm", 1.0)
    with pytest.raises(ValueError, match="distilled for few steps, which no inversion follows"):
        jaxdiff.edit(model, image, "a red 7 on blue", source="a red 1 on blue", method="direct")
