"""The images of a folder: which, in what order, with what labels, and what happens with broken ones."""

import itertools
import json
import os
import random
import re
import threading
import time

import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxdiff import data
from jaxdiff.data import image_decode
from jaxdiff.data.sources import folder

SHAPE = (8, 8, 3)


def put(path, value=0):
    """Writes a picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"png": "PNG", "webp": "WEBP"}.get(path.suffix[1:].lower(), "JPEG")
    Image.new("RGB", (16, 16), (value, value, value)).save(path, kind)


def values(source):
    """The colour of each picture, roughly."""
    return [round(example["image"].mean()) for example in source]


@pytest.fixture
def photos(tmp_path):
    """Pictures in two folders, with what lies about beside them."""
    root = tmp_path / "photos"
    names = [
        "cats/b.jpg",
        "cats/a.PNG",
        "Dogs/z.jpeg",
        "Dogs/deep/er/y.webp",
        "cats/B.JPG",
        "Dogs/10.png",
        "Dogs/9.png",
    ]
    for i, name in enumerate(sorted(names)):
        put(root / name, 10 * (i + 1))
    for name in (".hidden/x.png", "cats/.trash/x.png", "cats/._a.PNG"):
        put(root / name, 250)
    (root / "cats" / "notes.txt").write_text("not an image")
    (root / "empty").mkdir()
    return root


def broken(path):
    """Writes a JPEG that ends too early."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-1000])


def test_files_come_sorted_with_their_folders_as_labels(photos):
    source = data.load(f"folder:{photos}", SHAPE)
    assert (
        len(source) == 7 and source.classes == ("Dogs", "cats") and source.image_shape == SHAPE and not source.skipped
    )
    assert np.abs(np.array(values(source)) - 10 * np.arange(1, 8)).max() <= 2
    assert [example["label"] for example in source] == [0, 0, 0, 0, 1, 1, 1]
    assert all(example["image"].shape == SHAPE and example["image"].dtype == np.uint8 for example in source)


def test_the_order_is_not_that_in_which_the_disk_lists_them(photos, monkeypatch):
    expected = folder.list_images(epath.Path(photos))[0]
    kind = type(epath.Path(photos))
    original = kind.iterdir
    for seed in range(3):
        shuffle = lambda self, seed=seed: random.Random(seed).sample(found := sorted(original(self)), len(found))
        monkeypatch.setattr(kind, "iterdir", shuffle)
        assert folder.list_images(epath.Path(photos))[0] == expected
    assert expected == sorted(expected) and expected[0] == "Dogs/10.png"


def test_a_link_that_leads_back_up_ends(photos):
    (photos / "cats" / "again").symlink_to(photos)
    assert len(data.load(f"folder:{photos}", SHAPE)) == 7
    (photos / "more").symlink_to(photos / "Dogs")
    assert len(data.load(f"folder:{photos}", SHAPE)) == 7 + 4


def test_grey_on_request(photos):
    assert data.load(f"folder:{photos}", (4, 6, 1))[0]["image"].shape == (4, 6, 1)


