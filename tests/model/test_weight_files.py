"""Files of weights: what is written is read again, and what does not fit is refused."""

import dataclasses
import json
import os
import re
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import traverse_util
from helpers import tiny_config
from PIL import Image

from jaxdiff import cli
from jaxdiff import model as models
from jaxdiff.eval import features
from jaxdiff.model import Model, Origin, denoiser_of
from jaxdiff.nets.unet_config import ClassifierConfig
from jaxdiff.tensor_files import CHECKSUMS
from jaxdiff.train import initial, loop
from jaxdiff.types import call

ABOUT = {"step": 4, "weights": "EMA", "trained_on": "digits"}
ORIGIN = Origin("tiny", **ABOUT)


@pytest.fixture(scope="module")
def model():
    return Model(config=tiny_config(), params=initial.new_state(tiny_config()).params, origin=ORIGIN)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read_again(model, dtype, tmp_path):
    models.write(tmp_path / "tiny.safetensors", model, dtype)
    again = models.load(str(tmp_path / "tiny.safetensors"))
    assert again.config == model.config and again.origin == ORIGIN
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), model.params)
    jax.tree.map(np.testing.assert_array_equal, again.params, rounded)
    assert {x.dtype for x in jax.tree.leaves(again.params)} == {np.dtype("float32")}
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(again.params))  # on the devices already


def test_what_was_rounded_is_not_written(model, tmp_path):
    rounded = model.replace(params=jax.tree.map(lambda leaf: leaf.astype("bfloat16"), model.params))
    with pytest.raises(ValueError, match="tiny was rounded to bfloat16 when it was loaded: load it in float32"):
        models.write(tmp_path / "tiny.safetensors", rounded)


def test_weights_are_loaded_in_the_dtype_asked_for(model, tmp_path):
    noise = np.random.default_rng(0)
    somewhere = lambda x: x + 0.1 * noise.standard_normal(x.shape, np.float32)  # an untrained network's output is zero
    model = model.replace(params=jax.tree.map(somewhere, model.params))
    models.write(tmp_path / "tiny.safetensors", model, "float32")
    again = models.load(str(tmp_path / "tiny.safetensors"), dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(again.params)} == {jax.numpy.dtype("bfloat16")}
    assert again.config.net.dtype == "bfloat16" and model.config.net.dtype == "float32"
    x_t = jax.random.normal(jax.random.key(0), [1, 28, 28, 1])
    coarse, fine = (call(denoiser_of(one), x_t, 25).x0 for one in (again, model))
    assert coarse.dtype == fine.dtype and 0 < abs(coarse - fine).max() < 0.1 * abs(fine).max()
    with pytest.raises(ValueError, match="`dtype`='float8' must be one of"):
        models.load(str(tmp_path / "tiny.safetensors"), dtype="float8")


def test_a_model_is_a_pytree_whose_weights_do_not_compile_anew(model):
    count = [0]

    @jax.jit
    def double(model):
        count[0] += 1
        return jax.tree.map(lambda leaf: 2 * leaf, model)

    once, again = double(model), double(jax.tree.map(lambda leaf: leaf + 1, model))
    assert count == [1] and once.config == again.config == model.config and once.origin == ORIGIN
    jax.tree.map(np.testing.assert_array_equal, once.params, jax.tree.map(lambda leaf: 2 * leaf, model.params))
    hash(jax.tree.structure(model))


