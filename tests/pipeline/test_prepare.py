"""`jaxdiff prepare`: records that are the source's examples, goings on after a stop, and what does not fit."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath
from helpers import fails
from tiny import tiny_latent, write_ends

from jaxdiff import cli, data
from jaxdiff import config as configs
from jaxdiff import model as models
from jaxdiff.data import derived, encoded, records
from jaxdiff.data.texts import Texts
from jaxdiff.model.frozen_models import FrozenModels
from jaxdiff.pipeline import encoding, prepare
from jaxdiff.train import base_model

N = encoded.SHARD_SIZE + 60  # two shards
COLOURS = "red", "green"


def source(count=N, **changes):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    fields = {"classes": COLOURS, "caption": lambda i: f"{COLOURS[i % 2]} {i}", "identity": 7} | changes
    return data.Source(lambda i: {"image": images[i], "label": i % 2}, count, (4, 4, 3), **fields)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("records")) / "whole"
    assert prepare.prepare(source(), "toy", folder)
    return folder


def test_records_are_the_examples(whole):
    found, made = data.load(f"records:{whole}", (4, 4, 3)), source()
    assert len(found) == N and found.classes == COLOURS and found.image_shape == (4, 4, 3)
    for i in (0, 1, encoded.SHARD_SIZE - 1, encoded.SHARD_SIZE, N - 1):
        np.testing.assert_array_equal(found.read(i)["image"], made.read(i)["image"])
        assert found.read(i)["label"] == made.read(i)["label"] and found.caption(i) == made.caption(i)
    assert (found.identity, found.contents()) == (7, made.contents())
    assert found.where(encoded.SHARD_SIZE) == "record 0 of 000001.array_record"


def test_the_order_is_that_of_the_source(whole):
    """Exactly, on any number of processes."""
    of = lambda source, **options: next(data.batches(source, 4, seed=5, start_step=3, **options))["example"][0]
    found = data.load(f"records:{whole}")
    np.testing.assert_array_equal(of(found), of(source()))
    parts = [of(found, process_index=p, process_count=2) for p in (0, 1)]
    np.testing.assert_array_equal(np.stack(parts, axis=1).ravel(), of(source()))


def test_further_arrays_reach_the_batches(tmp_path):
    folder, plain = epath.Path(tmp_path) / "more", source(20, extra_arrays=("depth",))
    made = dataclasses.replace(plain, read=lambda i: plain.read(i) | {"depth": np.full([2, 3], i, np.float32)})
    prepare.prepare(made, "toy", folder)
    found = data.load(f"records:{folder}")
    one, other = (next(data.batches(each, 4)) for each in (found, made))
    np.testing.assert_array_equal(one["depth"], other["depth"])
    np.testing.assert_array_equal(one["depth"][0, :, 0, 0], one["example"][0])
    with pytest.raises(FileExistsError, match="holds records of another extra arrays"):
        prepare.prepare(source(20), "toy", folder)


class Stop(Exception):
    pass


def test_goes_on_where_it_was_stopped_and_shares_the_work(whole, tmp_path):
    """Two processes, each stopped once inside of its shard; the manifest has the same bytes."""
    folder, done = epath.Path(tmp_path) / "again", []

    def stop_after(count):
        def advance(n):
            done.append(n)
            if len(done) == count:
                raise Stop

        return advance

    for process in (0, 1):
        done.clear()
        with pytest.raises(Stop):
            prepare.prepare(source(), "toy", folder, process=(process, 2), advance=stop_after(50))
    assert not list(folder.glob("*.array_record")) and not list(folder.glob("*.tmp"))
    with pytest.raises(FileNotFoundError, match="is not complete: run the same jaxdiff prepare again"):
        data.load(f"records:{folder}")
    assert not prepare.prepare(source(), "toy", folder, process=(1, 2))
    done.clear()
    assert prepare.prepare(source(), "toy", folder, process=(0, 2), advance=done.append)
    assert len(done) == encoded.SHARD_SIZE  # the other shard was there
    assert (folder / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_a_folder_of_something_else_is_refused(whole, tmp_path):
    for changes, what in (
        ({"identity": 8}, "identity"),
        ({"count": N - 1}, "examples"),
        ({"classes": ("red", "blue")}, "classes"),
        ({"caption": None}, "captioned"),
    ):
        with pytest.raises(FileExistsError, match=f"holds records of another {what}"):
            prepare.prepare(source(**changes), "toy", whole)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        prepare.prepare(source(), "toy", epath.Path(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_processes_that_start_at_the_same_time(tmp_path, monkeypatch):
    """One may see the file that another is writing, or has written after it was looked for."""
    about = records.about_of(source(4), "toy", {})
    folder = epath.Path(tmp_path)
    (folder / "about.json.0123abcd.tmp").write_text("{")
    records.begin(folder, about)
    whole, listed = (folder / "about.json").read_text(), type(folder).iterdir
    (folder / "about.json").unlink()

    def written_meanwhile(path):
        (folder / "about.json").write_text(whole)
        (folder / "000000.json").write_text("{}")
        return listed(path)

    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "iterdir", written_meanwhile)
        records.begin(folder, about)
        (folder / "about.json").unlink()
        with pytest.raises(FileExistsError, match="holds records of another identity"):
            records.begin(folder, about._replace(identity=[8, 0]))
    for text, error in (("[]", ValueError), ("{}", FileExistsError)):
        (folder / "about.json").write_text(text)
        with pytest.raises(error, match=r"about\.json is not that of records"):
            records.begin(folder, about)


@pytest.fixture
def copy(tmp_path):
    folder = epath.Path(tmp_path) / "copy"
    prepare.prepare(source(20), "toy", folder)
    return folder


def test_damage_is_found_where_it_is_looked_for(copy):
    assert len(data.load(f"records:{copy}", verify=True)) == 20
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"000000\.array_record is damaged"):
        data.load(f"records:{copy}", verify=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda folder: (folder / "000000.array_record").unlink(), "is missing, which the manifest"),
        (lambda folder: (folder / "000000.array_record").write_bytes(b"x" * 100), "cannot be opened|holds 0 records"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "is no manifest of records"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "captions.npz").write_bytes(b"x"), "captions.npz is damaged"),
    ],
)
def test_files_that_do_not_match_the_manifest(copy, change, message):
    change(copy)
    with pytest.raises((ValueError, OSError), match=message):
        list(data.load(f"records:{copy}").captions())


@pytest.mark.parametrize(
    "place, value",
    [
        ("source", 1),
        ("identity", []),
        ("identity", [7, "0"]),
        ("examples", "4"),
        ("examples", True),
        ("examples", 0),
        ("examples", 10**18),
        ("image_shape", [4, 4]),
        ("image_shape", [4, 4, 0]),
        ("classes", "red"),
        ("captioned", "yes"),
        ("models", [1]),
        ("models", {"codec": 1}),
        ("models", {"text_encoder": "6b7f"}),
        ("extra_arrays", ["depth"]),
        ("fields", []),
        ("fields/image", ["uint8", [4, 4, 4]]),
        ("fields/image", ["none", [4, 4, 3]]),
        ("fields/label", ["object", []]),
        ("fields/label", "int32"),
        ("fields/more", ["int32", []]),
        ("shards", []),
        ("shards/0", 1),
        ("shards/0/file", "../copy/000000.array_record"),
        ("shards/0/examples", 19),
        ("shards/0/sha256", None),
        ("captions_sha256", None),
    ],
)
def test_a_damaged_manifest_is_refused_in_one_line(copy, place, value):
    manifest = json.loads((copy / "manifest.json").read_text())
    *inside, last = [int(name) if name.isdigit() else name for name in place.split("/")]
    functools.reduce(lambda values, name: values[name], inside, manifest)[last] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ValueError, match=r"manifest\.json is no manifest of records, its \w+ is .*: prepare the data again"
    ):
        data.load(f"records:{copy}")
    assert prepare.prepare(source(20), "toy", copy) and len(data.load(f"records:{copy}")) == 20


def test_a_manifest_of_other_records(copy):
    """Of fields of another size, or of fewer captions."""
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["fields"]["label"][0] = "int64"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="have 52 bytes, and its manifest names 56: remove it, and prepare it again"):
        data.load(f"records:{copy}")
    (copy / "captions.npz").unlink()
    records.write_captions(copy, Texts.of(["red"]))
    prepare.prepare(source(20), "toy", copy)
    with pytest.raises(ValueError, match=r"captions\.npz holds 1 captions of 20 examples: remove it"):
        data.load(f"records:{copy}").captions()
    (copy / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match=r"manifest\.json is not that of records"):
        data.load(f"records:{copy}")


def test_latents_and_contexts_train_to_the_same_bits(tmp_path, monkeypatch, capsys):
    """As if the run had encoded them; and other models than those that prepared them are refused."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    codec, clip = (str(path) for path in write_ends(tmp_path))
    encoders = ["--codec", codec, "--text-encoder", clip, "--image-shape", "32", "32", "3"]
    cli.main(["prepare", "captioned:test", "latents", *encoders])
    config = tiny_latent(codec, clip)
    (tmp_path / "tiny.py").write_text(
        f"from jaxdiff import config\nget_config = lambda: config.from_json({configs.to_json(config)!r})\n"
    )
    for name, source in (("own", "captioned:test"), ("prepared", "records:latents")):
        cli.main(["train", "tiny.py", "--run-dir", name, "--data.source", source])
    one, other = (models.load(name).params for name in ("own", "prepared"))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)))
    (tmp_path / "again").mkdir()
    other_codec = write_ends(tmp_path / "again")[0].rename(tmp_path / "other.safetensors")
    capsys.readouterr()
    args = ["train", "tiny.py", "--run-dir", "other", "--data.source", "records:latents"]
    refused = fails(capsys, *args, "--latent.codec", other_codec, "--latent.scaling-factor", "3")
    assert "were prepared by another codec than this config's: name that one by --latent.codec" in refused


