"""Conditions and guidance of a request: labels, prompts, classifiers, and what is refused."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY, tiny_config
from jax.tree_util import Partial

import jaxdiff
from jaxdiff import Cond, Guided, guidance, schedules
from jaxdiff import model as models
from jaxdiff.config import Diffusion, Latent, Sample
from jaxdiff.model import Model
from jaxdiff.nets.clip import Read
from jaxdiff.nets.unet_config import ClassifierConfig
from jaxdiff.pipeline import Request, conditions, images, requests, sampling
from jaxdiff.process import predict_from
from jaxdiff.samplers import SAMPLERS
from jaxdiff.text import tokenizer
from jaxdiff.text.encoder import TextEncoder

SCHEDULE = schedules.linear(50)
LOG_PROB = lambda x_t, t, cond: -jnp.square(x_t - cond.label[:, None]).sum(-1)


def model_with(classes=10, drop=0.1, diffusion=None, **sample) -> Model:
    """A model without parameters."""
    net = dataclasses.replace(TINY, num_classes=classes)
    diffusion = diffusion or Diffusion("linear", 50, "eps", cond_dropout=drop if classes else 0.0)
    sample = Sample(**{"steps": 3, "num": 8, "batch_size": 8} | sample)
    return Model(config=dataclasses.replace(tiny_config(), net=net, diffusion=diffusion, sample=sample), params=None)


def request_of(model, classifier=None) -> Request:
    return Request(model.config.sample, None, classifier)


def condition(model, count, classifier=None):
    request = request_of(model, classifier)
    return sampling.condition(model, request, None, requests.labels_of(model, request), jnp.arange(count))


def toy(x_t, t, cond):
    """Class y is the number y; the null label 10, and no label, are the mean of all."""
    label = None if cond is None else cond.label
    x0 = jnp.full(len(x_t), 4.5) if label is None else jnp.where(label == 10, 4.5, label)
    return predict_from("x0", SCHEDULE, x0[:, None], x_t, jnp.asarray(t))


def x0(model, count=4, t=25):
    """x0 of zeros by the toy, guided."""
    denoise = sampling.guided(toy, SCHEDULE, model.config.sample)
    return denoise(jnp.zeros([count, 1]), t, condition(model, count)).x0[:, 0]


def test_image_i_is_of_the_ith_label_in_turn():
    assert requests.labels_of(model_with(), request_of(model_with())) == tuple(range(10))
    model = model_with(labels="7,1-2")
    assert requests.labels_of(model, request_of(model)) == (7, 1, 2)
    np.testing.assert_allclose(x0(model), [7, 1, 2, 7])
    assert condition(model_with(classes=0), 2) == Guided(None, None)


@pytest.mark.parametrize("labels", [np.array([7, 3]), (np.int64(7), np.int64(3)), [7, 3]])
def test_labels_are_numbers_of_any_kind(labels):
    assert conditions.condition(model_with(), labels=labels).cond.label.tolist() == [7, 3]


def test_no_labels_at_all_are_refused():
    with pytest.raises(ValueError, match="`labels` is empty"):
        conditions.condition(model_with(), labels=[])


def test_everything_that_the_network_takes_is_filled_in():
    net = dataclasses.replace(TINY, num_classes=10, vector_dim=6)
    model = Model(config=dataclasses.replace(tiny_config(), net=net), params=None)
    both = jaxdiff.condition(model, labels=[7, 3], num=3)
    assert both.cond.label.tolist() == [7, 3, 7] and both.uncond.label.tolist() == [10] * 3
    assert both.cond.vector.shape == both.uncond.vector.shape == (3, 6) and not both.cond.vector.any()
    assert jaxdiff.condition(model).cond.label.tolist() == [10]
    captioned = models.load("captioned")
    both = jaxdiff.condition(captioned, "a red seven", negative="blue")
    wanted = captioned.text_encoder(["a red seven", "blue", ""])
    np.testing.assert_array_equal(both.cond.context[0], wanted[0])
    np.testing.assert_array_equal(both.uncond.context[0], wanted[1])
    np.testing.assert_array_equal(jaxdiff.condition(captioned).cond.context[0], wanted[2])


def test_guidance_leads_from_the_null_label_beyond_the_label():
    np.testing.assert_allclose(x0(model_with(guidance=3.0)), 4.5 + 3 * (np.arange(4) - 4.5), rtol=1e-6)
    np.testing.assert_allclose(x0(model_with(guidance=0.0)), np.full(4, 4.5), rtol=1e-6)


def test_guidance_by_name_depends_on_the_level():
    stepped = model_with(guidance=3.0, guide=guidance.GUIDANCES["stepped"](first=5.0, last_first=0.5))
    for t, scale in ((26, 5.0), (25, 3.0)):
        np.testing.assert_allclose(x0(stepped, t=t), 4.5 + scale * (np.arange(4) - 4.5), rtol=1e-6)
    alpha, sigma = SCHEDULE(25)
    for kind, share in (("late", alpha), ("early", sigma)):
        expected = 4.5 + 3 * float(share) * (np.arange(4) - 4.5)
        np.testing.assert_allclose(x0(model_with(guidance=3.0, guide=kind)), expected, rtol=1e-5)


def test_outside_of_its_interval_there_is_no_guidance():
    model = model_with(guidance=3.0, interval=(10, 20))
    np.testing.assert_allclose(x0(model, t=20), 4.5 + 3 * (np.arange(4) - 4.5), rtol=1e-6)
    np.testing.assert_allclose(x0(model, t=21), np.arange(4), rtol=1e-6)


@pytest.mark.parametrize("classes", [0, 10])
def test_a_classifier_leads_a_network_that_may_know_no_labels(classes):
    """eps' = eps - s sigma grad log p, with grad -2 (x_t - y)."""
    model = model_with(classes=classes, guidance=2.0, labels="3")
    cond = condition(model, 2, classifier_model())
    assert cond.cond.label.tolist() == [3, 3]
    assert cond.uncond is None if classes == 0 else cond.uncond.label.tolist() == [3, 3]
    x_t, sigma = jnp.ones([2, 1]), SCHEDULE(25).sigma
    prediction = sampling.guided(toy, SCHEDULE, model.config.sample, LOG_PROB)(x_t, 25, cond)
    plain = toy(x_t, 25, cond.uncond)
    np.testing.assert_allclose(prediction.eps, plain.eps - 2 * sigma * 4, rtol=1e-5)