def test_loading_needs_little_more_memory_than_the_model(tmp_path):
    """Tensor by tensor: at most the model and its largest tensor, measured in a process of its own."""
    program = f"""
import resource, sys
import jax, jax.numpy as jnp, numpy as np
from jaxdiff import UNetConfig
from jaxdiff import model as models
from jaxdiff.config import Config
from jaxdiff.model.params import param_shapes

config = Config(net=UNetConfig(out_channels=3, channels=(256, 512), blocks=2, attention=(), mid_attention=False))
path = {str(tmp_path / "large.safetensors")!r}
if sys.argv[1] == "write":
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), param_shapes(config))
    models.write(path, models.Model(config=config, params=params, origin=models.Origin("large", 0, "EMA", "none")))
else:
    param_shapes(config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model = models.load(path)
    jax.block_until_ready(model.params)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(model.params)]
    print(peak / sum(sizes), sum(sizes) / 2**20)
    assert peak < sum(sizes) * 1.5 + 2 * max(sizes), (peak, sum(sizes), max(sizes))
"""
    for what in ("write", "read"):
        environment = os.environ | {"XLA_FLAGS": ""}  # one device, for each has a copy
        done = subprocess.run([sys.executable, "-c", program, what], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_run_and_its_file_are_the_same_model(tmp_path, capsys):
    config = tiny_config(steps=2)
    state = loop.fit(config, run=tmp_path / "run")
    run = models.load(str(tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, run.params, state.ema)
    out = tmp_path / "tiny.safetensors"
    cli.main(["export", str(tmp_path / "run"), "--out", str(out), "--dtype", "float32"])
    assert str(out) in capsys.readouterr().out
    file = models.load(str(out))
    jax.tree.map(np.testing.assert_array_equal, file.params, state.ema)
    assert file.origin == Origin("tiny", 2, "EMA", "digits")
    x_t = jax.random.normal(jax.random.key(0), [1, 28, 28, 1])
    np.testing.assert_array_equal(denoiser_of(file)(x_t, 25).x0, denoiser_of(run)(x_t, 25).x0)
    with pytest.raises(SystemExit):
        cli.main(["export", str(tmp_path / "run"), "--out", str(out)])
    assert "--overwrite" in capsys.readouterr().err


def changed(model, tmp_path, change):
    """A file of the model, changed."""
    path = tmp_path / "tiny.safetensors"
    models.write(path, model)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata, flat = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    del metadata[CHECKSUMS]  # as of a file that was written before there were any
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


def in_data(content):
    """A place within the first tensor, behind 8 bytes of the header's length and the header."""
    return 8 + int.from_bytes(content[:8], "little") + 5


@pytest.mark.parametrize(
    "place, what",
    [
        (in_data, "the checksum of .* is not what was written"),
        (lambda content: len(content) - 1, "the checksum of .* is not what was written"),
        (lambda content: content.index(b"1800") + 3, "the checksum of its header is not what was written"),
    ],
    ids=["the first tensor", "the last byte", "a number of the config"],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_changed_bit_is_noticed(model, place, what, dtype, tmp_path):
    path = tmp_path / "tiny.safetensors"
    models.write(path, model, dtype)
    content = bytearray(path.read_bytes())
    content[place(content)] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"tiny.safetensors is damaged \({what}\): export or copy it again"):
        models.load(str(path))


def test_a_changed_bit_of_a_submodel_is_noticed(model, tmp_path):
    path = tmp_path / "both.safetensors"
    models.write(path, model.replace(submodels={"codec": models.load("captioned_vae")}))
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    key = "codec:" + next(iter(traverse_util.flatten_dict(models.load("captioned_vae").params, sep="/")))
    content[8 + length + json.loads(content[8 : 8 + length])[key]["data_offsets"][0]] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"both.safetensors is damaged \(the checksum of {key}"):
        models.load(str(path))


def test_a_file_without_checksums_is_read(model, tmp_path):
    path = changed(model, tmp_path, lambda about, flat: None)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert CHECKSUMS not in file.metadata()
    for one, other in zip(*map(jax.tree.leaves, (models.load(path).params, model.params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


def test_a_file_does_not_say_where_its_samples_go(model, tmp_path):
    lie = {"about": json.dumps(ABOUT | {"run": str(tmp_path / "elsewhere"), "model": "other"})}
    assert models.load(changed(model, tmp_path, lambda about, flat: about.update(lie))).origin == ORIGIN


@pytest.mark.parametrize("change, message", BROKEN.values(), ids=BROKEN)
def test_a_file_that_does_not_fit(model, change, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.load(changed(model, tmp_path, change))


def test_mistakes(model, tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is not a file of weights"):
        models.load(str(tmp_path / "x.safetensors"))
    with pytest.raises(FileNotFoundError):
        models.load(str(tmp_path / "absent.safetensors"))
    with pytest.raises(ValueError, match="unknown model 'digit': did you mean 'digits'"):
        models.load("digit")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        models.load(str(tmp_path))
    large = model.replace(params=jax.tree.map(lambda x: x + 1e6, model.params))
    with pytest.raises(ValueError, match="not finite as float16: choose `dtype`=float32"):
        models.write(tmp_path / "large.safetensors", large)
    with pytest.raises(ValueError, match="is not a denoiser: its network is of kind 'classifier'"):
        denoiser_of(model.replace(config=dataclasses.replace(model.config, net=ClassifierConfig())))
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
