"""Captions in the layouts of published data sets: files beside the images, and tables of metadata."""

import json

import pytest
from PIL import Image

from jaxdiff import data
from jaxdiff.data.captions import several

SHAPE = (8, 8, 3)


def pictures(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


def opened(root, **options):
    return data.load(f"folder:{root}", SHAPE, **options)


def lines(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def test_files_beside_the_images_may_be_mixed(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "b.caption").write_text(" second")
    (tmp_path / "c.json").write_text(json.dumps({"prompt": "third", "width": 8}))
    (tmp_path / "d.json").write_text(json.dumps({"captions": ["fourth", "last of all"]}))
    (tmp_path / "e.txt").write_text("fifth")
    (tmp_path / "e.caption").write_text("fifth\n")
    (tmp_path / "e.json").write_text("{")  # of another purpose
    source = opened(tmp_path)
    assert list(source.captions()) == ["first", "second", "third", "fourth", "fifth"]
    assert [source[i]["caption"] for i in range(5)] == list(source.captions())
    assert several(source.caption, 3) == ["fourth", "last of all"] and several(source.caption, 0) == ["first"]
    assert source.caption.kinds == {".txt": 2, ".caption": 1, ".json": 2} and source.caption.count_several() == 1


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"a.txt": "one", "a.caption": "two"}, "a.txt and .*a.caption differ, and are captions of one image: remove"),
        ({"a.txt": "one", "b.json": '{"width": 3}'}, 'b.json is not JSON with a text in "caption", "text"'),
        ({"a.txt": "one", "b.json": "{"}, "b.json is not JSON"),
        ({"a.json": "[]", "b.json": '{"text": "b"}'}, "there are no captions in .*a.json is not JSON"),
        (
            {"a.json": '{"text": "a"}'},
            "1 of the 2 images .* have no .txt, .caption or .json beside them, such as b.png",
        ),
    ],
)
def test_files_beside_that_are_none(tmp_path, files, why):
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "b.caption").write_text("two") if "b.json" not in files and "a.json" not in files else None
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=why) as error:
        opened(tmp_path).captions()
    assert "\n" not in str(error.value)


def test_many_files_are_found_by_their_names_and_read_when_they_are_asked_for(tmp_path, monkeypatch):
    from jaxdiff.data import caption_files

    pictures(tmp_path, *(f"{i:03}.png" for i in range(40)))
    for i in range(40):
        (tmp_path / f"{i:03}.json").write_text(json.dumps({"text": f"number {i}"}))
    seen, read = [], caption_files._bytes
    monkeypatch.setattr(caption_files, "_bytes", lambda path: (seen.append(path), read(path))[1])
    source = opened(tmp_path)
    assert len(seen) == 1 and source.caption(7) == "number 7" and len(seen) == 2


def test_tables_of_each_split_name_files_from_their_folder(tmp_path, caplog):
    pictures(tmp_path, "train/a.png", "train/deep/b.png", "test/a.png")
    rows = {"file_name": "a.png", "text": ["a cat", "a grey cat"]}, {"file_name": "./deep/b.png", "caption": "a dog"}
    lines(tmp_path / "train" / "metadata.jsonl", *rows)
    (tmp_path / "test" / "metadata.csv").write_text('\ufefffile_name,size,text\r\na.png,3,"a ""bird"", \nflying"\r\n')
    train = opened(tmp_path / "train")
    assert list(train.captions()) == ["a cat", "a dog"] and several(train.caption, 0) == ["a cat", "a grey cat"]
    assert not caplog.records
    both = opened(tmp_path)
    assert list(both.captions()) == ['a "bird", \nflying', "a cat", "a dog"]
    assert both.caption.kinds == {"test/metadata.csv": 1, "train/metadata.jsonl": 2}
    assert f"has the splits train and test, and all of their images are used: folder:{tmp_path}/train is" in caplog.text


A, B = {"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": "b"}


@pytest.mark.parametrize(
    ("rows", "why", "kept"),
    [
        ((A, B, A), "line 3 of .*metadata.jsonl names a.png, as line 1 does: remove one of them", "ab"),
        (
            (A, B, A | {"file_name": "c.png"}),
            "line 3 of .*jsonl names c.png, which is not there: remove the line",
            "ab",
        ),
        ((A, '{"file_name": "b.png"'), "line 2 of .*metadata.jsonl is not", "a"),
        ((A, "[" * 100_000, B), "line 2 of .*metadata.jsonl is not", "ab"),
        ((A, B | {"text": []}), "line 2 of .* is not .*it has no text", "a"),
        ((A,), "metadata.jsonl has no line for b.png", "a"),
    ],
)
def test_lines_that_are_none_are_named_and_left_out_on_request(tmp_path, caplog, rows, why, kept):
    pictures(tmp_path, "a.png", "b.png")
    lines(tmp_path / "metadata.jsonl", *rows)
    with pytest.raises(ValueError, match=why):
        opened(tmp_path).captions()
    source = opened(tmp_path, skip_broken=True)
    assert list(source.captions()) == [*kept] and len(source) == len(kept)
    assert len(source.skipped) == 2 - len(kept) and "lines or images of" in caplog.text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("file,text\na.png,x\n", "line 1 of .*metadata.csv does not name the columns file_name and text, or caption"),
        ("file_name,text\na.png,x\na.png,y\n", "line 3 of .*metadata.csv names a.png, as line 2 does"),
        ("file_name,text\na.png,x,y\n", "line 2 of .*metadata.csv has 3 values, and line 1 names 2 columns"),
        (b"file_name,text\na.png,\xff\n", "metadata.csv cannot be read as UTF-8"),
        ("", "line 1 of .*metadata.csv does not name"),
    ],
)
def test_tables_of_values_with_commas_that_are_none(tmp_path, text, why):
    pictures(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=why):
        opened(tmp_path).captions()


def test_two_tables_of_one_folder_and_images_beside_none(tmp_path):
    pictures(tmp_path, "a/a.png", "b.png")
    lines(tmp_path / "a" / "metadata.jsonl", A)
    assert "1 of its 2 images lie neither beside nor below, such as b.png" in opened(tmp_path).no_captions_reason
    (tmp_path / "a" / "metadata.csv").write_text("file_name,text\na.png,a\n")
    with pytest.raises(ValueError, match=r"a/metadata.csv and a/metadata.jsonl are in one folder: remove one"):
        opened(tmp_path)