def test_a_rescaled_image_has_less_contrast():
    """Of the halves with a standard deviation of their own, as toy's x0 has none."""
    spread = lambda x_t, t, cond: predict_from("x0", SCHEDULE, cond.label[:, None] * x_t, x_t, jnp.asarray(t))
    x_t, cond = jnp.array([[1.0, -1.0]]), Guided(Cond(label=jnp.array([2.0])), Cond(label=jnp.array([1.0])))
    for sample, wanted in ((Sample(guidance=3.0), 4.0), (Sample(guidance=3.0, rescale=0.5), 3.0)):
        said = sampling.guided(spread, SCHEDULE, sample)(x_t, 25, cond).x0
        np.testing.assert_allclose(said, wanted * x_t, rtol=1e-5)
    half = lambda x_t, t, cond: jnp.square(x_t).sum(-1)  # more contrast is likelier
    sample = Sample(guidance=2.0, rescale=1.0)
    said = sampling.guided(lambda x_t, t, cond: predict_from("x0", SCHEDULE, x_t, x_t, t), SCHEDULE, sample, half)
    np.testing.assert_allclose(said(x_t, 25, Guided(Cond(label=jnp.array([2])), None)).x0, x_t, rtol=1e-5)


def test_cfgpp_guides_in_its_own_way():
    model = model_with(sampler=SAMPLERS["ddim_cfgpp"](scale=0.5))
    cond = condition(model, 2)
    assert cond.uncond.label.tolist() == [10, 10] and sampling.guided(toy, SCHEDULE, model.config.sample) is toy
    sampler = model.config.sample.sampler()
    state, prediction = sampler.step(None, toy, SCHEDULE, sampler.init(jnp.zeros([2, 1])), 25, 20, cond)
    np.testing.assert_allclose(prediction.x0[:, 0], (4.5 + np.arange(2)) / 2, rtol=1e-5)
    eps = toy(jnp.zeros([2, 1]), 25, cond.uncond).eps
    np.testing.assert_allclose(state.x, SCHEDULE(20).alpha * prediction.x0 + SCHEDULE(20).sigma * eps, rtol=1e-5)


def test_a_prompt_that_is_too_long_is_cut_and_that_is_said(caplog, monkeypatch):
    words = tokenizer.train(["a red seven on a blue background"], 600, 7)  # of five words
    monkeypatch.setattr(
        Model, "text_encoder", TextEncoder(words, Partial(lambda tokens: Read(tokens[..., None], None)))
    )
    prompts, negative = ("a red seven on a blue background", "a seven"), "a blue one"
    with caplog.at_level("WARNING", "jaxdiff"):
        found = conditions.encode(READS, prompts, negative)
    assert [record.getMessage() for record in caplog.records] == [
        "only 5 tokens of a prompt are read: 'a red seven on a ', and 'blue background' is cut"
    ]
    wanted = words([*prompts, negative])[..., None]
    np.testing.assert_array_equal([*found.context, found.negative], wanted)


def test_another_scale_compiles_nothing():
    model, count = model_with(guidance=3.0), [0]

    @jax.jit
    def run(denoise, cond):
        count[0] += 1
        return denoise(jnp.zeros([4, 1]), 25, cond).x0

    for scale in (2.0, 3.0, 4.5):
        sample = dataclasses.replace(model.config.sample, guidance=scale, interval=(10, int(10 * scale)))
        denoise = sampling.guided(guidance.clip_x0(toy, SCHEDULE, -1e3, 1e3), SCHEDULE, sample)
        run(denoise, condition(model, 4))
    assert count == [1]


def layout(model):
    return sampling.layout(model, request_of(model))


