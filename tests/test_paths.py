"""Paths as people give them: addresses of the web and of unknown kinds are refused with what to give."""

import json
import os
import re

import pytest
from etils import epath
from helpers import fails, tiny_config

import jaxdiff
from jaxdiff import config as configs
from jaxdiff import data, files
from jaxdiff import model as models
from jaxdiff.data import paths
from jaxdiff.model import runs
from jaxdiff.model.interop import fields
from jaxdiff.paths import as_path
from jaxdiff.text import tokenizer

WEB = "https://example.com/a"


@pytest.mark.parametrize(
    "address, remedy",
    [
        ("https://huggingface.co/org/name", "give hf:org/name"),
        ("https:/huggingface.co/org/name", "give hf:org/name"),  # as pathlib writes it
        ("hf.co/org/name", "give hf:org/name"),
        ("hf:https://hf.co/org/name/", "give hf:org/name"),
        ("hf://org/name", "give hf:org/name"),
        ("https://huggingface.co/org/name/tree/fp16/unet", "give hf:org/name@fp16"),
        ("https://huggingface.co/org/name/blob/main/a/b.safetensors?x=1", "give hf:org/name:a/b.safetensors"),
        ("https://huggingface.co/datasets/org/name", "download it first, and give its path"),
        ("HTTP://example.com/a.safetensors", "download it first, and give its path"),
        ("ftp://example.com/a", "download it first, and give its path"),
        ("file:///data/my%20run", "give the path /data/my run"),
        ("file://localhost/data", "give the path /data"),
        ("gs:/bucket/a", "give gs://bucket/a"),
        ("GS://bucket/a", "give gs://bucket/a"),
        ("abfs://bucket/a", "is an address of an unknown kind: gs:// and s3:// are known"),
        ("/data/https://a", "is an address of an unknown kind"),
        ("~nobody-of-this-name/a", "there is no home directory"),
    ],
)
def test_addresses_are_no_paths(address, remedy):
    with pytest.raises(ValueError, match=re.escape(remedy)):
        as_path(address, hub=True)


def test_paths_of_disks_and_buckets_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf.co" / "org" / "name").mkdir(parents=True)
    for path in ("runs/a", "gs://bucket/a", "hf:org/name", "hf.co/org/name", "a:b"):
        assert os.fspath(as_path(path, hub=True)) == path
    assert as_path("~/a") == epath.Path("~/a").expanduser()


READERS = {
    "a model": jaxdiff.load,
    "the config of a model": models.load_config,
    "an adapter": models.load_adapter,
    "a published adapter": models.is_published_adapter,
    "an adapter of a base": lambda path: jaxdiff.with_adapters(jaxdiff.load("digits"), path),
    "a config": lambda path: configs.load(f"{path}.py"),
    "a run": configs.read_run,
    "a tokenizer": tokenizer.load,
    "a run to train": lambda path: jaxdiff.fit(tiny_config(), run=path),
    "a file to write": lambda path: files.write_whole(path, "a"),
    "a model to write": lambda path: jaxdiff.export(jaxdiff.load("digits"), path),
    "a source": lambda path: data.load(path, (8, 8, 3)),
    **{
        kind: lambda path, kind=kind: data.load(f"{kind}:{path}", (8, 8, 3))
        for kind in ("folder", "shards", "parquet", "arrow", "records")
    },
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("address", ["https://example.com/a", "file:///example/a"])
def test_addresses_in_place_of_paths_are_refused(read, address):
    with pytest.raises(ValueError, match=f"^{address}.* is an address"):
        read(address)


@pytest.mark.parametrize(
    "args",
    [
        ("sample", WEB),
        ("sample", "captioned", "a seven", "--lora", WEB),
        ("sample", "captioned", "a seven", "--image-prompt", WEB),
        ("edit", "digits", "--image", WEB),
        ("eval", WEB),
        ("export", WEB),
        ("convert", WEB, "a.safetensors"),
        ("fuse", WEB, "star", "-o", "a.safetensors"),
        ("plan", WEB),
        ("train", f"{WEB}.py"),
        ("train", "folder", "--data.source", f"folder:{WEB}"),
        ("train", "digits", "--run-dir", WEB),
        ("data", f"shards:{WEB}.tar"),
        ("data", WEB),
        ("prepare", WEB, "out"),
        ("--import", f"{WEB}.py", "pretrained"),
    ],
)
def test_addresses_in_place_of_models_and_data_are_one_line(args, capsys):
    assert " is an address of the web" in fails(capsys, *args)


def test_a_directory_of_prepared_data_is_no_address(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", WEB)
    with pytest.raises(ValueError, match=f"{WEB} is an address of the web"):
        paths.data_dir()


def test_data_of_the_hub_is_not_taken_for_a_misspelt_source(capsys):
    assert "hf:org/name: data of the Hub is not fetched" in fails(capsys, "data", "hf:org/name")


def test_json_is_read_with_a_mark_and_refused_in_other_encodings(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": "é"}', "utf-8-sig")
    assert files.read_json(path) == {"a": "é"}
    for encoding, said in (("utf-16", "UTF-16"), ("latin-1", r"not UTF-8 \(byte 7\)")):
        path.write_text('{"a": "é"}', encoding)
        with pytest.raises(ValueError, match=rf"a.json is {said}: save it as UTF-8"):
            files.read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json is not JSON"):
        files.read_json(path)


JSON = {
    "config.json": configs.read_run,
    "tokenizer.json": runs.frozen_models,
    "prompts.json": runs.kept_prompts,
    "model_index.json": lambda folder: fields.fields_of(folder / "model_index.json"),
    "vocab.json": tokenizer.load,
}


@pytest.mark.parametrize("name", JSON)
def test_json_of_other_encodings_is_named_wherever_it_is_read(name, tmp_path):
    (tmp_path / "merges.txt").touch()
    (tmp_path / name).write_text("{}", "utf-16")
    with pytest.raises(ValueError, match=f"{name} is UTF-16: save it as UTF-8"):
        JSON[name](epath.Path(tmp_path))


def test_a_config_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "config.json").write_text(configs.to_json(tiny_config()), "utf-8-sig")
    assert configs.read_run(tmp_path) == tiny_config()
    (tmp_path / "prompts.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"prompts.json must hold a list of texts"):
        runs.kept_prompts(tmp_path)