def test_home_is_understood(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert len(data.load("folder:~/photos", SHAPE)) == 7


def test_images_without_folders_have_no_labels(tmp_path):
    put(tmp_path / "a.png")
    source = data.load(f"folder:{tmp_path}", SHAPE)
    assert source.classes == () and "label" not in source[0]
    assert next(data.batches(source, 2))["image"].shape == (1, 2, *SHAPE)
    with pytest.raises(ValueError, match=r"1 of its 1 images are in none of them, such as a.png"):
        data.batches(source, 2, labels=True)


def test_images_beside_the_folders_take_the_labels_away(photos):
    put(photos / "stray.png")
    source = data.load(f"folder:{photos}", SHAPE)
    assert len(source) == 8 and source.classes == () and "label" not in source[0]
    with pytest.raises(ValueError, match=r"labels are the names of the folders in .*1 of its 8 images .* stray.png"):
        data.batches(source, 2, labels=True)


def test_labels_reach_the_batches(photos):
    source = data.load(f"folder:{photos}", SHAPE)
    batch = next(data.batches(source, 7, labels=True))
    np.testing.assert_array_equal(batch["cond"].label[0], [source[i]["label"] for i in batch["example"][0]])


def test_a_broken_file_is_named_with_what_to_do(photos):
    broken(photos / "cats" / "c.jpg")
    source = data.load(f"folder:{photos}", SHAPE)
    with pytest.raises(ValueError) as error:
        values(source)
    message = str(error.value)
    assert str(photos / "cats" / "c.jpg") in message and "truncated" in message and "\n" not in message
    assert "put a sound file in its place; a new run can also do without it" in message


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_a_broken_file_stops_the_batches_and_their_threads(photos, threads):
    broken(photos / "cats" / "c.jpg")
    source = data.load(f"folder:{photos}", SHAPE)
    before, caught, good = threading.active_count(), [], []

    def consume():
        try:
            for batch in itertools.islice(data.batches(source, 2, num_threads=threads), 8):
                good.append(batch)
        except ValueError as error:
            caught.append(error)  # with its traceback, which holds on to the reader

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    consumer.join(30)
    assert not consumer.is_alive(), "it hangs"
    assert "c.jpg cannot be read (image file is truncated" in str(caught[0])
    whole = [
        {"image": np.zeros(SHAPE, np.uint8)}
    ] * 8  # in the same order, for it depends on the number of examples alone
    step = next(
        i for i, batch in enumerate(data.batches(whole, 2)) if 7 in batch["example"]
    )  # sorted, c.jpg is the last
    assert len(good) == step, "all before it must come"
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_broken_files_are_left_out_and_reported(photos, caplog):
    broken(photos / "cats" / "c.jpg")
    (photos / "Dogs" / "0.png").write_bytes(b"")
    (photos / "Dogs" / "gone.png").symlink_to(photos / "nowhere.png")
    source = data.load(f"folder:{photos}", SHAPE, skip_broken=True)
    said = rf"left out 3 of the 10 images in {photos}: .*/0.png cannot be read .it is empty.; .*gone.png .*; .*c.jpg [^\n]*"
    assert [record.levelname for record in caplog.records] == ["WARNING"] and re.fullmatch(said, caplog.messages[0])
    expected = [os.fspath(photos / name) for name in ("Dogs/0.png", "Dogs/gone.png", "cats/c.jpg")]
    assert sorted(source.skipped) == expected and len(source) == 7
    assert np.abs(np.array(values(source)) - 10 * np.arange(1, 8)).max() <= 2
    assert [example["label"] for example in source] == [0, 0, 0, 0, 1, 1, 1]


def test_looking_for_broken_files_says_nothing_where_there_are_none(photos, capfd, caplog):
    source = data.load(f"folder:{photos}", SHAPE, skip_broken=True)
    assert len(source) == 7 and source.skipped == ()
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_all_broken_is_an_error(tmp_path):
    broken(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"none of the 1 images in .* can be read: .*a.jpg"):
        data.load(f"folder:{tmp_path}", SHAPE, skip_broken=True)


def test_every_file_is_looked_through_once(tmp_path, monkeypatch):
    seen = []
    for i in range(100):
        (tmp_path / f"{i:03d}.png").touch()
    monkeypatch.setattr(image_decode, "read_image", lambda path, shape: seen.append(path.name))
    data.load(f"folder:{tmp_path}", SHAPE, skip_broken=True)
    assert sorted(seen) == [f"{i:03d}.png" for i in range(100)]


def test_kinds_of_image_that_are_not_read_are_mentioned(photos, caplog):
    (photos / "cats" / "IMG_1.HEIC").touch()
    assert len(data.load(f"folder:{photos}", SHAPE)) == 7
    assert f"1 images in {photos} are not used, such as cats/IMG_1.HEIC: only files that end in" in caplog.messages[0]


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda root: None, FileNotFoundError, "photos is not there"),
        (lambda root: root.touch(), FileNotFoundError, "photos is a file, not a folder"),
        (
            lambda root: root.mkdir(),
            ValueError,
            r"no image in .*photos: only files that end in .png, .jpg, .jpeg, .webp",
        ),
        (lambda root: put(root / ".x" / "a.png"), ValueError, "there is no image in"),
        (lambda root: (root.mkdir(), (root / "a.gif").touch()), ValueError, r"\(it has 1 such as a.gif\)"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, make, kind, message):
    make(tmp_path / "photos")
    with pytest.raises(kind, match=message) as error:
        data.load(f"folder:{tmp_path}/photos", SHAPE)
    assert "\n" not in str(error.value)