def test_a_sheet_has_a_row_of_each_class_or_prompt():
    sheet = layout(model_with(labels="4,7", num=5))
    assert sheet.tolist() == [[0, 2, 4], [1, 3, -1]]
    assert layout(model_with(labels="7", num=5)).tolist() == [[0, 1, 2], [3, 4, -1]]
    assert layout(model_with(num=9)).shape == (3, 3)  # there are ten classes
    prompts = layout(model_with(classes=0, prompts=("a", "b"), num=5))
    assert prompts.tolist() == sheet.tolist()
    drawn = np.arange(5, dtype=np.uint8)[:, None, None, None]
    assert images.arranged(drawn, sheet).ravel().tolist() == [0, 2, 4, 1, 3, 255]
    frames = np.stack([drawn, drawn + 10])
    assert images.arranged(frames, sheet)[1].ravel().tolist() == [10, 12, 14, 11, 13, 255]


def classifier_model(image_shape=(28, 28, 1), out_channels=10, **diffusion) -> Model:
    """A classifier without parameters."""
    config = tiny_config()
    shape = {field.name: getattr(TINY, field.name) for field in dataclasses.fields(TINY)}
    return Model(
        config=dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, image_shape=image_shape),
            net=ClassifierConfig(**shape | {"out_channels": out_channels}),
            diffusion=Diffusion(**{"num_levels": 50} | diffusion),
        ),
        params=None,
    )


READS = model_with(classes=0, diffusion=Diffusion("linear", 50, cond_dropout=0.1))
READS = READS.replace(
    config=dataclasses.replace(
        READS.config,
        net=dataclasses.replace(TINY, context_dim=4, mid_attention=True),
        latent=Latent(text_encoder="clip"),
    )
)


def reading(**sample):
    """A model with a text encoder."""
    sample = dataclasses.replace(READS.config.sample, **sample)
    return READS.replace(config=dataclasses.replace(READS.config, sample=sample))


CLASSIFIER = classifier_model()
CFGPP = SAMPLERS["ddim_cfgpp"](scale=0.5)
MISTAKES = {
    "empty prompt": (reading(prompts=("a red seven", " ")), None, "one of `prompts` is empty: say what to draw"),
    "no prompt": (reading(), None, "this model samples images of texts: give it `prompts`"),
    "classifier and negative": (
        reading(prompts=("4",), negative="5", guidance=2.0),
        CLASSIFIER,
        "`negative` is for the network's own guidance",
    ),
    "label without labels": (model_with(0, labels="7"), None, "is for models that were trained with labels"),
    "label out of range": (model_with(labels="7,10"), None, "must lie in 0-9"),
    "label of the classifier": (model_with(0, labels="0-10"), CLASSIFIER, "must lie in 0-9"),
    "range that falls": (model_with(labels="7-3"), None, "ranges go up"),
    "no number": (model_with(labels="seven"), None, "must be numbers and ranges"),
    "scale without end": (model_with(guidance=float("inf")), None, "at least 0 and finite"),
    "interval beyond the levels": (model_with(guidance=3.0, interval=(1, 51)), None, "two levels in 1..50"),
    "negative scale": (model_with(guidance=-1.0), None, "`guidance`=-1.0 must be at least 0"),
    "scale that is no number": (model_with(guidance=float("nan")), None, "must be at least 0"),
    "nothing to lead to": (model_with(0, guidance=3.0), None, "this network has none, so give a `classifier`"),
    "never dropped": (model_with(drop=0.0, guidance=3.0), None, "train it with --diffusion.cond-dropout 0.1"),
    "cfgpp and guidance": (model_with(sampler=CFGPP, guidance=3.0), None, "set `guidance` to 1"),
    "cfgpp and a classifier": (model_with(sampler=CFGPP), CLASSIFIER, "leave out `classifier`"),
    "classifier and another guidance": (model_with(guidance=2.0, guide="late"), CLASSIFIER, "`guide`=late is for"),
    "rescaled too much": (model_with(guidance=3.0, rescale=1.5), None, "`rescale`=1.5 must lie in [0, 1]"),
    "interval of nothing": (model_with(interval=(1, 5)), None, "`interval` and `rescale` are of `guidance`"),
    "interval that falls": (model_with(guidance=3.0, interval=(5, 1)), None, "`interval`=(5, 1) must be two levels"),
}


@pytest.mark.parametrize("model, classifier, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(model, classifier, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        requests.check(model, request_of(model, classifier))


UNFIT = {
    "no classifier": (model_with(), "is not a classifier"),
    "other images": (classifier_model((32, 32, 3)), "is of images (32, 32, 3), and the model of (28, 28, 1)"),
    "clean images": (classifier_model(levels="clean"), "has only seen images without noise"),
    "another schedule": (classifier_model(schedule="cosine"), "trained with another noise schedule"),
    "another length": (classifier_model(num_levels=60), "trained with another noise schedule"),
    "other classes": (classifier_model(out_channels=7), "tells 7 classes apart, and the network knows 10"),
}


@pytest.mark.parametrize("classifier, message", UNFIT.values(), ids=UNFIT)
def test_a_classifier_that_cannot_guide(classifier, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        requests.check_classifier(model_with(), classifier)
