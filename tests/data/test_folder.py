"""The images of a folder: which, in what order, with what labels, and what happens with broken ones."""

import contextlib
import errno
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
from jaxdiff.data import derived, image_decode, paths, texts
from jaxdiff.data.listing import list_files, list_paths

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


def test_files_are_listed_in_one_order_whatever_the_disk_does(tmp_path, monkeypatch):
    """Names with characters before and after "/" lie in folders that begin as they do."""
    scandir, rng = os.scandir, random.Random(0)

    @contextlib.contextmanager
    def shuffled(path):
        with scandir(path) as entries:
            found = list(entries)
        yield rng.sample(found, len(found))

    monkeypatch.setattr(os, "scandir", shuffled)
    names = ["a.png", "a/b.png", "a/b/c.png", "a-/x.png", "a-.png", "a0.png", "a b/c.png", "ä/x", "a/b-.txt", "A"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(i))
        os.utime(tmp_path / name, ns=(0, 1000 + i))
    for _ in range(3):
        files = list_files(epath.Path(tmp_path))
        assert list(files.names) == sorted(names)
        assert files.sizes.tolist() == [names.index(name) for name in files.names]
        assert files.times.tolist() == [1000 + names.index(name) for name in files.names]


def test_a_link_that_leads_back_up_ends(photos):
    (photos / "cats" / "again").symlink_to(photos)
    assert len(data.load(f"folder:{photos}", SHAPE)) == 7
    (photos / "more").symlink_to(photos / "Dogs")
    assert len(data.load(f"folder:{photos}", SHAPE)) == 7 + 4


def test_a_link_to_itself_is_a_broken_file(photos, caplog):
    (photos / "Dogs" / "self.png").symlink_to(photos / "Dogs" / "self.png")
    with pytest.raises(ValueError, match=r"self.png cannot be read"):
        list(data.load(f"folder:{photos}", SHAPE))
    source = data.load(f"folder:{photos}", SHAPE, skip_broken=True)
    assert len(source) == 7 and source.skipped == (os.fspath(photos / "Dogs" / "self.png"),)


def test_a_pipe_is_left_out_and_not_waited_for(photos, caplog):
    os.mkfifo(photos / "Dogs" / "p.png")
    (photos / "Dogs" / "q.png").symlink_to(photos / "Dogs" / "p.png")
    source = data.load(f"folder:{photos}", SHAPE, skip_broken=True)
    assert len(source) == 7 and not source.skipped
    assert [record.message for record in caplog.records] == [
        f"left out of {photos} 2 pipes, sockets or devices, such as Dogs/{os.path.basename(name)}"
        for name in ("p.png" if "p.png" in caplog.text else "q.png",)
    ]


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


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EIO, errno.ESTALE, None])
def test_an_error_that_may_pass_is_no_broken_file(photos, monkeypatch, number):
    """As of a network that does not answer: with it the number of examples, and so their order, would change."""

    def fails(path):
        raise OSError(number, "it does not answer", os.fspath(path))

    monkeypatch.setattr(image_decode, "read_regular", fails)
    with pytest.raises(OSError, match="it does not answer"):
        data.load(f"folder:{photos}", SHAPE, skip_broken=True)


def test_all_broken_is_an_error(tmp_path):
    broken(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"none of the 1 images in .* can be read: .*a.jpg"):
        data.load(f"folder:{tmp_path}", SHAPE, skip_broken=True)


def test_every_file_is_looked_through_once(tmp_path, monkeypatch):
    seen = []
    for i in range(100):
        (tmp_path / f"{i:03d}.png").touch()
    monkeypatch.setattr(image_decode, "read_image", lambda path, *rest: seen.append(path.name))
    data.load(f"folder:{tmp_path}", SHAPE, skip_broken=True)
    assert sorted(seen) == [f"{i:03d}.png" for i in range(100)]


def test_kinds_of_image_that_are_not_read_are_mentioned(photos, caplog):
    (photos / "cats" / "IMG_1.HEIC").touch()
    assert len(data.load(f"folder:{photos}", SHAPE)) == 7
    assert f"1 files in {photos} are not used, such as cats/IMG_1.HEIC: only files that end in" in caplog.messages[0]


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda root: None, FileNotFoundError, "photos is not there"),
        (lambda root: root.touch(), FileNotFoundError, "photos is a file, not a folder"),
        (
            lambda root: root.mkdir(),
            ValueError,
            r"no image in .*photos: only files that end in .png, .jpg, .jpeg, .jpe, .jfif, .webp",
        ),
        (lambda root: put(root / ".x" / "a.png"), ValueError, "there is no image in"),
        (lambda root: (root.mkdir(), (root / "a.heic").touch()), ValueError, r"\(it has 1 such as a.heic\)"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, make, kind, message):
    make(tmp_path / "photos")
    with pytest.raises(kind, match=message) as error:
        data.load(f"folder:{tmp_path}/photos", SHAPE)
    assert "\n" not in str(error.value)


def test_a_shape_is_needed(photos):
    with pytest.raises(ValueError, match="set `image_shape`"):
        data.load(f"folder:{photos}")
    with pytest.raises(ValueError, match="`image_shape` 8x8x2 must be"):
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


def test_captions_stay_with_their_images_where_broken_ones_are_left_out(tmp_path):
    captioned(tmp_path, "beside")
    broken(tmp_path / "B.jpg")
    (tmp_path / "B.txt").write_text("broken")
    source = data.load(f"folder:{tmp_path}", SHAPE, skip_broken=True)
    assert len(source) == 2 and source[0]["caption"] == "a grey square" and source[1]["caption"] == "an umlaut: ü"
    assert list(source.captions()) == ["a grey square", "an umlaut: ü"]


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
        (
            lambda root: (root / "a.txt").unlink(),
            "1 of the 2 images .* have no .txt, .caption or .json beside .* as a.png",
        ),
        (
            lambda root: (root / "a.txt").rename(root / "z.txt"),
            "1 of the 2 images .* have no .txt, .caption or .json",
        ),
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


