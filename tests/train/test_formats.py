"""The same images in every format train to the same bits, however often the training is stopped."""

import dataclasses
import io
import tarfile

import chex
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from helpers import tiny_config
from PIL import Image

from jaxdiff import config as configs
from jaxdiff import data
from jaxdiff.pipeline import prepare
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
