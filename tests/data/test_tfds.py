"""Data sets prepared by tensorflow-datasets, read from their files alone: tiny ones are made here."""

import io
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxdiff import data
from jaxdiff.data.prepared import parse

Picture, Label = tfds.features.Image, tfds.features.ClassLabel


def png(image):
    """A file of it; tensorflow-datasets would encode an array through TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where prepared data sets lie."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


def prepare(home, features, examples, name="tiny", version="1.0.0", config=None, splits=("train",)):
    """Prepares a data set whose code nobody finds afterwards; each split holds all examples."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Tiny."""

        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self):
            yield from enumerate(examples)

    Tiny.name = name
    tfds.disable_progress_bar()
    Tiny(data_dir=home, file_format="array_record", config=config).download_and_prepare()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


IMAGES = [noise(4, 6, 3, seed=i) for i in range(5)]
LABELLED = [{"image": png(image), "label": "ab"[i % 2]} for i, image in enumerate(IMAGES)]
FEATURES = {"image": Picture(shape=(4, 6, 3)), "label": Label(names=["a", "b"])}


def same(source, images):
    """Whether a source holds these images, in whatever order."""
    found = sorted(example["image"].tobytes() for example in source)
    return found == sorted(image.tobytes() for image in images)


@pytest.mark.parametrize(
    "name, parts",
    [
        ("cifar10", ("cifar10", "*.*.*", "train")),
        ("cifar10:", ("cifar10", "*.*.*", "train")),
        ("cifar10:test", ("cifar10", "*.*.*", "test")),
        ("cifar10:3.0.2", ("cifar10", "3.0.2", "train")),
        ("cifar10:3.*.*:test", ("cifar10", "3.*.*", "test")),
        ("cifar10:train[:80%]", ("cifar10", "*.*.*", "train[:80%]")),
        ("cifar10:3.0.2:train[10%:80%]+test[5:]", ("cifar10", "3.0.2", "train[10%:80%]+test[5:]")),
        ("imagenet_resized/64x64", ("imagenet_resized/64x64", "*.*.*", "train")),
        ("imagenet_resized/64x64:0.1.0:validation", ("imagenet_resized/64x64", "0.1.0", "validation")),
        ("cifar10_corrupted/brightness_1:train", ("cifar10_corrupted/brightness_1", "*.*.*", "train")),
        ("e/a-b+c.d:1.0.0", ("e/a-b+c.d", "1.0.0", "train")),
    ],
)
def test_names_are_taken_apart(name, parts):
    assert parse(name) == parts


@pytest.mark.parametrize("name", ["", ":train", "3d", "a/b/c", "a b", "/a", "a/:train"])
def test_malformed_names_are_refused(name):
    with pytest.raises(ValueError, match=r"must be tfds:NAME\[:SPLIT\], such as tfds:cifar10"):
        data.load(f"tfds:{name}")


def test_images_and_labels(home):
    prepare(home, FEATURES, LABELLED)
    source = data.load("tfds:tiny")
    assert len(source) == 5 and source.classes == ("a", "b") and source.image_shape == (4, 6, 3)
    assert same(source, IMAGES)
    labels = {image.tobytes(): i % 2 for i, image in enumerate(IMAGES)}
    assert all(type(e["label"]) is int and e["label"] == labels[e["image"].tobytes()] for e in source)
    assert set(next(data.batches(source, 5, labels=True))["cond"].label.ravel()) == {0, 1}


def test_splits(home):
    prepare(home, FEATURES, LABELLED, splits=("train", "test"))
    for split, size in {"train[:2]": 2, "train[:80%]": 4, "train+test": 10, "test[1:]+train": 9, "all": 10}.items():
        assert len(data.load(f"tfds:tiny:1.0.0:{split}")) == size
    with pytest.raises(ValueError, match="unknown split of tiny 'tran': did you mean 'train'"):
        data.load("tfds:tiny:test+tran[:3]")
    with pytest.raises(ValueError, match=r"train\[:3 is no split of tiny: write such as"):
        data.load("tfds:tiny:train[:3")
    with pytest.raises(ValueError, match=r"train\[:0\] of tiny holds no examples"):
        data.load("tfds:tiny:train[:0]")


def test_another_shape_must_be_asked_for(home):
    prepare(home, FEATURES, LABELLED)
    assert data.load("tfds:tiny", (4, 6, 3)).image_shape == (4, 6, 3)
    message = "the images of tiny are 4x6x3, and `image_shape` is 4x4x3: `resize` crops and resizes them"
    with pytest.raises(ValueError, match=message):
        data.load("tfds:tiny", (4, 4, 3))
    source = data.load("tfds:tiny", (4, 4, 3), resize=True)
    assert source.image_shape == (4, 4, 3) and same(source, [image[:, 1:5] for image in IMAGES])
    assert same(data.load("tfds:tiny", (4, 6, 3), resize=True), IMAGES)
    assert data.load("tfds:tiny", (2, 2, 1), resize=True)[0]["image"].shape == (2, 2, 1)


