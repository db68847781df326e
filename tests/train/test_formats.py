"""The same images in every format train to the same bits, however often the training is stopped."""

import dataclasses
import io
import json
import tarfile
import zlib

import chex
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from helpers import tiny_config
from PIL import Image
from tiny import tiny_clip

from jaxdiff import config as configs
from jaxdiff import data
from jaxdiff.data import caption_tags
from jaxdiff.model.frozen_models import FrozenModels
from jaxdiff.pipeline import prepare
from jaxdiff.train import setup
from jaxdiff.train.loop import fit
from jaxdiff.train.stop import Stop, Stopped

pytestmark = pytest.mark.usefixtures("one_device")

SHAPE, COUNT = (8, 8, 3), 20


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Names of the same twenty pictures in each format."""
    root, values, files = tmp_path_factory.mktemp("formats"), np.random.default_rng(0), []
    for name in ("folder", "shards", "arrow", "parquet"):
        (root / name).mkdir()
    for i in range(COUNT):
        file = io.BytesIO()
        Image.fromarray(values.integers(0, 256, SHAPE, np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
        (root / "folder" / f"{i:02}.png").write_bytes(files[-1])
    for shard in range(4):
        with tarfile.open(root / "shards" / f"{shard}.tar", "w") as archive:
            for i in range(5 * shard, 5 * shard + 5):
                archive.add(root / "folder" / f"{i:02}.png", f"{i:02}.png")
    table = pa.table({"image": files})
    pq.write_table(table, root / "parquet" / "a.parquet", row_group_size=3)
    with pa.OSFile(str(root / "arrow" / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    prepare.prepare(data.load(f"folder:{root}/folder", SHAPE), "pictures", epath.Path(root) / "records")
    return {kind: f"{kind}:{root}/{kind}" for kind in ("folder", "shards", "parquet", "arrow", "records")}


@pytest.mark.parametrize("kind", ["folder", "shards", "records"])
def test_tags_and_captions_after_a_stop_are_those_of_a_training_without(kind, tmp_path):
    """Several captions in JSON beside the images, in shards, and in records made of them."""
    config = tiny_clip()
    (tmp_path / "folder").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "folder" / f"{i}.png")
        captions = [f"a {i}, red, blue, green, top", f"{i} alone"]
        (tmp_path / "folder" / f"{i}.json").write_text(json.dumps({"captions": captions}))
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as archive:
        for path in sorted((tmp_path / "folder").iterdir()):
            archive.add(path, path.name)
    prepare.prepare(data.load(f"folder:{tmp_path}/folder", (32, 32, 3)), "tags", epath.Path(tmp_path) / "records")
    tags = caption_tags.CaptionTags(shuffle=True, keep=1, dropout=0.2)
    dataset = configs.Data(f"{kind}:{tmp_path}/{kind}", (32, 32, 3), caption_tags=tags, trigger="zz")
    config = dataclasses.replace(
        config, data=dataset, train=dataclasses.replace(config.train, batch_size=4, steps_per_call=1)
    )
    configs.check(config)
    source = setup.open_source(config)
    words = FrozenModels(tokenizer=lambda texts: np.array([[zlib.crc32(text.encode()) % 2**31] for text in texts]))

    def tokens(start):
        stream = setup.batches(config, source, start, words)
        found = [next(stream)[0]["tokens"].ravel().tolist() for _ in range(8 - start)]
        stream.close()
        return found

    seen = tokens(0)
    assert seen[3:] == tokens(3) and len({*map(tuple, seen)}) > 4
    expected = [
        {derived(f"folder:{tmp_path}/folder", tags, n) for n in range(4 * step, 4 * step + 4)} for step in range(8)
    ]
    assert [*map(set, seen)] == expected


def derived(name, tags, position):
    """The same for every kind of source: the digest of the text at a position."""
    source = caption_tags.with_trigger(data.load(name, (32, 32, 3)), "zz")
    order = data.batches(source, 1, start_step=position)
    i = int(next(order)["example"][0, 0])
    order.close()
    return zlib.crc32(caption_tags.text_of(source, i, 0, position, tags, "zz").encode()) % 2**31


def config_of(source):
    config = tiny_config(steps=6, save_every=2, log_every=2, sample_every=0)
    net = dataclasses.replace(config.net, out_channels=3)
    return dataclasses.replace(config, name="formats", data=configs.Data(source, SHAPE), net=net)


@pytest.fixture(scope="module")
def straight(sources, tmp_path_factory):
    return fit(config_of(sources["folder"]), run=tmp_path_factory.mktemp("straight") / "run").params


@pytest.mark.parametrize("kind", ["shards", "parquet", "arrow", "records"])
def test_stopped_twice_it_ends_with_the_bits_of_a_folder(kind, sources, straight, tmp_path, monkeypatch):
    config, run = config_of(sources[kind]), tmp_path / "run"
    for resume in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(Stop, "asked", lambda self, call: (setattr(self, "signum", 15), call == 1)[1])
            with pytest.raises(Stopped):
                fit(config, run=run, resume=resume)
    chex.assert_trees_all_equal(fit(config, run=run, resume=True).params, straight)
