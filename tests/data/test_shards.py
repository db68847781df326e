"""Shards of webdataset: their examples, exact order and resume, and what is damaged."""

import errno
import io
import json
import os
import shutil
import tarfile
import time

import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxdiff import data
from jaxdiff.data import captions, image_decode, tars
from jaxdiff.data.sources import shards
from jaxdiff.data.texts import Texts

SHAPE = (8, 8, 3)


def picture(value, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (value, value, value)).save(file, kind)
    return file.getvalue()


def write(path, files):
    """An archive of files by their names, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content := content.encode() if isinstance(content, str) else content)
            archive.addfile(info, io.BytesIO(content))
    os.utime(path, (time.time() - 100,) * 2)
    return path


def values(source):
    return [round(example["image"].mean()) for example in source]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "cache"))


@pytest.fixture
def two(tmp_path):
    """Five examples in two archives, with captions and labels."""
    folder = tmp_path / "data"
    for shard, numbers in enumerate(((1, 2, 3), (4, 5))):
        files = {}
        for n in numbers:
            files |= {f"{n:03}.png": picture(10 * n), f"{n:03}.txt": f"number\n {n}", f"{n:03}.cls": f"{n % 3}\n"}
        write(folder / f"train-{shard:02}.tar", files)
    return folder


def test_examples_are_neighbours_of_one_name(two):
    source = data.load(f"shards:{two}", SHAPE)
    assert len(source) == 5 and values(source) == [10, 20, 30, 40, 50]
    assert [example["caption"] for example in source] == [f"number {n}" for n in range(1, 6)]
    assert [example["label"] for example in source] == [1, 2, 0, 1, 2] and source.classes == ("0", "1", "2")
    assert list(source.captions()) == [f"number {n}" for n in range(1, 6)]


@pytest.mark.parametrize(
    "pattern, count",
    [("train-*.tar", 5), ("train-{00..01}.tar", 5), ("train-{01..07}*.tar", 2), ("train-0[0].tar", 3), ("*1*", 2)],
)
def test_patterns(two, pattern, count):
    assert len(data.load(f"shards:{two / pattern}", SHAPE)) == count


def test_a_pattern_is_of_one_folder_alone(two):
    write(two / "old" / "train-00.tar", {"9.png": picture(90)})
    assert len(data.load(f"shards:{two}/*.tar", SHAPE)) == 5
    assert len(data.load(f"shards:{two}", SHAPE)) == 6


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("train-{00..03}.tar", r"no file .*/train-02\.tar, one of the 4 of .*/train-\{00\.\.03\}\.tar$"),
        ("train-{5..1}.tar", r"the range \{5\.\.1\} of .* has no number"),
        ("train-{000..003.tar", r"train-\{000\.\.003\.tar has a \{ that is of no range: write ranges as"),
        ("{", r"\{ has a \{ that is of no range"),
        ("}", r"\} has a \} that is of no range"),
        ("{a..}.tar", "that is of no range"),
        ("{0..1}-{1,2}.tar", "that is of no range"),
        ("*.none", r"there is no file .*/\*\.none"),
        ("a*/x.tar", r"a\*/x\.tar has a \* in the name of a folder: patterns are of files in one folder"),
        ("{0..99999}-{0..99999}*", r"are 10,000,000,000 names, and may be 1,000,000: use \*"),
    ],
)
def test_ranges_that_are_not_there_or_none(two, pattern, message):
    with pytest.raises(ValueError, match=message):
        data.load(f"shards:{two}/{pattern}", SHAPE)


def test_braces_of_a_name_are_read(two):
    for name in ("a{b}.tar", "{.tar"):
        shutil.copy(two / "train-00.tar", two / name)
        assert len(data.load(f"shards:{two}/{name}", SHAPE)) == 3


def test_ranges_are_as_wide_as_their_first_number():
    assert [*shards._ranges("a{08..10}-{1..2}.tar")] == [f"a{n}-{m}.tar" for n in ("08", "09", "10") for m in (1, 2)]


def test_captions_of_json_and_names_with_folders_and_dots(tmp_path):
    files = {
        "a/x.y.jpg": picture(40, "JPEG"),  # its ending is y.jpg, which is no image's
        "a/1.JPG": picture(10, "JPEG"),
        "a/1.json": json.dumps({"url": "u", "caption": "one"}),
        "b/1.webp": picture(20, "WEBP"),
        "b/1.json": json.dumps({"text": " two\twords "}),
        "README": "no example",
        ".hidden.png": picture(99),
    }
    write(tmp_path / "d" / "s.tar", files)
    source = data.load(f"shards:{tmp_path}/d/s.tar", SHAPE)
    assert values(source) == [10, 20] and list(source.captions()) == ["one", "two words"]
    assert source.classes == () and "a/1 of s.tar" in source.no_labels_reason


@pytest.mark.parametrize("content", ["{", "[]", '{"width": 4, "caption": null}', "[" * 100_000, b"\xff"])
def test_json_without_a_caption_is_none(tmp_path, content):
    """Metadata alone, which does not end a training that needs no captions."""
    write(tmp_path / "d" / "s.tar", {"1.png": picture(1), "1.txt": "one", "2.png": picture(2), "2.json": content})
    for _ in range(2):
        source = data.load(f"shards:{tmp_path}/d", SHAPE)
        assert not source.captioned and "1 of 2 examples have none, such as 2 of s.tar" in source.no_captions_reason
        assert "caption" not in source[0]


def test_the_order_is_that_of_a_folder_of_the_same_images(two, tmp_path):
    """Exactly, from any step, on any number of processes."""
    for n in range(1, 6):
        path = tmp_path / "folder" / f"{n:03}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(10 * n))
    of = lambda source, **options: next(data.batches(source, 2, seed=3, steps_per_call=2, **options))["image"][
        ..., 0, 0, 0
    ]
    both = data.load(f"shards:{two}", SHAPE), data.load(f"folder:{tmp_path}/folder", SHAPE)
    for start in (0, 1, 7):
        one, other = (of(source, start_step=start) for source in both)
        np.testing.assert_array_equal(one, other)
        parts = [of(both[0], start_step=start, process_index=p, process_count=2) for p in (0, 1)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), one)


def test_the_index_is_made_once_and_made_anew_where_a_shard_changes(two, monkeypatch):
    looked = []
    monkeypatch.setattr(
        tars, "_of_shard", lambda path, *rest, make=tars._of_shard: looked.append(path.name) or make(path, *rest)
    )
    first = data.load(f"shards:{two}", SHAPE)
    assert len(looked) == 2
    again = data.load(f"shards:{two}", SHAPE)
    assert len(looked) == 2 and again.identity == first.identity and values(again) == values(first)
    write(two / "train-01.tar", {"x.png": picture(70)})
    changed = data.load(f"shards:{two}", SHAPE)
    assert len(looked) == 4 and values(changed) == [10, 20, 30, 70] and changed.identity != first.identity
    stored = next((two.parent / "cache" / "index").glob("*.npz"))
    stored.write_bytes(b"damaged")
    assert values(data.load(f"shards:{two}", SHAPE)) == [10, 20, 30, 70]


def test_a_moved_folder_is_known(two, tmp_path):
    known = lambda source: (source.identity, source.contents())
    before = known(data.load(f"shards:{two}", SHAPE))
    two.rename(tmp_path / "elsewhere")
    assert known(data.load(f"shards:{tmp_path}/elsewhere", SHAPE)) == before


def cut(path, count):
    path.write_bytes(path.read_bytes()[:count])


@pytest.mark.parametrize("count, kept", [(512 + 100, 3), (512 * 7, 4), (3, 3), (0, 3)])
def test_a_cut_shard_is_refused_or_used_until_there(two, caplog, count, kept):
    """In the first image; behind the second file of the second example, where no header is missed; in the first header."""
    cut(two / "train-01.tar", count)
    with pytest.raises(ValueError, match=r"train-01\.tar .*write it again, or use what comes before by `skip_broken`"):
        data.load(f"shards:{two}", SHAPE)
    source = data.load(f"shards:{two}", SHAPE, skip_broken=True)
    assert len(source) == kept and "train-01.tar" in caplog.text


@pytest.mark.parametrize(
    "files, message",
    [
        ({"1.txt": "alone"}, "there is no image in the 1 archives"),
        ({"1.png": picture(1), "1.cls": "cat"}, r"the label 1.cls is 'cat', and must be a number"),
        ({"1.png": picture(1), "1.txt": b"\xff\xfe"}, r"the caption of 1 in s.tar is not UTF-8"),
    ],
)
def test_odd_contents_are_named(tmp_path, files, message):
    write(tmp_path / "d" / "s.tar", files)
    with pytest.raises(ValueError, match=message):
        list(data.load(f"shards:{tmp_path}/d", SHAPE))


@pytest.mark.parametrize(
    "label, reason", [("cat", "must be a number"), ("999999999", "is no class"), ("9" * 60, "no class")]
)
def test_an_example_of_a_label_that_is_none_is_named_or_left_out_alone(two, caplog, label, reason):
    """At each start, of which the second reads the stored index."""
    files = {"6.png": picture(60), "6.cls": label, "7.png": picture(70), "7.cls": "1", "7.txt": "seven"}
    write(two / "train-02.tar", files)
    with pytest.raises(ValueError, match=rf"train-02.tar: the label 6.cls is .*{reason}.*`skip_broken`"):
        data.load(f"shards:{two}", SHAPE)
    for _ in range(2):
        caplog.clear()
        source = data.load(f"shards:{two}", SHAPE, skip_broken=True)
        assert values(source) == [10, 20, 30, 40, 50, 70] and source.classes == ("0", "1", "2")
        assert len(source.skipped) == 1 and source.skipped[0].startswith("train-02.tar: 6 (the label 6.cls is")
        assert reason in source.skipped[0] and reason in caplog.text


def test_a_cut_shard_is_said_at_each_start(two, caplog):
    cut(two / "train-01.tar", 512 * 7)
    for _ in range(2):
        caplog.clear()
        source = data.load(f"shards:{two}", SHAPE, skip_broken=True)
        assert len(source) == 4 and source.skipped[0].startswith("train-01.tar: all but its first 1 examples (")
        assert "train-01.tar: all but" in caplog.text


def test_broken_images_are_named_or_left_out(two, caplog):
    write(two / "train-02.tar", {"6.png": b"no image", "6.txt": "six", "6.cls": "0"})
    with pytest.raises(ValueError, match=r"6 in .*train-02.tar cannot be read \(it is no image\).*`skip_broken`"):
        list(data.load(f"shards:{two}", SHAPE))
    source = data.load(f"shards:{two}", SHAPE, skip_broken=True)
    assert len(source) == 5 and source.skipped == ("train-02.tar: 6",) and "left out 1 of the 6" in caplog.text


def test_an_error_that_may_pass_is_no_broken_image(two, monkeypatch):
    def fails(path, place):
        raise TimeoutError(errno.ETIMEDOUT, "timed out", str(path))

    monkeypatch.setattr(tars, "read", fails)
    with pytest.raises(TimeoutError, match=r"train-01?.*\.tar"):
        data.load(f"shards:{two}", SHAPE, skip_broken=True)


def test_stored_captions_are_those_of_the_examples_that_are_left(two, monkeypatch):
    """Whichever are left out at a start: another one, or none."""
    decode = image_decode.decode

    def load(broken):
        def fails(content, *args, **options):
            if content == picture(10 * broken):
                raise ValueError("it is broken")
            return decode(content, *args, **options)

        monkeypatch.setattr(image_decode, "decode", fails)
        return list(data.load(f"shards:{two}", SHAPE, skip_broken=True).captions())

    for broken in (2, 4, 0, 2):
        assert load(broken) == [f"number {n}" for n in range(1, 6) if n != broken]


def test_stored_captions_of_another_number_are_read_anew(tmp_path):
    path = epath.Path(tmp_path / "texts.npz")
    make = lambda *texts: captions.stored(path, "d", lambda: Texts.of(texts), len(texts))
    assert list(make("a", "b")) == ["a", "b"] and list(make("c", "d")) == ["a", "b"] and list(make("x")) == ["x"]


def test_links_are_counted(two, caplog):
    """At each start: tar makes hard links of the second name of a file."""
    with tarfile.open(two / "train-01.tar", "a") as archive:
        for name, kind in (("6.png", tarfile.LNKTYPE), ("7.png", tarfile.SYMTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "004.png"
            archive.addfile(link)
    for _ in range(2):
        caplog.clear()
        assert len(data.load(f"shards:{two}", SHAPE)) == 5
        assert "2 links in the archives" in caplog.text and "such as in train-01.tar, are not followed" in caplog.text


def test_what_is_no_archive_is_refused(two, tmp_path):
    (two / "more.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match=r"more\.tar is no whole tar archive"):
        data.load(f"shards:{two}", SHAPE)
    with tarfile.open(two / "more.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("1.png"))
    with pytest.raises(ValueError, match=r"more\.tar is no whole tar archive without compression"):
        data.load(f"shards:{two}", SHAPE)
    for pattern, error, message in (
        ("", ValueError, "such as shards:data"),
        (f"{two}/none-*.tar", ValueError, "there is no file"),
        (f"{tmp_path}/nowhere/*.tar", OSError, "nowhere is not there"),
    ):
        with pytest.raises(error, match=message):
            data.load(f"shards:{pattern}", SHAPE)
    with pytest.raises(ValueError, match="set `image_shape`"):
        data.load(f"shards:{two}")