def test_images_that_vary_in_size_must_be_resized(home):
    images = [noise(4, 10, 3), noise(8, 4, 3), np.full([5, 5], 77, np.uint8)]  # the last one grey
    prepare(home, {"image": Picture(), "label": Label(num_classes=3)}, [{"image": png(x), "label": 0} for x in images])
    with pytest.raises(ValueError, match="the images of tiny vary in size: set `image_shape` and `resize`"):
        data.load("tfds:tiny")
    with pytest.raises(ValueError, match=r"the images of tiny vary in size, and `image_shape` is 4x4x3"):
        data.load("tfds:tiny", (4, 4, 3))
    source = data.load("tfds:tiny", (4, 4, 3), resize=True)
    assert source.classes == ("0", "1", "2")
    assert same(source, [images[0][:, 3:7], images[1][2:6], np.full([4, 4, 3], 77, np.uint8)])


def test_other_names_of_the_only_image_and_of_the_only_label(home):
    features = {"picture": Picture(shape=(4, 6, 3)), "kind": Label(names=["a", "b"]), "id": np.int64}
    prepare(home, features, [{"picture": png(x), "kind": "b", "id": 1} for x in IMAGES])
    source = data.load("tfds:tiny")
    assert same(source, IMAGES) and source[0]["label"] == 1 and set(source[0]) == {"image", "label"}


def test_an_image_called_image_is_taken_before_others(home):
    features = {"image": Picture(shape=(4, 6, 3)), "mask": Picture(shape=(4, 6, 1))}
    prepare(home, features, [{"image": png(x), "mask": png(x[..., 0])} for x in IMAGES])
    assert same(data.load("tfds:tiny"), IMAGES)


def test_images_of_which_none_can_be_chosen(home):
    prepare(home, {"a": Picture(), "b": Picture()}, [{"a": png(IMAGES[0]), "b": png(IMAGES[0])}], name="two")
    with pytest.raises(ValueError, match=r"two has 2 images in each example, .*: its features are a, b"):
        data.load("tfds:two")
    prepare(home, {"x": np.int64}, [{"x": 1}], name="none")
    with pytest.raises(ValueError, match=r"none has 0 images in each example, .*: its features are x"):
        data.load("tfds:none")
    prepare(home, {"image": Picture(shape=(4, 6, 1), dtype=np.uint16)}, [{"image": b""}], name="deep")
    with pytest.raises(ValueError, match="the images of deep are not single images of 8 bits"):
        data.load("tfds:deep")


def test_without_labels(home):
    prepare(home, {"image": Picture(shape=(4, 6, 3)), "id": np.int64}, [{"image": png(x), "id": 7} for x in IMAGES])
    source = data.load("tfds:tiny")
    assert source.classes == () and set(source[0]) == {"image"}
    assert next(data.batches(source, 5))["image"].shape == (1, 5, 4, 6, 3)
    with pytest.raises(ValueError, match=r"tiny has no labels \(its features are id, image\)"):
        data.batches(source, 5, labels=True)


def test_texts_called_caption_are_captions_and_others_are_not(home):
    image, text = tfds.features.Image(shape=(4, 4, 3)), tfds.features.Text()
    rows = [{"image": png(noise(4, 4, 3)), "caption": "a grey cat", "id": "x_1"}]
    prepare(home, {"image": image, "caption": text, "id": text}, rows, name="captioned_cats")
    prepare(home, {"image": image, "id": text}, [{"image": png(noise(4, 4, 3)), "id": "x_1"}], name="numbered_cats")
    source = data.load("tfds:captioned_cats")
    assert source.captioned and source[0]["caption"] == "a grey cat"
    source = data.load("tfds:numbered_cats")
    assert not source.captioned and "caption" not in source[0]


def test_a_label_of_no_class_is_refused_when_labels_are_read(home):
    prepare(home, FEATURES, [*LABELLED, {"image": png(IMAGES[0]), "label": -1}])
    source = data.load("tfds:tiny")
    next(data.batches(source, 6))
    with pytest.raises(ValueError, match=r"example \d has label -1, and there are only 0..1"):
        next(data.batches(source, 6, labels=True))


