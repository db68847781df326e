"""Training from Python on a `Source` of one's own: with checkpoints, and resumed to the same bits."""

import dataclasses
import shutil

import chex
import jax
import numpy as np
import pytest
from helpers import TINY, tiny_config

import jaxdiff
from jaxdiff.config import Data
from jaxdiff.data import Source
from jaxdiff.model import checkpoints
from jaxdiff.train import checkpoint, initial

SHAPE = (8, 8, 1)
CONFIG = dataclasses.replace(
    tiny_config(),
    data=Data(image_shape=SHAPE),
    net=dataclasses.replace(TINY, num_classes=2),
    sample=dataclasses.replace(tiny_config().sample, labels="0-1"),
)


def noise(size=40, shape=SHAPE, seed=3):
    """Random images of two classes."""
    images = np.random.default_rng(seed).integers(0, 256, (size, *shape), np.uint8)
    return Source(lambda i: {"image": images[i], "label": i % 2}, size, shape, classes=("even", "odd"), identity=seed)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "noise"
    return directory, jaxdiff.fit(CONFIG, source=noise(), run=directory)


def test_it_is_trained_on_and_saved(run):
    directory, state = run
    found = checkpoint.restore(directory / "checkpoints", initial.state_shapes(CONFIG))
    chex.assert_trees_all_equal(found.tree, state)
    assert found.about["data"] == {"position": 4 * 16, "seed": 0, "examples": 40, "identity": 3, "contents": 0}
    model = jaxdiff.load(directory)
    assert str(model.config.data.source) == model.origin.trained_on == "own"
    with pytest.raises(ValueError, match="no test split was kept from own: give data"):
        jaxdiff.evaluate(model)
    chex.assert_trees_all_equal(jax.device_get(model.params), state.ema)
    assert jaxdiff.generate(model, labels=[0, 1], seed=1).shape == (2, *SHAPE)


def test_other_images_make_another_network(run, tmp_path):
    other = jaxdiff.fit(CONFIG, source=noise(seed=4), run=tmp_path / "other")
    assert not np.array_equal(other.params["conv_in"]["kernel"], run[1].params["conv_in"]["kernel"])


def test_a_resumed_run_ends_with_the_same_bits(run, tmp_path):
    half = shutil.copytree(run[0], tmp_path / "half")
    shutil.rmtree(half / "checkpoints" / "4")  # as if it had been killed before its last one
    resumed = jaxdiff.fit(CONFIG, source=noise(), run=half, resume=True)
    chex.assert_trees_all_equal(resumed, run[1])
    assert checkpoints.steps(half / "checkpoints") == [4, 2]


@pytest.mark.parametrize(
    "source, message",
    [
        (noise(size=39), "had 40 examples when the run began, and now has 39"),
        (noise(seed=4), "other examples than when the run began"),
    ],
)
def test_another_source_is_refused_on_resume(run, source, message):
    with pytest.raises(ValueError, match=message):
        jaxdiff.fit(CONFIG, source=source, run=run[0], resume=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_shape": (8, 8, 3)}, r"images are \(8, 8, 3\), and `data.image_shape` is \(8, 8, 1\)"),
        ({"classes": ()}, "has no labels: `net.num_classes` 0 trains without labels"),
        ({"classes": ("a", "b", "c")}, "3 classes, and the network labels for 2: `net.num_classes` 3"),
    ],
)
def test_a_source_that_does_not_fit_the_network(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        jaxdiff.fit(CONFIG, source=dataclasses.replace(noise(), **change), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
