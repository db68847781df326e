"""Parquet files and data sets of Hugging Face on a disk: their columns, exact order, and what is damaged."""

import errno
import io
import json
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from PIL import Image

from jaxdiff import data
from jaxdiff.data import tables

SHAPE = (8, 8, 3)
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": ["cat", "dog", "owl"]}}}}).encode()}


def picture(value):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def table(numbers, names=True, **columns):
    """Rows as Hugging Face has them: an image with its bytes, a text and a label."""
    columns = {
        "image": pa.array([{"bytes": picture(10 * n), "path": f"{n}.png"} for n in numbers], STRUCT),
        "text": pa.array([f"number\n{n}" for n in numbers]),
        "label": pa.array([n % 3 for n in numbers]),
    } | columns
    made = pa.table({name: column for name, column in columns.items() if column is not None})
    return made.replace_schema_metadata(NAMES if names else None)


def write_parquet(path, made, **options):
    pq.write_table(made, path.with_suffix(".parquet"), **({"row_group_size": 2} | options))


def write_arrow(path, made, **options):
    with pa.OSFile(str(path.with_suffix(".arrow")), "wb") as file, pa.ipc.new_stream(file, made.schema) as writer:
        writer.write_table(made, **({"max_chunksize": 2} | options))


WRITE = {"parquet": write_parquet, "arrow": write_arrow}
kinds = pytest.mark.parametrize("kind", WRITE)


@pytest.fixture(params=WRITE)
def source(request, tmp_path):
    """Five rows in two files, in groups of two."""
    WRITE[request.param](tmp_path / "data-0", table([1, 2, 3]))
    WRITE[request.param](tmp_path / "data-1", table([4, 5]))
    return data.load(f"{request.param}:{tmp_path}", SHAPE)


def values(source):
    return [round(example["image"].mean()) for example in source]


def test_rows_are_examples(source):
    assert len(source) == 5 and values(source) == [10, 20, 30, 40, 50]
    assert [example["caption"] for example in source] == [f"number {n}" for n in range(1, 6)]
    assert list(source.captions()) == [f"number {n}" for n in range(1, 6)]
    assert source.classes == ("cat", "dog", "owl") and [example["label"] for example in source] == [1, 2, 0, 1, 2]
    assert source.where(4).startswith("row 1 of data-1") and source.label(3) == 1
    assert source.encoded(2) == picture(30)


def test_the_order_is_exact_from_any_step(source):
    of = lambda **options: next(data.batches(source, 2, seed=3, **options))["example"][0]
    epoch = [of(start_step=step) for step in range(5)]
    assert sorted(np.concatenate(epoch)) == sorted([*range(5)] * 2)
    halves = [of(start_step=3, process_index=p, process_count=2) for p in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), epoch[3])


def test_threads_read_what_one_reads(source):
    """Several at once, in another order, beside a cache that is too small for all groups."""
    batch = next(data.batches(source, 5, seed=1, steps_per_call=40, num_threads=8))
    np.testing.assert_array_equal(batch["image"][..., 0, 0, 0], 10 * (batch["example"] + 1))


@kinds
def test_columns_of_plain_bytes_and_numbers_as_names(kind, tmp_path):
    made = table(
        [1, 2], False, image=None, jpg=pa.array([picture(10), picture(20)]), text=None, caption=pa.array(["a", "b"])
    )
    WRITE[kind](tmp_path / "x", made)
    source = data.load(f"{kind}:{tmp_path}", SHAPE)
    assert source.classes == ("0", "1", "2") and list(source.captions()) == ["a", "b"] and values(source) == [10, 20]


@kinds
@pytest.mark.parametrize(
    "columns, message",
    [
        ({"image": None}, "has 0 columns of image files.*its columns are text, label"),
        ({"image": None, "a": pa.array([b"1"]), "b": pa.array([b"2"])}, "has 2 columns of image files"),
        (
            {"image": pa.array([{"bytes": None, "path": "a.png"}], STRUCT)},
            "row 0 of x.* has no image in it, only the path",
        ),
        (
            {"image": pa.array([{"bytes": b"no", "path": None}], STRUCT)},
            r"row 0 of x.* cannot be read \(it is no image\)",
        ),
        ({"label": pa.array([7])}, "row 0 of x.* has the label 7, and there are names for 3 alone"),
    ],
)
def test_odd_tables_are_named(kind, tmp_path, columns, message):
    WRITE[kind](tmp_path / "x", table([1], **columns))
    with pytest.raises(ValueError, match=message):
        list(data.load(f"{kind}:{tmp_path}", SHAPE))


@kinds
def test_rows_without_labels_have_a_reason(kind, tmp_path):
    WRITE[kind](tmp_path / "x", table([1, 2], label=pa.array([1, None])))
    source = data.load(f"{kind}:{tmp_path}", SHAPE)
    assert source.classes == () and "row 1 of x" in source.no_labels_reason