def test_captions_are_stored_between_starts_for_each_split_and_read_again_after_a_change(home):
    def captions(split):
        return list(data.load(f"tfds:cats:{split}").captions())

    def prepared_with(texts):
        features = {"image": Picture(shape=(4, 6, 3)), "caption": tfds.features.Text()}
        prepare(home, features, [{"image": png(IMAGES[0]), "caption": text} for text in texts], name="cats")

    prepared_with([f"cat {i}" for i in range(600)])
    texts = captions("train")
    assert sorted(texts) == sorted(f"cat {i}" for i in range(600)) and captions("train[:3]") == texts[:3]
    (path,) = home.rglob("*.array_record*")
    content, time = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(content[:1000] + bytes(len(content) - 2000) + content[-1000:])
    with pytest.raises(ValueError, match=r"one of the records 0 to 255 of .* cannot be read"):
        captions("train")
    os.utime(path, ns=(time, time))
    assert captions("train") == texts, "they are those that are stored"
    shutil.rmtree(home / "cats")
    prepared_with(["another cat"])
    assert captions("train") == ["another cat"]


def test_broken_records_are_named(home):
    prepare(home, FEATURES, [{"image": png(IMAGES[0])[:60], "label": "a"}])
    with pytest.raises(
        ValueError, match=r"record 0 of train of tiny in .* cannot be read \(.*truncated.*prepare it anew"
    ):
        data.load("tfds:tiny")[0]
    prepare(home, FEATURES, [{"image": png(noise(6, 4, 3)), "label": "a"}], name="other")
    with pytest.raises(ValueError, match=r"record 0 of train of other in .* cannot be read \(it is 6x4, not 4x6\)"):
        data.load("tfds:other")[0]


DAMAGES = {
    "cut short": lambda content: content[: len(content) // 2],
    "garbled": lambda content: content[:100] + bytes(len(content) - 200) + content[-100:],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_said_in_one_line(home, damage):
    prepare(home, FEATURES, LABELLED)
    (path,) = home.rglob("*.array_record*")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"of tiny in .* cannot be .* prepare it anew") as said:
        list(data.load("tfds:tiny"))
    assert str(home) in str(said.value)


def test_the_newest_version_is_taken_and_configs_are_told_apart(home):
    for version, count in {"1.9.0": 1, "1.10.0": 2, "2.0.0": 3}.items():
        prepare(home, FEATURES, LABELLED[:count], version=version)
    assert [len(data.load(f"tfds:tiny{v}")) for v in ("", ":1.*.*", ":1.9.0", ":2.0.0:train")] == [3, 2, 1, 3]
    with pytest.raises(
        FileNotFoundError, match=r"tiny:3.0.0 is not prepared in .*only tiny:1.10.0, tiny:1.9.0, tiny:2"
    ):
        data.load("tfds:tiny:3.0.0")
    prepare(home, FEATURES, LABELLED[:4], name="many", config="64x64")
    assert len(data.load("tfds:many")) == len(data.load("tfds:many/64x64:1.0.0")) == 4
    prepare(home, FEATURES, LABELLED[:5], name="many", config="8x8")
    assert len(data.load("tfds:many/8x8")) == 5
    with pytest.raises(ValueError, match="many is prepared in 2 configs: choose tfds:many/64x64 or tfds:many/8x8"):
        data.load("tfds:many")
    with pytest.raises(
        FileNotFoundError, match=r"many/16x16 is not prepared in .*only many/64x64:1.0.0, many/8x8:1.0.0"
    ):
        data.load("tfds:many/16x16")


def test_another_format_says_how_to_convert_it(home):
    prepare(home, FEATURES, LABELLED)
    info = home / "tiny" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    command = f"tfds convert_format --dataset_version_dir={info.parent} --out_file_format=array_record"
    with pytest.raises(FileNotFoundError, match=f"as tfrecord, which cannot be read at random: .*'{command}'"):
        data.load("tfds:tiny")


def test_unprepared_data_says_what_to_run_and_where_it_was_looked_for(home, monkeypatch):
    command = "tfds build cifar10/x:1.0.0 --file_format=array_record"
    with pytest.raises(FileNotFoundError, match=f"cifar10/x:1.0.0 is not prepared in {home}: .*'{command}'") as error:
        data.load("tfds:cifar10/x:1.0.0:test")
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="'tfds build coco --file_format=array_record'"):
        data.load("tfds:coco")  # whose code needs TensorFlow
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(home / "nobody"))
    with pytest.raises(FileNotFoundError, match=f"not prepared in {home}/nobody/tensorflow_datasets"):
        data.load("tfds:cifar10")


def test_unknown_names_say_which_are_near(home):
    with pytest.raises(
        ValueError, match=f"does not know 'CIFAR', nor is it prepared in {home}: did you mean 'cifar10'"
    ):
        data.load("tfds:CIFAR")


def test_a_relative_home_is_understood(home, monkeypatch):
    prepare(home, FEATURES, LABELLED)
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.setenv("TFDS_DATA_DIR", f"~/{home.name}")
    assert len(data.load("tfds:tiny")) == 5