def test_records_of_some_of_the_models(monkeypatch):
    """One line says what the records lack, in all processes; models are only digested for encoded records."""
    asked, both = [], {"codec": "6b7f", "text_encoder": "6b7f"}
    monkeypatch.setattr(encoding, "made_by", lambda *_: asked.append("digest") or both)
    monkeypatch.setattr(encoding.hosts, "together", lambda act, name, *_: asked.append(name) or act())
    config, models = configs.Config(), FrozenModels()
    for name, lost in (("codec", "contexts"), ("text_encoder", "latents")):
        asked.clear()
        with pytest.raises(
            ValueError, match=f"hold no {lost}, which this config takes: prepare them again with both --codec"
        ):
            encoding.encoded(config, encoded_records(name), models)
        assert asked == ["the records are those of the models", "digest"]
    assert encoding.encoded(config, encoded_records(*both), models).image_shape == (4, 4, 3)
    asked.clear()
    for plain in (source(4), encoded_records()):
        assert encoding.encoded(config, plain, models) is plain and not asked


def test_what_is_encoded_or_remote_is_not_prepared(tmp_path):
    folder = epath.Path(tmp_path) / "twice"
    with pytest.raises(ValueError, match="records:latents holds latents already: prepare the data that it was made of"):
        prepare.prepare(encoded_records("codec"), "records:latents", folder)
    with pytest.raises(ValueError, match="holds latents and contexts already"):
        prepare.prepare(encoded_records("codec", "text_encoder"), "records:latents", folder)
    assert not folder.exists() and prepare.prepare(encoded_records(), "records:images", folder)
    with pytest.raises(ValueError, match="gs://bucket/out is remote, and array_record is written to disks: choose"):
        prepare.prepare(source(4), "toy", epath.Path("gs://bucket/out"))


