"""Training on images of five aspect ratios: a program for each and no more, exact where it is stopped."""

import dataclasses
import itertools

import chex
import jax
import numpy as np
import pytest
from helpers import tiny_config
from PIL import Image

from jaxdiff import config as configs
from jaxdiff import data
from jaxdiff.config import checks
from jaxdiff.train import rundir, setup
from jaxdiff.train.loop import fit
from jaxdiff.train.stop import Stop, Stopped

pytestmark = pytest.mark.usefixtures("one_device")

BUCKETS = ((8, 8), (4, 8), (8, 4), (4, 16), (16, 4))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of ten pictures in each of five ratios."""
    root, values = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for n, (height, width) in enumerate(BUCKETS):
        for i in range(10):
            image = values.integers(0, 256, (2 * height, 2 * width), np.uint8)
            Image.fromarray(image).save(root / f"{n}{i}.png")
    config = tiny_config(steps=20, batch_size=5, steps_per_call=1, save_every=5, log_every=5, sample_every=0)
    return dataclasses.replace(config, data=configs.Data(f"folder:{root}", (8, 8, 1), buckets=BUCKETS))


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """Parameters of a run, and the shapes that its step was compiled for."""
    with pytest.MonkeyPatch.context() as patch:
        shapes, compiled = [], setup.compiled
        patch.setattr(
            setup, "compiled", lambda *args: (shapes.append(args[3]["image"].shape[-3:-1]), compiled(*args))[1]
        )
        return fit(config, run=tmp_path_factory.mktemp("straight") / "run").params, shapes


def test_five_shapes_are_five_programs(straight):
    assert sorted(straight[1]) == sorted(BUCKETS)


def test_each_example_is_seen_once_per_epoch(config, tmp_path):
    source = setup.open_source(config)
    examples = [numbers.ravel() for _, numbers in itertools.islice(setup.batches(config, source, 0), 20)]
    for epoch in (examples[:10], examples[10:]):  # of ten batches of five
        assert sorted(np.concatenate(epoch).tolist()) == list(range(50))


def test_stopped_twice_it_ends_with_the_same_bits(config, straight, tmp_path, monkeypatch):
    for resume in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(Stop, "asked", lambda self, call: (setattr(self, "signum", 15), call == 7)[1])
            with pytest.raises(Stopped):
                fit(config, run=tmp_path / "run", resume=resume)
    chex.assert_trees_all_equal(fit(config, run=tmp_path / "run", resume=True).params, straight[0])
    two = dataclasses.replace(config.train, steps_per_call=5)
    with pytest.raises(ValueError, match=r"`resume` cannot change train.steps_per_call from 1 to 5"):
        fit(dataclasses.replace(config, train=two), run=tmp_path / "run", resume=True)


def with_data(config, **fields):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"buckets": ((8, 8), (8, 8))}, "must be at most 256 sizes, each once"),
        ({"buckets": ((8, 0),)}, "8 0 must be a height and a width"),
        ({"min_size": -1}, "`data.min_size`=-1 must be a number of pixels"),
    ],
)
def test_sizes_that_cannot_be_trained_on_are_refused(config, fields, message):
    with pytest.raises(ValueError, match=message):
        checks.check(with_data(config, **fields))


def test_sizes_that_the_network_does_not_take_are_refused(config):
    two_levels = dataclasses.replace(config.net, channels=(8, 8))
    with pytest.raises(ValueError, match=r"`data.buckets`: 9 8 does not fit the network: "):
        checks.check(dataclasses.replace(with_data(config, buckets=((8, 8), (9, 8))), net=two_levels))
    latents = configs.Latent("a codec", (4, 4, 1))
    with pytest.raises(
        ValueError, match=r"`data.buckets`: 9 8 does not fit the network: its latents would not be whole"
    ):
        checks.check(dataclasses.replace(with_data(config, buckets=((9, 8),)), latent=latents))
    with pytest.raises(ValueError, match=r"`data.random_crop` cannot go with `latent.codec`"):
        checks.check(dataclasses.replace(with_data(config, random_crop=True), latent=latents))


def test_a_config_with_buckets_is_read_again(config):
    assert configs.from_json(configs.to_json(config)) == config


def test_random_crops_train(config, tmp_path):
    state = fit(with_data(config, buckets=(), random_crop=True), run=tmp_path / "run")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_memory_and_workers_may_change_on_resume(config):
    changed = with_data(config, memory_gib=0.0, workers=3)
    rundir.check_same(config, changed)
    with pytest.raises(ValueError, match=r"`resume` cannot change data.min_size from 0 to 3"):
        rundir.check_same(config, with_data(config, min_size=3))
    for wrong in ({"memory_gib": -1.0}, {"memory_gib": float("nan")}, {"workers": -1}):
        with pytest.raises(ValueError, match=r"`data.workers`=.* must be at least 0"):
            checks.check(with_data(config, **wrong))


def test_a_source_of_several_sizes_is_trained_on_as_buckets_are(config, tmp_path):
    plain, photos = with_data(config, buckets=()), data.load(config.data.source, (8, 8, 1))
    source, cropped = data.sized(photos, BUCKETS), data.sized(photos, random_crop=True)
    own = dataclasses.replace(config, data=setup.of_own(plain.data, source))
    assert (own.data.source.kind, own.data.buckets, own.data.random_crop) == ("own", BUCKETS, False)
    assert setup.open_source(own, source).identity == setup.open_source(config).identity
    assert setup.of_own(plain.data, cropped).random_crop and setup.of_own(config.data, photos).buckets == BUCKETS
    with pytest.raises(ValueError, match=r"`data.buckets` .* are not those of the source"):
        setup.of_own(with_data(config, buckets=((8, 8),)).data, source)
    two_levels = dataclasses.replace(plain, net=dataclasses.replace(config.net, channels=(8, 8)))
    with pytest.raises(ValueError, match=r"`data.buckets`: 9 8 does not fit the network: "):
        fit(two_levels, data.sized(photos, ((8, 8), (9, 8))), run=tmp_path / "run")