def test_a_shape_is_needed(photos):
    with pytest.raises(ValueError, match="give an image_shape"):
        data.load(f"folder:{photos}")
    with pytest.raises(ValueError, match="image_shape=8x8x2 must be"):
        data.load(f"folder:{photos}", (8, 8, 2))
    with pytest.raises(ValueError, match="folder: must be folder:PATH"):
        data.load("folder:", SHAPE)


def test_a_bucket(photos, bucket):
    for path in photos.rglob("*.*"):
        if path.is_file():
            bucket.pipe(f"gs://lent/{path.relative_to(photos.parent)}", path.read_bytes())
    source = data.load("folder:gs://lent/photos", SHAPE)
    assert source.classes == ("Dogs", "cats")
    for found, expected in zip(source, data.load(f"folder:{photos}", SHAPE), strict=True):
        np.testing.assert_array_equal(found["image"], expected["image"])
    bucket.pipe("gs://lent/photos/cats/c.jpg", b"broken")
    assert data.load("folder:gs://lent/photos", SHAPE, skip_broken=True).skipped == ("gs://lent/photos/cats/c.jpg",)
    with pytest.raises(FileNotFoundError, match="gs://lent/nothing is not there"):
        data.load("folder:gs://lent/nothing", SHAPE)


def captioned(root, how):
    """Two pictures, one of them in a folder, with captions."""
    texts = {"a.png": "a grey square", "deep/b.png": "an umlaut: ü"}
    for i, name in enumerate(texts):
        put(root / name, 10 * i)
    if how == "beside":
        for name, text in texts.items():
            (root / name).with_suffix(".txt").write_text(f" {text}\n")
        return
    key = {"table": "text", "other word": "caption"}[how]
    lines = [json.dumps({"file_name": name, key: text, "more": 1}) for name, text in texts.items()]
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n\n")


@pytest.mark.parametrize("how", ["beside", "table", "other word"])
def test_captions(tmp_path, how):
    captioned(tmp_path, how)
    source = data.load(f"folder:{tmp_path}", SHAPE)
    assert source.captioned
    assert [example["caption"] for example in source] == ["a grey square", "an umlaut: ü"]


def test_captions_of_other_alphabets_and_line_ends(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("\ufeff日本\u2028x\n".encode())
    assert data.load(f"folder:{tmp_path}", SHAPE)[0]["caption"] == "日本\u2028x"
    lines = json.dumps({"file_name": "a.png", "text": "日本\u2028x"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_bytes(("\ufeff" + lines + "\r\n").encode())
    assert data.load(f"folder:{tmp_path}", SHAPE)[0]["caption"] == "日本\u2028x"


def test_captions_are_read_only_where_they_are_asked_for(tmp_path):
    captioned(tmp_path, "beside")
    before = data.load(f"folder:{tmp_path}", SHAPE)
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "metadata.jsonl").write_text("{}")
    after = data.load(f"folder:{tmp_path}", SHAPE)
    assert before.identity == after.identity and after.read(0)["image"].shape == SHAPE
    assert next(data.batches(after, 2))["image"].shape == (1, 2, *SHAPE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda root: (root / "a.txt").unlink(), "1 of the 2 images .* have no .txt beside them, such as a.png"),
        (lambda root: [path.unlink() for path in root.rglob("*.txt")], "there are no captions in .*: neither"),
        (lambda root: (root / "a.txt").write_bytes(b"\xff"), "a.txt cannot be read as UTF-8"),
        (lambda root: (root / "metadata.jsonl").write_text("{}"), "line 1 of .*metadata.jsonl is not"),
        (
            lambda root: (root / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}'),
            "metadata.jsonl has no line for deep/b.png",
        ),
        (lambda root: (root / "metadata.jsonl").write_text('{"file_name": "a.png", "text": 3}'), "line 1 of .* is not"),
    ],
)
def test_captions_that_are_missing_or_broken(tmp_path, change, why):
    captioned(tmp_path, "beside")
    change(tmp_path)
    with pytest.raises(ValueError, match=why):
        source = data.load(f"folder:{tmp_path}", SHAPE)
        [example["caption"] for example in source if source.captioned]
        raise ValueError(source.no_captions_reason)
