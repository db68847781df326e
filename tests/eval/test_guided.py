"""From the words of a config to what is drawn: labels, guidance, and what is refused."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY, tiny_config
from jax.tree_util import Partial

from jaxdiff import Cond, Guided, guidance, schedules
from jaxdiff.config import Config, Diffusion, Latent, Sample
from jaxdiff.eval import draw, guided, images
from jaxdiff.eval.guided import Guide
from jaxdiff.process import predict_from
from jaxdiff.text import tokenizer
from jaxdiff.text.encoder import TextEncoder

SCHEDULE = schedules.linear(50)
GUIDE = Guide(lambda x_t, t, cond: -jnp.square(x_t - cond.label[:, None]).sum(-1), 10)


def config_with(classes=10, drop=0.1, diffusion=None, **sample) -> Config:
    net = dataclasses.replace(TINY, num_classes=classes)
    diffusion = (
        Diffusion("linear", 50, "eps", cond_dropout=drop if classes else 0.0) if diffusion is None else diffusion
    )
    return dataclasses.replace(
        tiny_config(), net=net, diffusion=diffusion, sample=Sample(**{"steps": 3, "num": 8, "batch_size": 8} | sample)
    )


def toy(x_t, t, cond):
    """Class y is the number y; the null label 10, and no label, are the mean of all."""
    label = None if cond is None else cond.label
    x0 = jnp.full(len(x_t), 4.5) if label is None else jnp.where(label == 10, 4.5, label)
    return predict_from("x0", SCHEDULE, x0[:, None], x_t, jnp.asarray(t))


def x0(config, guide=None, count=4, t=25):
    """What the toy is made to say of zeros."""
    cond = guided.condition(config, jnp.arange(count), guide)
    return guided.guided(toy, SCHEDULE, config.sample, guide)(jnp.zeros([count, 1]), t, cond).x0[:, 0]


def test_image_i_is_of_the_ith_label_in_turn():
    assert guided.labels(config_with(), None) == list(range(10))
    config = config_with(labels="7,1-2")
    assert guided.labels(config, None) == [7, 1, 2]
    np.testing.assert_allclose(x0(config), [7, 1, 2, 7])
    assert guided.condition(config_with(classes=0), jnp.arange(2)) is None


def test_guidance_leads_from_the_null_label_beyond_the_label():
    np.testing.assert_allclose(x0(config_with(guidance=3.0)), 4.5 + 3 * (np.arange(4) - 4.5), rtol=1e-6)
    np.testing.assert_allclose(x0(config_with(guidance=0.0)), np.full(4, 4.5), rtol=1e-6)


def test_outside_of_its_interval_there_is_no_guidance():
    config = config_with(guidance=3.0, interval=(10, 20))
    np.testing.assert_allclose(x0(config, t=20), 4.5 + 3 * (np.arange(4) - 4.5), rtol=1e-6)
    np.testing.assert_allclose(x0(config, t=21), np.arange(4), rtol=1e-6)


@pytest.mark.parametrize("classes", [0, 10])
def test_a_classifier_leads_a_network_that_may_know_no_labels(classes):
    """eps' = eps - s sigma grad log p, with grad -2 (x_t - y)."""
    config = config_with(classes=classes, guidance=2.0, labels="3")
    cond = guided.condition(config, jnp.arange(2), GUIDE)
    assert cond.cond.label.tolist() == [3, 3]
    assert cond.uncond is None if classes == 0 else cond.uncond.label.tolist() == [3, 3]
    x_t, sigma = jnp.ones([2, 1]), SCHEDULE(25).sigma
    said = guided.guided(toy, SCHEDULE, config.sample, GUIDE)(x_t, 25, cond)
    plain = toy(x_t, 25, cond.uncond)
    np.testing.assert_allclose(said.eps, plain.eps - 2 * sigma * 4, rtol=1e-5)