def encoded_records(*models):
    """Records as codec or text encoder make them."""
    return dataclasses.replace(source(4), encoded_by=dict.fromkeys(models, "6b7f"))


LORA, PROMPTS = configs.LoRA(base="base"), ("a <star>", "<star>")


@pytest.mark.parametrize(
    "adapt, models, message",
    [
        (dataclasses.replace(LORA, prompts=PROMPTS), ["text_encoder"], "`adapt.prompts` are encoded anew"),
        (dataclasses.replace(LORA, text_encoder=True), ["text_encoder"], "the text encoder or new tokens are trained"),
        (dataclasses.replace(LORA, new=configs.NewTokens(("<star>",))), ["codec"], "new tokens are trained"),
        (dataclasses.replace(LORA, prior=configs.Prior(("a star",))), ["codec"], "of its class are encoded together"),
        (configs.ControlNet(base="base", condition="edges"), ["codec"], "control images are made of pixels"),
    ],
)
def test_adaptations_of_encoded_records_that_would_be_wrong(tmp_path, adapt, models, message):
    """One line says what to do; records of images are taken by all of them."""
    config = configs.Config(data=configs.Data(image_shape=(4, 4, 3)), adapt=adapt)
    held = {"codec": "latents", "text_encoder": "contexts"}[models[0]]
    with pytest.raises(ValueError, match=f"{message}.*hold {held}: prepare them again without --codec and --text-enc"):
        base_model.examples(config, encoded_records(*models), tmp_path)
    assert len(base_model.examples(config, encoded_records(), tmp_path)) >= 4


