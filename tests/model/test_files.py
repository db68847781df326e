"""Files of weights: what is written is read again, and what does not fit is refused."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from helpers import tiny_config
from PIL import Image

from jaxdiff import cli
from jaxdiff import model as models
from jaxdiff.eval import features
from jaxdiff.model import Model
from jaxdiff.train import initial, loop

ABOUT = {"step": 4, "weights": "EMA", "trained_on": "digits"}


@pytest.fixture(scope="module")
def model():
    return Model(tiny_config(), initial.new_state(tiny_config()).params, ABOUT)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read_again(model, dtype, tmp_path):
    models.write(tmp_path / "tiny.safetensors", model, dtype)
    again = models.load(str(tmp_path / "tiny.safetensors"))
    assert again.config == model.config and again.about == {"model": "tiny"} | ABOUT
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), model.params)
    jax.tree.map(np.testing.assert_array_equal, again.params, rounded)
    assert {x.dtype for x in jax.tree.leaves(again.params)} == {np.dtype("float32")}


def test_a_run_and_its_file_are_the_same_model(tmp_path, capsys):
    config = tiny_config(steps=2)
    state = loop.train(config, tmp_path / "run")
    run = models.load(str(tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, run.params, state.ema)
    out = tmp_path / "tiny.safetensors"
    cli.main(["export", str(tmp_path / "run"), "--out", str(out), "--dtype", "float32"])
    assert str(out) in capsys.readouterr().out
    file = models.load(str(out))
    jax.tree.map(np.testing.assert_array_equal, file.params, state.ema)
    assert file.about == {"model": "tiny", "step": 2, "weights": "EMA", "trained_on": "digits"}
    x_t = jax.random.normal(jax.random.key(0), [1, 28, 28, 1])
    np.testing.assert_array_equal(file.denoiser()(x_t, 25).x0, run.denoiser()(x_t, 25).x0)
    with pytest.raises(SystemExit):
        cli.main(["export", str(tmp_path / "run"), "--out", str(out)])
    assert "--overwrite" in capsys.readouterr().err


def changed(model, tmp_path, change):
    """A file of the model, changed."""
    path = tmp_path / "tiny.safetensors"
    models.write(path, model)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata, flat = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    change(metadata, flat)
    path.write_bytes(safetensors.numpy.save(flat, metadata))
    return str(path)


BROKEN = {
    "missing": (lambda about, flat: flat.pop("conv_in/bias"), "1 of its weights, the first being conv_in/bias"),
    "left over": (lambda about, flat: flat.update(x=np.zeros(1, np.float16)), "the first being x"),
    "mis-shaped": (lambda about, flat: flat.update({"conv_in/bias": np.zeros(3, np.float16)}), "being conv_in/bias"),
    "of another library": (lambda about, flat: about.clear(), "does not say what network it is of"),
    "of nobody knows what": (lambda about, flat: about.update(about="{}"), "does not say step, weights, trained_on"),
    "of a list": (lambda about, flat: about.update(about="[1]"), "does not say step, weights, trained_on"),
    "of a later version": (
        lambda about, flat: about.update(config=json.dumps(json.loads(about["config"]) | {"tempo": 1})),
        "unknown field of the config in",
    ),
}


def test_a_file_does_not_say_where_its_samples_go(model, tmp_path):
    lie = {"about": json.dumps(ABOUT | {"run": str(tmp_path / "elsewhere"), "model": "other"})}
    assert (
        models.load(changed(model, tmp_path, lambda about, flat: about.update(lie))).about == {"model": "tiny"} | ABOUT
    )


@pytest.mark.parametrize("change, message", BROKEN.values(), ids=BROKEN)
def test_a_file_that_does_not_fit(model, change, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.load(changed(model, tmp_path, change))


def test_mistakes(model, tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is no file of weights"):
        models.load(str(tmp_path / "x.safetensors"))
    with pytest.raises(FileNotFoundError):
        models.load(str(tmp_path / "absent.safetensors"))
    with pytest.raises(ValueError, match="unknown model 'digit': did you mean 'digits'"):
        models.load("digit")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        models.load(str(tmp_path))
    large = model.replace(params=jax.tree.map(lambda x: x + 1e6, model.params))
    with pytest.raises(ValueError, match="not finite as float16: choose float32"):
        models.write(tmp_path / "large.safetensors", large)
    classifies = dataclasses.replace(model.config.diffusion, objective="classification")
    with pytest.raises(ValueError, match="a classifier is no denoiser"):
        model.replace(config=dataclasses.replace(model.config, diffusion=classifies)).denoiser()
    with pytest.raises(SystemExit):
        cli.main(["pretrained", "digits"])
    assert "takes no arguments" in capsys.readouterr().err


def test_the_shipped_digits_are_read_by_the_shipped_judge_and_guided_by_the_shipped_classifier(
    tmp_path, monkeypatch, capsys
):
    """By what people type: labels and guidance, and without labels a classifier's."""
    monkeypatch.chdir(tmp_path)
    args = ["--num", "16", "--batch-size", "16", "--steps", "10", "--npz"]
    cli.main(["sample", "digits", "--label", "3,7", "--guidance", "2", *args])
    assert "samples/ddim_trailing_10_label3,7_guidance2_seed0.png" in capsys.readouterr().out
    cli.main(["sample", "digits", "--labels", "4", "--classifier", "digits_classifier", "--out", "led.png", *args])
    model = models.load("digits_judge")
    judge = features.classifier_features(model.config.net, model.params, "digits_judge")
    drawn = np.load("samples/ddim_trailing_10_label3,7_guidance2_seed0.npz")["images"]
    assert (judge.of(drawn)[1].argmax(1) == np.tile([3, 7], 8)).sum() >= 15
    assert (judge.of(np.load("led.npz")["images"])[1].argmax(1) == 4).sum() >= 15
    sheet = np.asarray(Image.open("samples/ddim_trailing_10_label3,7_guidance2_seed0.png"))
    assert sheet.shape[1] > 3 * sheet.shape[0]  # a row of each


def test_the_command_lists_what_ships(capsys):
    cli.main(["pretrained"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == models.names() + models.adapter_names()
    assert {"digits_judge", "star"} <= set(listed)