@kinds
def test_rows_without_captions_have_a_reason_unless_they_are_left_out(kind, tmp_path):
    image = pa.array([{"bytes": content, "path": None} for content in (picture(10), b"no")], STRUCT)
    WRITE[kind](tmp_path / "x", table([1, 2], image=image, text=pa.array(["a", None])))
    source = data.load(f"{kind}:{tmp_path}", SHAPE)
    assert not source.captioned and "1 of 2 rows without a caption, such as row 1 of x" in source.no_captions_reason
    assert "caption" not in source[0]
    assert list(data.load(f"{kind}:{tmp_path}", SHAPE, skip_broken=True).captions()) == ["a"]


@kinds
@pytest.mark.parametrize("label", [100_000, 999_999_999, 2**63])
def test_large_numbers_are_no_classes(kind, tmp_path, label):
    WRITE[kind](tmp_path / "x", table([1, 2], names=False, label=pa.array([1, label], pa.uint64())))
    with pytest.raises(ValueError, match=rf"row 1 of x.* has the label {label}, which is no class"):
        data.load(f"{kind}:{tmp_path}", SHAPE)


@kinds
def test_labels_are_those_of_the_rows_that_are_left(kind, tmp_path):
    """A class that only a broken row has is none, nor is a label that is missing there."""
    image = pa.array([{"bytes": content, "path": None} for content in (picture(10), b"no", b"no", picture(40))], STRUCT)
    made = table([1, 2, 3, 4], names=False, image=image, label=pa.array([1, 500_000, None, 0]))
    WRITE[kind](tmp_path / "x", made)
    source = data.load(f"{kind}:{tmp_path}", SHAPE, skip_broken=True)
    assert source.classes == ("0", "1") and [example["label"] for example in source] == [1, 0]


@kinds
def test_broken_rows_are_left_out_where_that_is_asked_for(kind, tmp_path, caplog):
    image = pa.array([{"bytes": content, "path": None} for content in (picture(10), b"no", picture(30))], STRUCT)
    WRITE[kind](tmp_path / "x", table([1, 2, 3], image=image))
    source = data.load(f"{kind}:{tmp_path}", SHAPE, skip_broken=True)
    assert values(source) == [10, 30] and list(source.captions()) == ["number 1", "number 3"]
    assert [example["label"] for example in source] == [1, 0]
    assert source.skipped[0].startswith("row 1 of x") and "left out 1 of the 3" in caplog.text


@pytest.mark.parametrize("error", [TimeoutError("it does not answer"), OSError(errno.EIO, "it does not answer")])
def test_an_error_that_may_pass_is_no_broken_row(tmp_path, monkeypatch, error):
    class Fails:
        def __init__(self, file):
            raise error

    WRITE["parquet"](tmp_path / "x", table([1, 2, 3]))
    source = data.load(f"parquet:{tmp_path}", SHAPE)
    monkeypatch.setattr(pq, "ParquetFile", Fails)
    with pytest.raises(OSError, match="it does not answer"):
        source[0]


@kinds
@pytest.mark.parametrize("size", [0, 40, 300])
def test_cut_files_are_named(kind, tmp_path, size):
    WRITE[kind](tmp_path / "x", table([1, 2, 3]))
    path = tmp_path / f"x.{kind}"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"x\.{kind} cannot be read \(.*cut or of another format|there is no row"):
        data.load(f"{kind}:{tmp_path}", SHAPE)


@kinds
def test_files_of_other_columns_are_refused(kind, tmp_path):
    WRITE[kind](tmp_path / "a", table([1]))
    WRITE[kind](tmp_path / "b", table([2], text=None))
    with pytest.raises(ValueError, match=rf"b\.{kind} has other columns"):
        data.load(f"{kind}:{tmp_path}", SHAPE)


def state(folder, *names):
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def test_a_saved_data_set_is_the_files_that_its_state_names(tmp_path):
    for n, name in enumerate(("a", "b", "cache-1", "other"), 1):
        WRITE["arrow"](tmp_path / name, table([n]))
    load = lambda text: values(data.load(f"arrow:{text}", SHAPE))
    assert load(tmp_path) == [10, 20, 40] == load(tmp_path / "*.arrow") and load(tmp_path / "cache-*") == [30]
    state(tmp_path, "b.arrow", "a.arrow")
    assert load(tmp_path) == [20, 10]
    state(tmp_path, "b.arrow", "c.arrow")
    with pytest.raises(ValueError, match=r"state.json names c.arrow, which is not there"):
        load(tmp_path)
    (tmp_path / "state.json").write_text("[]")
    with pytest.raises(ValueError, match=r"state.json does not name the files"):
        load(tmp_path)