def test_records_of_the_class_that_are_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(base_model.data, "load", lambda *_, **__: encoded_records("codec", "text_encoder"))
    adapt = dataclasses.replace(LORA, prior=configs.Prior(source="records:stars"))
    config = configs.Config(data=configs.Data(image_shape=(4, 4, 3)), adapt=adapt)
    with pytest.raises(ValueError, match="hold latents and contexts"):
        base_model.examples(config, source(4), tmp_path)


def test_prompts_keep_what_is_known_of_each_image(whole):
    """The place, file and label of example i are those of its image."""
    known = dataclasses.replace(data.load(f"records:{whole}"), label=lambda i: i % 2, encoded=lambda i: b"%d" % i)
    twice = derived.with_prompts(known, PROMPTS)
    last = len(twice) - 1
    assert twice.where(last) == known.where(N - 1) == "record 59 of 000001.array_record"
    assert (twice.label(2), twice.encoded(last)) == (1, b"%d" % (N - 1)) and twice[2]["label"] == 1
    none = derived.with_prompts(source(4), PROMPTS)
    assert none.where is none.encoded is none.label is None


def test_captions_that_are_cut_are_named_once(tmp_path, monkeypatch, caplog):
    """By process 0, as in training."""
    words = SimpleNamespace(truncation=lambda text: (text[:3], text[3:]) if text.endswith("3") else None)
    frozen = FrozenModels(text_encoder=SimpleNamespace(tokenizer=words))
    monkeypatch.setattr(prepare, "opened", lambda encoders: (configs.Latent(), frozen))
    monkeypatch.setattr(encoding, "encode", lambda *_: iter([{"image": np.zeros([4, 4, 3], np.uint8)}] * 4))
    for process in (0, 1):
        prepare.prepare(source(4), "toy", epath.Path(tmp_path) / "cut", process=(process, 2))
    said = [record.getMessage() for record in caplog.records if "the end is cut" in record.getMessage()]
    assert said == ["of 1 of the 4 captions the end is cut, such as 'en 3'"]


def test_mistakes_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for args, message in (
        (["digits"], "needs a source and where to write it"),
        (["digits", "out", "--process", "1"], "--process=1 must be from 0 to 0"),
        (["digits", "out", "--text-encoder", "captioned_clip"], "encodes captions, and digits has no captions"),
        (["digits", "out", "--codec", "digits"], "--codec digits is not an autoencoder"),
        (["digits", "gs://bucket/out"], "gs://bucket/out is remote, and array_record is written to disks: choose"),
        (["folder:nowhere", "out", "--image-shape", "8", "8", "3"], "nowhere is not there"),
    ):
        assert message in fails(capsys, "prepare", *args)
    assert not (tmp_path / "out").exists()
    assert "no manifest.json" in fails(capsys, "data", f"records:{tmp_path}")
    with pytest.raises(ValueError, match="a folder that jaxdiff prepare has written"):
        data.load("records:")
    small = epath.Path(tmp_path) / "small"
    prepare.prepare(source(4), "toy", small)
    with pytest.raises(ValueError, match=r"has images of \[4, 4, 3\], and `image_shape` is \[8, 8, 3\]"):
        data.load(f"records:{small}", (8, 8, 3))