@pytest.fixture
def many(tmp_path, monkeypatch):
    """1,200 files that are listed as images, with captions of an hour ago, and an own place to store them."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    for i in range(1200):
        folder = tmp_path / "many" / f"part{i // 500}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:04d}.png").touch()
        write_old(folder / f"{i:04d}.txt", f"number {i:04d}")
    return tmp_path / "many"


def write_old(path, text, ago=3600):
    path.write_text(text)
    os.utime(path, ns=(0, time.time_ns() - ago * 10**9 // 100 * 100))


def captions_in(folder):
    return list(data.load(f"folder:{folder}", SHAPE).captions())


def change_unseen(path, text):
    """Changes a file so that neither size nor time tell."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_captions_are_stored_between_starts_and_changes_are_noticed(many, tmp_path):
    texts = [f"number {i:04d}" for i in range(1200)]
    assert captions_in(many) == texts
    (stored,) = (tmp_path / "home" / "index").iterdir()
    assert stored == paths.index_file(many) and not list(many.rglob("*.npz"))
    change_unseen(many / "part0" / "0007.txt", "NUMBER 0007")
    assert captions_in(many) == texts, "they are not read from their files"
    write_old(many / "part1" / "0700.txt", "number 07")
    texts[7], texts[700] = "NUMBER 0007", "number 07"
    assert captions_in(many) == texts
    write_old(many / "part1" / "0700.txt", "nummer 07", ago=7200)
    texts[700] = "nummer 07"
    assert captions_in(many) == texts
    (many / "part0" / "0000.png").unlink()
    assert captions_in(many) == texts[1:]
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


def test_captions_in_a_table_are_stored_too(many):
    lines = [{"file_name": f"part{i // 500}/{i:04d}.png", "text": f"row {i:04d}"} for i in range(1200)]
    random.Random(0).shuffle(lines)
    write_old(many / "metadata.jsonl", "\n".join(map(json.dumps, lines)))
    rows = [f"row {i:04d}" for i in range(1200)]
    assert captions_in(many) == rows
    change_unseen(many / "metadata.jsonl", (many / "metadata.jsonl").read_text().replace("row", "ROW"))
    assert captions_in(many) == rows
    os.utime(many / "metadata.jsonl", ns=(0, 10**18))
    assert captions_in(many) == [f"ROW {i:04d}" for i in range(1200)]


@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[:1000], lambda old: old[:300] + b"?" + old[301:]])
def test_a_damaged_store_is_replaced(many, damage):
    texts = captions_in(many)
    stored = paths.index_file(many)
    sound = stored.read_bytes()
    stored.write_bytes(damage(sound))
    assert captions_in(many) == texts and stored.read_bytes() == sound


def test_what_cannot_be_stored_is_read_again_with_a_warning(many, tmp_path, caplog):
    (tmp_path / "home").touch()  # where a folder is needed
    assert len(captions_in(many)) == 1200
    assert "the captions are not stored, and the next start reads them again" in caplog.text
    assert [path.name for path in tmp_path.iterdir() if path.name != "many"] == ["home"]


def test_captions_that_have_just_changed_are_not_stored_nor_are_few(many, tmp_path):
    (many / "part0" / "0003.txt").write_text("new")
    assert captions_in(many)[3] == "new" and not (tmp_path / "home").exists()
    assert len(captions_in(many / "part2")) == 200 and not (tmp_path / "home").exists()


def test_the_fingerprint_changes_with_names_sizes_and_times(photos):
    load = lambda: data.load(f"folder:{photos}", SHAPE)
    first, other = load().fingerprint(), load()
    assert first == other.fingerprint() and len(first) == 64
    path, seen = photos / "cats" / "b.jpg", {first}
    (photos / "cats" / "notes.txt").write_text("something else")
    assert load().fingerprint() == first
    os.utime(path, ns=(0, 10**18))
    seen.add(load().fingerprint())
    path.write_bytes(path.read_bytes() + b"0")
    os.utime(path, ns=(0, 10**18))
    seen.add(load().fingerprint())
    path.rename(photos / "cats" / "bb.jpg")
    seen.add(load().fingerprint())
    seen.add(derived.with_prior(load(), other).fingerprint())
    seen.add(derived.with_prior(load(), load()).fingerprint())
    assert len(seen) == 6
    paths = [epath.Path(photos / "cats" / name) for name in ("bb.jpg", "a.PNG")]
    assert list_paths(paths).digest() != list_paths(paths[:1]).digest()


def test_positions_in_any_order():
    names = [f"{i:03d}.{kind}" for i in range(50) for kind in ("png", "txt")]
    some = random.Random(0).sample([*names, "x.png", "0.txt"], 80)
    wanted = [names.index(name) if name in names else -1 for name in some]
    assert texts.positions(names, some).tolist() == wanted
    assert texts.positions([], some[:2]).tolist() == [-1, -1]


def test_captions_beside_images_of_several_endings(tmp_path):
    """Texts and images do not alternate: of each image its own text is found."""
    names = ["a.b.webp", "a.png", "a.PNG", "c.JPEG", "c.d.jpg", "cc/e.webp"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        (tmp_path / name).with_suffix(".txt").write_text(os.path.splitext(name)[0])
    (tmp_path / "readme.TXT").touch()
    (tmp_path / "z.txt").touch()
    found = data.load(f"folder:{tmp_path}", SHAPE)
    assert list(found.captions()) == [os.path.splitext(name)[0] for name in sorted(names)]