def test_a_saved_data_set_of_splits_is_refused_with_their_names(tmp_path):
    for n, split in enumerate(("train", "test"), 1):
        (tmp_path / split).mkdir()
        WRITE["arrow"](tmp_path / split / "data-0", table([n]))
        state(tmp_path / split, "data-0.arrow")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match=f"choose one of arrow:{tmp_path}/test, arrow:{tmp_path}/train$"):
        data.load(f"arrow:{tmp_path}", SHAPE)
    assert values(data.load(f"arrow:{tmp_path}/train", SHAPE)) == [10]


@kinds
def test_what_is_not_there(kind, tmp_path):
    for text, error, message in (
        ("", ValueError, "such as"),
        (f"{tmp_path}/*.{kind}", ValueError, "there is no file"),
        (f"{tmp_path}", ValueError, f"there is no .{kind} file below"),
        (f"{tmp_path}/no/*", OSError, "is not there"),
    ):
        with pytest.raises(error, match=message):
            data.load(f"{kind}:{text}", SHAPE)


@pytest.mark.parametrize("column", ["image", "text"])
def test_a_damaged_offset_of_arrow_is_named(tmp_path, column):
    """It points far behind the file, whose reading would end the process."""
    made = table([1, 2, 3])
    WRITE["arrow"](tmp_path / "a", made)
    WRITE["arrow"](tmp_path / "x", made)
    values = made[column].chunk(0)
    values = values.field("bytes") if column == "image" else values
    offsets = np.frombuffer(values.buffers()[1], np.int32)[:3]  # of the first batch, whose end is damaged
    content = (tmp_path / "x.arrow").read_bytes()
    assert content.count(offsets.tobytes()) == 1
    wrong = np.array([*offsets[:2], 2**30], np.int32)
    (tmp_path / "x.arrow").write_bytes(content.replace(offsets.tobytes(), wrong.tobytes()))
    with pytest.raises(ValueError, match=r"x\.arrow cannot be read \(") as error:
        data.load(f"arrow:{tmp_path}", SHAPE)[3]
    assert "\n" not in str(error.value)


def test_an_arrow_file_is_validated_once(tmp_path):
    WRITE["arrow"](tmp_path / "x", table([1, 2, 3]))
    rows = tables.of_arrow(epath.Path(tmp_path), ["x.arrow"])
    assert rows.part(0, "image") is rows.part(0, "image")


def test_files_of_parquet_are_not_kept_open(tmp_path):
    for n in range(40):
        WRITE["parquet"](tmp_path / f"{n:02}", table([n % 25]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 15, hard))
    try:
        source = data.load(f"parquet:{tmp_path}", SHAPE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert source.where(29) == "row 0 of 29.parquet"


def test_threads_do_not_decode_the_same_group_at_once(tmp_path, monkeypatch):
    """Nor are labels and captions read again for each example, beside a cache that holds the images alone."""
    WRITE["parquet"](tmp_path / "x", table(range(1, 13)), row_group_size=6)
    source, reads, read = data.load(f"parquet:{tmp_path}", SHAPE), [], pq.ParquetFile.read_row_group

    def slowly(file, group, columns):
        reads.append((group, *columns))
        time.sleep(0.1)
        return read(file, group, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", slowly)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(source.__getitem__, range(12)))
    assert sorted(reads) == [(0, "image"), (1, "image")]
    assert [example["caption"] for example in found] == [f"number {n}" for n in range(1, 13)]
    assert [example["label"] for example in found] == [n % 3 for n in range(1, 13)]


def test_what_is_kept_is_bounded_by_its_bytes_in_any_order_of_threads():
    kept = tables.Kept(lambda n: np.full(10, n, np.uint8), limit=35)
    with ThreadPoolExecutor(8) as pool:
        numbers = np.random.default_rng(0).integers(0, 9, 2000)
        assert [one[0] for one in pool.map(kept, numbers)] == list(numbers)
    assert kept._size == 30 == sum(one.nbytes for one in kept._found.values()) and not kept._making


@kinds
def test_places_are_looked_up_for_errors_alone(kind, tmp_path, monkeypatch):
    WRITE[kind](tmp_path / "a", table([1, 2, 3]))
    WRITE[kind](tmp_path / "b", table([4, 5, 6]))
    source = data.load(f"{kind}:{tmp_path}", SHAPE)
    assert [source.where(i) for i in (2, 3, 5)] == [f"row 2 of a.{kind}", f"row 0 of b.{kind}", f"row 2 of b.{kind}"]
    monkeypatch.setattr(tables.Rows, "place", None)
    assert values(source) == [10 * n for n in range(1, 7)]


def test_groups_are_kept_within_a_bound(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tables, "KEPT", 10)
    WRITE["parquet"](tmp_path / "x", table(range(1, 13)), row_group_size=1)
    source = data.load(f"parquet:{tmp_path}", SHAPE)
    assert "shards are read faster" in caplog.text and values(source) == [10 * n for n in range(1, 13)]
