"""Metrics of drawn images and of classifiers: those of `eval.fid` on what was drawn, by the command that people type."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import TINY, tiny_config

from jaxdiff import cli, data, denoise, pipeline
from jaxdiff import model as models
from jaxdiff.config import Diffusion, Sample, Train
from jaxdiff.eval import evaluate, features, fid, neighbors, quality, reading
from jaxdiff.eval.evaluate import Plan
from jaxdiff.eval.measure import Measure
from jaxdiff.model import Model, Origin
from jaxdiff.nets.unet_config import ClassifierConfig
from jaxdiff.objectives import to_unit_range
from jaxdiff.pipeline import Request
from jaxdiff.train import initial, loop

NUM = 40
CONFIG = dataclasses.replace(tiny_config(), net=dataclasses.replace(TINY, num_classes=10))


@pytest.fixture(scope="module")
def judge():
    model = models.load("digits_judge")
    return features.classifier_features(model.config.net, model.params, "digits_judge")


def test_the_metrics_are_those_of_what_is_drawn(judge):
    """Accuracy, distances and moments, worked out from the images themselves."""
    params = jax.tree.map(lambda x: x + 0.02, initial.new_state(CONFIG).params)
    names = "fid,kid,precision_recall,inception_score,accuracy,nearest"
    model, ticks = Model(config=CONFIG, params=params), []
    plan = Plan(model, Measure(names, num=NUM, batch_size=16, seed=5), Request(CONFIG.sample))
    plan = evaluate.prepared(plan, judge)
    found = evaluate.measured(plan, ticks.append)
    assert sum(ticks) == evaluate.work(plan) == 3 * CONFIG.sample.steps + 3
    drawn = np.concatenate([batch for batch, _ in pipeline.batches(model, quality.sampled(plan, None))])
    test = data.load("digits:test")
    real = np.stack([test[int(i)]["image"] for i in np.random.default_rng(5).permutation(500)[:NUM]])
    (a, _), (b, said) = (jax.device_get(judge.of(x)) for x in (real, drawn))
    assert found["fid"]["fid"] == pytest.approx(fid.frechet(fid.moments(a), fid.moments(b)), rel=1e-4)
    assert found["kid"]["kid"] == pytest.approx(fid.kernel_distance(a, b).value, rel=1e-4)
    assert found["precision_recall"] == neighbors.precision_recall(a, b)._asdict() | {"n": NUM}
    assert found["inception_score"]["drawn"] == pytest.approx(fid.inception_score(fid.score(said)), rel=1e-4)
    assert found["accuracy"]["accuracy"] == (said.argmax(1) == np.arange(NUM) % 10).mean()
    train = data.load("digits")
    pixels = np.stack([train[i]["image"] for i in range(2500)]).reshape(2500, -1) / 255
    nearest = [np.sqrt(np.square(x.reshape(-1) / 255 - pixels).sum(1).min()) for x in drawn]
    assert found["nearest"]["drawn_50%"] == pytest.approx(np.median(nearest), rel=1e-5)


def test_real_digits_are_read_and_are_near_one_another(judge):
    """The judge on data that it has not learned from: its accuracy, and the floor of its distances."""
    test, train = (data.load(f"digits:{split}") for split in ("test", "train"))
    images = np.stack([test[i]["image"] for i in range(500)])
    labels = np.array([test[i]["label"] for i in range(500)])
    others = np.stack([train[i * 5]["image"] for i in range(500)])
    real, other, noise = (
        features.gathered(judge, [x])
        for x in (images, others, np.random.default_rng(0).integers(0, 256, images.shape, np.uint8))
    )
    assert (real.classes == labels).mean() >= 0.97
    assert fid.frechet(real.moments, other.moments) < 0.02 * fid.frechet(real.moments, noise.moments)
    assert neighbors.precision_recall(real.kept, other.kept).recall > 0.8
    assert neighbors.precision_recall(real.kept, noise.kept).recall < 0.1


def classifier_config(levels="uniform"):
    return dataclasses.replace(
        tiny_config(),
        net=ClassifierConfig(
            **{field.name: getattr(TINY, field.name) for field in dataclasses.fields(TINY)} | {"out_channels": 10}
        ),
        diffusion=Diffusion("cosine", 50, levels=levels),
        sample=Sample(),
        train=Train(steps=4, batch_size=16, steps_per_call=2, log_every=2, save_every=2),
    )


def test_a_classifier_trains_and_is_measured_level_by_level(tmp_path, capsys):
    run, config = tmp_path / "run", classifier_config()
    state = loop.fit(config, run=run)
    assert not (run / "samples").exists()
    cli.main(["eval", str(run), "--num", "50", "--batch-size", "16"])
    written = json.loads((run / "eval" / "accuracy_seed0.json").read_text())["metrics"]["accuracy"]
    assert list(written) == ["level_1", "level_12", "level_25", "level_38", "level_50"]
    test = data.load("digits:test")
    chosen = [test[int(i)] for i in np.random.default_rng(0).permutation(500)[:50]]
    clean = to_unit_range(np.stack([example["image"] for example in chosen]).astype(np.uint8))
    logits, _ = denoise.network(config.make_net())(state.ema, jax.numpy.asarray(clean), 1)
    right = float((logits.argmax(-1) == np.array([example["label"] for example in chosen])).mean())
    assert written["level_1"] == pytest.approx(right, abs=0.05)  # level 1 has next to no noise
    with pytest.raises(SystemExit):
        cli.main(["sample", str(run)])
    assert "this is a classifier, which no images are sampled from" in capsys.readouterr().err


def test_a_judge_of_clean_images_is_only_asked_about_those():
    assert reading.levels_of(Model(config=classifier_config("clean"), params=None)) == [0]


@pytest.mark.parametrize(
    "args, message",
    [
        (["--metrics", "fid", "--sample.labels", "12"], "--sample.labels 12 must lie in 0-9"),
        (["--metrics", "accuracy", "--inception", "x"], "accuracy is of models with labels"),
        (["--metrics", "fid", "--judge", "a", "--inception", "b"], "are two judges: choose one"),
        (["--judge", "digits_judge"], "--judge and --inception are for fid, kid"),
        (["--metrics", "fid", "--judge", "run"], "must be a classifier of images (28, 28, 1)"),
        (["--metrics", "fid", "--inception", "absent.safetensors"], "absent.safetensors"),
        (["--metrics", "nearest", "--judge", "digits_judge"], "--judge and --inception are for fid, kid"),
        (["--metrics", "kid", "--num", "3"], "--num=3 must be at least 4"),
        (["--sample.steps", "9"], "--sample, --classifier, --control and --judge are for fid"),
        (["--metrics", "fid", "--sample.num", "9"], "--sample.num is --num here"),
        (
            ["--metrics", "fid", "--sample.guidance", "3"],
            "guidance needs a network that also samples without its label",
        ),
    ],
)
def test_mistakes(args, message, model, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["eval", str(model), *(str(model) if arg == "run" else arg for arg in args)])
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    origin = Origin("tiny", 0, "EMA", "digits")
    models.write(path, Model(config=CONFIG, params=initial.new_state(CONFIG).params, origin=origin))
    return path
