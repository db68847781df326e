"""Images of several sizes: each in the bucket nearest to it, once per epoch, whatever the processes and the stops."""

import collections
import itertools
import logging

import numpy as np
import pytest
from PIL import Image

from jaxdiff import data
from jaxdiff.data import caption_tags, derived, order, sizes
from jaxdiff.data.base import Buckets
from jaxdiff.data.control_inputs import CONTROL_INPUTS

BUCKETS = ((16, 16), (12, 20), (20, 12), (8, 32), (32, 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty images, of grey levels that are their numbers, in five ratios: 3, 9, 4, 11 and 13 of each."""
    root, i = tmp_path_factory.mktemp("photos"), 0
    for count, (height, width) in zip((3, 9, 4, 11, 13), BUCKETS):
        for _ in range(count):
            Image.fromarray(np.full((3 * height, 3 * width), i, np.uint8)).save(root / f"{i:02}.png")
            (root / f"{i:02}.txt").write_text(f"picture {i}")
            i += 1
    return root


def opened(folder, **options):
    return data.sized(data.load(f"folder:{folder}", (16, 16, 1)), BUCKETS, **options)


def test_each_image_gets_the_bucket_of_its_ratio(folder):
    source = opened(folder)
    assert collections.Counter(example["image"].shape[:2] for example in source) == dict(
        zip(BUCKETS, (3, 9, 4, 11, 13))
    )
    assert [example["image"].max() for example in source] == list(range(40))
    assert source.captions()[7] == "picture 7" and source.shape_of(0) == (16, 16, 1)


def test_nearest_ratio_of_random_images():
    """Against the definition, image by image."""
    rng, shapes = np.random.default_rng(0), [(16, 16), (12, 20), (20, 12), (8, 32)]
    found = rng.integers(1, 1000, [50, 2])
    for (height, width), chosen in zip(found, sizes.nearest(found, shapes)):
        factors = [max(height * w / (width * h), width * h / (height * w)) for h, w in shapes]
        assert factors[chosen] == min(factors)


def test_buckets_of_an_area():
    """Among them the usual ones of Stable Diffusion XL (Podell et al. 2023, appendix I)."""
    found = data.aspect_buckets(1024, 1024, step=64, max_ratio=2.0)
    assert {(1344, 768), (1216, 832), (1152, 896), (1024, 1024), (896, 1152), (768, 1344)} <= set(found)
    assert all(h % 64 == w % 64 == 0 and 0.85 * 1024**2 < h * w <= 1024**2 for h, w in found)
    for wrong in ({"step": 0}, {"step": 2000}, {"max_ratio": 0.5}, {"max_ratio": float("nan")}):
        with pytest.raises(ValueError, match=r"`step`=.* `max_ratio`="):
            data.aspect_buckets(1024, 1024, **({"step": 64} | wrong))


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_calls_of_one_shape_and_every_image_as_often_as_the_others_of_its_bucket(folder, steps_per_call):
    source, seen = opened(folder), collections.Counter()
    of, pending = source.buckets.of, collections.Counter()
    stream = data.batches(source, 4, steps_per_call=steps_per_call)
    for batch in itertools.islice(stream, 40 // steps_per_call):
        examples = batch["example"].ravel()
        assert len(set(of[examples].tolist())) == 1
        assert batch["image"].shape == (steps_per_call, 4, *source.shape_of(examples[0]))
        assert (batch["image"].max(axis=(2, 3, 4)).ravel() == examples).all()
        for i in examples.tolist():  # within a batch a bucket may begin anew
            seen[i] += 1
            pending[of[i]] += 1
            group = [seen[j] for j in np.flatnonzero(of == of[i]).tolist()]
            assert max(group) - min(group) <= 1
    stream.close()
    assert min(seen.values()) >= 2 and set(pending) == set(range(5))  # 160 examples are four passes over forty


def test_an_epoch_of_whole_batches_has_each_image_once():
    of = np.repeat(np.arange(5), (4, 8, 12, 4, 16))
    seen = order.in_buckets(Buckets(BUCKETS, of), seed=3, call=4)
    epochs = [[seen[p] for p in range(44 * e, 44 * e + 44)] for e in range(3)]
    assert all(sorted(epoch) == list(range(44)) for epoch in epochs)
    assert epochs[0] != epochs[1] and (of[epochs[0]][::4] != np.sort(of[epochs[0]][::4])).any()  # shuffled, anew


def test_each_bucket_comes_as_often_as_it_has_images():
    of = np.repeat(np.arange(3), (1, 30, 69))  # one of them less than a batch
    seen = order.in_buckets(Buckets(BUCKETS[:3], of), seed=0, call=8)
    counts = np.bincount(of[[seen[p] for p in range(8 * 100 * 8)]], minlength=3) / (8 * 8)
    np.testing.assert_allclose(counts, [1, 30, 69], atol=0.5)


def test_processes_and_starts_do_not_change_the_order(folder):
    source, numbers = opened(folder), lambda stream, n: [batch["example"] for batch in itertools.islice(stream, n)]
    whole = numbers(data.batches(source, 4, steps_per_call=2, seed=5), 12)
    later = numbers(data.batches(source, 4, steps_per_call=2, seed=5, start_step=14), 5)
    np.testing.assert_array_equal(later, whole[7:])
    halves = [
        numbers(data.batches(source, 4, steps_per_call=2, seed=5, process_index=p, process_count=2), 12) for p in (0, 1)
    ]
    for n in range(12):
        np.testing.assert_array_equal(np.stack([half[n] for half in halves], axis=-1).reshape(2, 4), whole[n])


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """Wide images whose levels say their columns."""
    root = tmp_path_factory.mktemp("ramps")
    for i in range(4):
        Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (20, 1))).save(root / f"{i}.png")
    return root


def test_random_crops_are_anew_in_each_epoch_and_the_same_again(ramps):
    plain = data.load(f"folder:{ramps}", (20, 20, 1))
    source = data.sized(plain, random_crop=True)
    epochs = lambda: [batch["image"][0, ..., 0, 0, 0] for batch in itertools.islice(data.batches(source, 4), 30)]
    lefts = np.stack(epochs())
    np.testing.assert_array_equal(lefts, np.stack(epochs()))
    assert lefts.min() < 30 and lefts.max() > 150 and len(np.unique(lefts)) > 60  # of the 181 places
    assert plain[0]["image"][0, 0, 0] == source.read(0)["image"][0, 0, 0] == 90  # the centre
    assert source.read(0, (0.0, 0.0))["image"][0, 0, 0] == 0
    batch = next(data.batches(source, 4))
    assert (np.diff(batch["image"].astype(int), axis=-2) == 1).all()  # cropped, and not resized


def test_crops_reach_control_images_and_labels(ramps):
    source = derived.with_control(data.sized(data.load(f"folder:{ramps}", (24, 24, 3)), random_crop=True), "thumbnail")
    make = CONTROL_INPUTS.choice("thumbnail")
    for batch in itertools.islice(data.batches(source, 4), 3):
        for image, control in zip(batch["image"][0], batch["cond"].control[0]):
            np.testing.assert_array_equal(control, make(image))


def test_small_images_are_left_out_and_named(folder, caplog):
    with caplog.at_level(logging.WARNING):
        source = opened(folder, min_size=36)
    assert len(source) == 3 + 9 + 4 and source.captions()[15] == "picture 15"
    assert (
        "24 of 40 images are left out, of less than 36 pixels on the shorter side, such as 16.png of 96x24"
        in caplog.text
    )
    with pytest.raises(ValueError, match="no image has 49 pixels on its shorter side: the largest has 48"):
        opened(folder, min_size=49)


def test_sizes_are_read_once_and_of_upright_images(tmp_path, monkeypatch):
    image, exif = Image.new("RGB", (30, 20)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    source = data.load(f"folder:{tmp_path}", (8, 8, 3))
    assert sizes.sizes_of(source).tolist() == [[30, 20]]
    monkeypatch.setattr(sizes, "size_of", None)
    assert sizes.sizes_of(data.load(f"folder:{tmp_path}", (8, 8, 3))).tolist() == [[30, 20]]


def test_images_of_one_size_are_refused():
    with pytest.raises(ValueError, match=r"have one size: `data.buckets`, `data.min_size` and `data.random_crop`"):
        data.sized(data.Source(lambda i: {}, 1, (8, 8, 3)), random_crop=True)


def test_images_of_a_class_are_of_one_size(folder):
    with pytest.raises(ValueError, match="of an instance and of its class are of one size"):
        derived.with_prior(opened(folder), data.load("digits:test"))


def test_prompts_keep_the_buckets(folder):
    both = derived.with_prompts(opened(folder), ["a", "b"])
    assert [both[i]["image"].shape == both.shape_of(i) for i in range(80)] == [True] * 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": ((0, 8),)}, "`buckets`=.* must be heights and widths in pixels"),
        ({"buckets": ((8, 8.5),)}, "`buckets`=.* must be heights and widths in pixels"),
        ({"buckets": (8, 8)}, "`buckets`=.* must be heights and widths in pixels"),
        ({"buckets": ((8, 8), (8, 8))}, "`buckets` must be at most 256 sizes, each once"),
        ({"buckets": [(8, 8 + n) for n in range(257)]}, "`buckets` must be at most 256 sizes"),
        ({"min_size": -1}, "`min_size`=-1 must be at least 0"),
        ({"min_size": "3"}, "`min_size`='3' must be of type int"),
        ({"random_crop": 1}, "`random_crop`=1 must be of type bool"),
        ({"memory": -1}, "`memory`=-1 must be at least 0"),
    ],
)
def test_sizes_that_are_none_are_refused_by_name(folder, options, message):
    with pytest.raises(ValueError, match=message):
        data.sized(data.load(f"folder:{folder}", (16, 16, 1)), **options)


def test_sources_that_cannot_be_sized_are_refused(folder):
    with pytest.raises(ValueError, match="in several sizes, or cropped at random, already"):
        data.sized(opened(folder), BUCKETS)
    with pytest.raises(ValueError, match="`source`=list must be of type Source"):
        data.sized([1, 2], BUCKETS)
    with pytest.raises(ValueError, match=r"`step`=16.5 must be of type int"):
        data.aspect_buckets(64, 64, 16.5)


def test_a_call_begins_where_one_bucket_ends(folder):
    with pytest.raises(
        ValueError, match="`start_step`=3 must be a multiple of `steps_per_call`=2: the images of a call"
    ):
        data.batches(opened(folder), 4, start_step=3, steps_per_call=2)


def test_what_was_added_to_examples_is_there_in_every_size(folder):
    """Prompts, control images, labels and triggers of sources that are brought into several sizes afterwards."""
    plain = data.load(f"folder:{folder}", (16, 16, 3))
    twice = data.sized(derived.with_prompts(plain, ["a", "b"]), BUCKETS)
    assert [twice[i]["image"].max() for i in (0, 1, 6, 79)] == [0, 0, 3, 39] and twice[79]["image"].shape == (32, 8, 3)
    control = data.sized(derived.with_control(plain, "thumbnail"), BUCKETS)[0]
    np.testing.assert_array_equal(control["control"], CONTROL_INPUTS.choice("thumbnail")(control["image"]))
    own = data.Source(
        lambda i: {}, 1, (8, 8, 1), ("red",), caption=str, encoded=plain.encoded, fitted=lambda i, shape: {
            "image": np.zeros(shape, np.uint8), "label": 0, "caption": "a dog"
        },
    )  # fmt: skip
    changed = caption_tags.with_trigger(derived.with_classes(own, ("green", "red")), "sks")
    assert data.sized(changed, [(8, 16)]).read(0) | {"image": 0} == {"image": 0, "label": 1, "caption": "sks, a dog"}


def test_images_of_a_class_are_known_by_their_files(folder):
    plain = data.load(f"folder:{folder}", (16, 16, 1))
    both = derived.with_prior(plain, derived.with_prompts(plain, ["a", "b"]))
    assert [both.where(i) for i in (0, 1, 2, 3, 4, 5)] == ["00.png", "00.png", "01.png", "00.png", "02.png", "01.png"]
    assert sizes.sizes_of(both)[[0, 38]].tolist() == [[48, 48], [24, 96]] and both.encoded(5) == plain.encoded(1)
    assert derived.with_prior(plain, data.load("digits:test", (16, 16, 1), resize=True)).where is None
