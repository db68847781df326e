"""InceptionV3 of FID beside pytorch-fid's with the same random weights, from the published file's names to the features."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxdiff.eval import features
from jaxdiff.nets import inception

ROOT = Path(__file__).parents[2]


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = script(ROOT / "tests/golden/make_inception.py")
CONVERT = script(ROOT / "benchmarks/convert_inception.py")
with np.load(ROOT / "tests/golden/inception.npz") as file:
    GOLDEN = dict(file)


def published():
    """The tensors of the published file, with random numbers, under its names."""
    entries = (entry.split(" ") for entry in GOLDEN["names"].tolist())
    return {name: MAKE.weight(name, tuple(int(n) for n in shape if n)) for name, *shape in entries}


def test_features_and_classes_are_pytorch_fid_s_with_the_same_weights(tmp_path):
    path = tmp_path / "inception.safetensors"
    save_file(CONVERT.converted(published()), path)
    judge = features.inception(path)
    path.unlink()  # 95 MB
    found, probabilities = jax.jit(lambda of, images: of(images))(judge.of, MAKE.images(2, 24, 33, 3))
    # Contracted is 1e-3 of the scale; float32 through 20 layers leaves 4e-6 of it.
    np.testing.assert_allclose(found, GOLDEN["features"], rtol=0, atol=1e-4 * GOLDEN["features"].std())
    logits = GOLDEN["logits"] - published_bias()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(np.log(probabilities), log_p, rtol=0, atol=1e-4 * logits.std())


def published_bias():
    """Which the inception score leaves out."""
    return MAKE.weight("fc.bias", (1008,))[None]


def test_images_are_resized_as_in_pytorch():
    seen = inception.preprocess(MAKE.images(1, 500, 320, 3))
    assert seen.shape == (1, 299, 299, 3)
    # The resize's positions are in float32: 500 pixels away, 2^-15 of a pixel, times a step between two pixels of up to 2.
    np.testing.assert_allclose(seen[:, ::13, ::7], GOLDEN["seen"], rtol=0, atol=1e-4)


def test_grey_images_are_repeated():
    grey = MAKE.images(1, 28, 28, 1)
    np.testing.assert_array_equal(inception.preprocess(grey), inception.preprocess(grey.repeat(3, -1)))


@pytest.mark.parametrize("shape, dtype", [((1, 8, 8, 3), np.float32), ((1, 8, 8, 4), np.uint8), ((8, 8, 3), np.uint8)])
def test_other_images_are_refused(shape, dtype):
    with pytest.raises(ValueError, match="Inception takes uint8 images"):
        inception.preprocess(np.zeros(shape, dtype))


def test_a_file_of_another_network_is_refused_in_one_line(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"fc/bias": np.zeros(1000, np.float32), "layer/kernel": np.zeros(1, np.float32)}, path)
    missing = len(inception.shapes()) - 1
    message = (
        f"{path} is not the Inception network of FID: {missing} missing (Conv2d_1a_3x3/bn/bias, Conv2d_1a_3x3/bn/mean, "
        "Conv2d_1a_3x3/bn/scale, ...); 1 unexpected (layer/kernel); 1 of another shape (fc/bias (1000,) instead of (1008,))"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        inception.load_inception(path)


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "published.pth"
    path.write_bytes(b"PK" + bytes(100))
    with pytest.raises(ValueError, match=r"not a safetensors file: convert the published one"):
        inception.load_inception(path)
    with pytest.raises(FileNotFoundError):
        inception.load_inception(tmp_path / "absent")


def test_a_file_of_another_network_is_seen_when_it_is_converted():
    wrong = inception.differences({name: x.shape for name, x in CONVERT.converted({"fc.gain": np.zeros(3)}).items()})
    assert "unexpected (fc.gain)" in wrong