def test_a_rescaled_image_has_less_contrast():
    """Of the halves with a standard deviation of their own, as toy's x0 has none."""
    spread = lambda x_t, t, cond: predict_from("x0", SCHEDULE, cond.label[:, None] * x_t, x_t, jnp.asarray(t))
    x_t, cond = jnp.array([[1.0, -1.0]]), Guided(Cond(label=jnp.array([2.0])), Cond(label=jnp.array([1.0])))
    for sample, wanted in ((Sample(guidance=3.0), 4.0), (Sample(guidance=3.0, rescale=0.5), 3.0)):
        said = guided.guided(spread, SCHEDULE, sample)(x_t, 25, cond).x0
        np.testing.assert_allclose(said, wanted * x_t, rtol=1e-5)
    half = Guide(lambda x_t, t, cond: jnp.square(x_t).sum(-1), 10)  # more contrast is likelier
    sample = Sample(guidance=2.0, rescale=1.0)
    said = guided.guided(lambda x_t, t, cond: predict_from("x0", SCHEDULE, x_t, x_t, t), SCHEDULE, sample, half)
    np.testing.assert_allclose(said(x_t, 25, Guided(Cond(label=jnp.array([2])), None)).x0, x_t, rtol=1e-5)


def test_cfgpp_guides_in_its_own_way():
    config = config_with(sampler="ddim_cfgpp", guidance=0.5)
    cond = guided.condition(config, jnp.arange(2))
    assert cond.uncond.label.tolist() == [10, 10] and guided.guided(toy, SCHEDULE, config.sample) is toy
    sampler = draw.make_sampler(config.sample)
    state, said = sampler.step(None, toy, SCHEDULE, sampler.init(jnp.zeros([2, 1])), 25, 20, cond)
    np.testing.assert_allclose(said.x0[:, 0], (4.5 + np.arange(2)) / 2, rtol=1e-5)
    eps = toy(jnp.zeros([2, 1]), 25, cond.uncond).eps
    np.testing.assert_allclose(state.x, SCHEDULE(20).alpha * said.x0 + SCHEDULE(20).sigma * eps, rtol=1e-5)


def test_a_prompt_that_is_too_long_is_cut_and_that_is_said(caplog):
    words = tokenizer.train(["a red seven on a blue background"], 600, 7)  # of five words
    reads = TextEncoder(words, Partial(lambda tokens: tokens[..., None]))
    config = reading(prompts=("a red seven on a blue background", "a seven"), negative="a blue one")
    with caplog.at_level("WARNING", "jaxdiff"):
        found = guided.texts(config, reads)
    assert [record.getMessage() for record in caplog.records] == [
        "only 5 tokens of a prompt are read: 'a red seven on a ', and 'blue background' is cut"
    ]
    wanted = words([*config.sample.prompts, config.sample.negative])[..., None]
    np.testing.assert_array_equal([*found.wanted, found.negative], wanted)


def test_another_scale_compiles_nothing():
    config, count = config_with(guidance=3.0), [0]

    @jax.jit
    def run(denoise, cond):
        count[0] += 1
        return denoise(jnp.zeros([4, 1]), 25, cond).x0

    for scale in (2.0, 3.0, 4.5):
        sample = dataclasses.replace(config.sample, guidance=scale, interval=(10, int(10 * scale)))
        denoise = guided.guided(guidance.clip_x0(toy, SCHEDULE, -1e3, 1e3), SCHEDULE, sample)
        run(denoise, guided.condition(config, jnp.arange(4)))
    assert count == [1]


def test_a_sheet_has_a_row_of_each_class_or_prompt():
    sheet = draw.layout(config_with(labels="4,7", num=5))
    assert sheet.tolist() == [[0, 2, 4], [1, 3, -1]]
    assert draw.layout(config_with(labels="7", num=5)).tolist() == [[0, 1, 2], [3, 4, -1]]
    assert draw.layout(config_with(num=9)).shape == (3, 3)  # there are ten classes
    prompts = draw.layout(config_with(classes=0, prompts=("a", "b"), num=5))
    assert prompts.tolist() == sheet.tolist()
    drawn = np.arange(5, dtype=np.uint8)[:, None, None, None]
    assert images.arranged(drawn, sheet).ravel().tolist() == [0, 2, 4, 1, 3, 255]
    frames = np.stack([drawn, drawn + 10])
    assert images.arranged(frames, sheet)[1].ravel().tolist() == [10, 12, 14, 11, 13, 255]


