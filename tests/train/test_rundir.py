"""A run's directory where it is in a bucket; local ones are in test_cli and test_loop."""

import dataclasses

import numpy as np
import pytest
from etils import epath
from helpers import tiny_config

from jaxdiff import config as configs
from jaxdiff import disk
from jaxdiff.files import OUTPUT_MARK
from jaxdiff.model import checkpoints, runs
from jaxdiff.pipeline import images
from jaxdiff.train import checkpoint, rundir

RUN = epath.Path("gs://bucket/run")


def test_a_run_in_a_bucket_is_begun_and_written_to(bucket):
    rundir.claim(RUN, resume=False)
    with rundir.locked(RUN), disk.explained(RUN, lambda: "nothing"):
        rundir.write_config(RUN, tiny_config())
        disk.check_room(RUN, 2**60)
        images.save_grid(RUN / "samples" / "step_0000002.png", np.zeros([4, 8, 8, 1], np.uint8))
    assert configs.read_run(RUN) == tiny_config()
    written = {name.removeprefix("/bucket/run/") for name in bucket.find("/bucket/run")}
    assert written == {OUTPUT_MARK, "config.json", "samples/step_0000002.png"}


def test_a_config_in_a_bucket_is_written_anew(bucket):
    rundir.write_config(RUN, tiny_config())
    rundir.write_config(RUN, dataclasses.replace(tiny_config(), name="other"))
    assert configs.read_run(RUN).name == "other"


def test_a_run_in_a_bucket_is_not_overwritten(bucket):
    """There Orbax marks a whole checkpoint by a file, as nothing can be renamed at once."""
    rundir.write_config(RUN, tiny_config())
    with pytest.raises(FileNotFoundError, match="saved no checkpoint to resume from"):
        rundir.claim(RUN, resume=True)
    bucket.pipe("gs://bucket/run/checkpoints/2/commit_success.txt", b"")
    bucket.pipe("gs://bucket/run/checkpoints/4/ema/half", b"")
    assert checkpoints.steps(runs.checkpoint_dir(RUN)) == [2] and rundir.holds_run(RUN)
    with pytest.raises(FileExistsError, match="already holds a run"):
        rundir.claim(RUN, resume=False)
    rundir.claim(RUN, resume=True)


def test_a_checkpoint_in_a_bucket_is_set_aside(bucket):
    for _ in range(2):
        bucket.pipe("gs://bucket/run/checkpoints/2/commit_success.txt", b"")
        moved = checkpoint.set_aside(runs.checkpoint_dir(RUN), 2)
    assert str(moved) == "gs://bucket/run/corrupt/2_2" and checkpoints.steps(runs.checkpoint_dir(RUN)) == []
    assert bucket.exists("gs://bucket/run/corrupt/2/commit_success.txt") and bucket.exists(
        f"{moved}/commit_success.txt"
    )