READS = dataclasses.replace(
    config_with(classes=0, diffusion=Diffusion("linear", 50, cond_dropout=0.1)), latent=Latent(text="clip")
)


def reading(**sample):
    """A network that reads texts."""
    return dataclasses.replace(READS, sample=dataclasses.replace(READS.sample, **sample))


MISTAKES = {
    "empty prompt": (reading(prompts=("a red seven", " ")), None, "a prompt is empty: say what to draw"),
    "no prompt": (reading(), None, "this network draws what it is told"),
    "classifier and negative": (
        reading(prompts=("4",), negative="5", guidance=2.0),
        GUIDE,
        "--negative is for the network's own guidance",
    ),
    "label without labels": (config_with(0, labels="7"), None, "is for networks that were trained with labels"),
    "label out of range": (config_with(labels="7,10"), None, "must lie in 0-9"),
    "label of the classifier": (config_with(0, labels="0-10"), GUIDE, "must lie in 0-9"),
    "range that falls": (config_with(labels="7-3"), None, "ranges go up"),
    "no number": (config_with(labels="seven"), None, "must be numbers and ranges"),
    "scale without end": (config_with(guidance=float("inf")), None, "at least 0 and finite"),
    "interval beyond the levels": (config_with(guidance=3.0, interval=(1, 51)), None, "two levels in 1..50"),
    "negative scale": (config_with(guidance=-1.0), None, "--guidance=-1.0 must be at least 0"),
    "scale that is no number": (config_with(guidance=float("nan")), None, "must be at least 0"),
    "nothing to lead to": (config_with(0, guidance=3.0), None, "this network has none, so give a --classifier"),
    "never dropped": (config_with(drop=0.0, guidance=3.0), None, "train it with --diffusion.drop 0.1"),
    "cfgpp beyond 1": (config_with(sampler="ddim_cfgpp", guidance=3.0), None, "a --guidance in [0, 1], not 3.0"),
    "cfgpp and a classifier": (config_with(sampler="ddim_cfgpp"), GUIDE, "and no --classifier"),
    "rescaled too much": (config_with(guidance=3.0, rescale=1.5), None, "--rescale=1.5 must lie in [0, 1]"),
    "interval of nothing": (config_with(interval=(1, 5)), None, "--interval and --rescale are of guidance"),
    "interval that falls": (config_with(guidance=3.0, interval=(5, 1)), None, "--interval 5 1 must be two levels"),
}


@pytest.mark.parametrize("config, guide, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(config, guide, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw.check(config, guide)


def classifier_config(image_shape=(28, 28, 1), out_channels=10, **diffusion):
    config = tiny_config()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_shape=image_shape),
        net=dataclasses.replace(TINY, out_channels=out_channels),
        diffusion=Diffusion(**{"num_levels": 50, "objective": "classification"} | diffusion),
    )


UNFIT = {
    "no classifier": (config_with(), "is no classifier"),
    "other images": (classifier_config((32, 32, 3)), "reads images (32, 32, 3) and the network draws (28, 28, 1)"),
    "clean images": (classifier_config(levels="clean"), "has only seen images without noise"),
    "another schedule": (classifier_config(schedule="cosine"), "trained with another noise schedule"),
    "another length": (classifier_config(num_levels=60), "trained with another noise schedule"),
    "other classes": (classifier_config(out_channels=7), "tells 7 classes apart, and the network knows 10"),
}


@pytest.mark.parametrize("classifier, message", UNFIT.values(), ids=UNFIT)
def test_a_classifier_that_cannot_guide(classifier, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        guided.make_guide(config_with(), classifier, None)
