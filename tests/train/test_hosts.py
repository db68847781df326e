"""Several processes, each with devices of its own, joined by gloo: they train as one, agree, and stop together."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from helpers import damage, fill, tiny_config
from PIL import Image
from tiny import data_here, tiny_latent, write_ends

from jaxdiff import config as configs
from jaxdiff import data, hosts
from jaxdiff.data import encoded
from jaxdiff.model import checkpoints, runs
from jaxdiff.model.frozen_models import open_models
from jaxdiff.pipeline import encoding
from jaxdiff.train import checkpoint, initial, loop, setup

CONFIG = """
from helpers import tiny_config

def get_config():
    return tiny_config(steps=20, batch_size=16, steps_per_call=5, log_every=10, save_every=10)
"""

PHOTOS = """
import dataclasses
from helpers import tiny_config
from jaxdiff.config import Data

def get_config():
    config = tiny_config(steps=20, batch_size=16, steps_per_call=1, log_every=10, save_every=20)
    return dataclasses.replace(config, data=Data("folder:photos", (28, 28, 1)))
"""

BUCKETS = """
import dataclasses
from helpers import tiny_config
from jaxdiff.config import Data

def get_config():
    config = tiny_config(steps=6, batch_size=8, steps_per_call=1, log_every=6, save_every=6, sample_every=0)
    return dataclasses.replace(config, data=Data("folder:ratios", (8, 8, 1), buckets=((8, 8), (4, 16))))
"""

ENCODE = """
import functools, os
os.environ["TFDS_DATA_DIR"] = "data"
from jaxdiff.data import encoded
from jaxdiff.pipeline import encoding
from jaxdiff.train import setup
from jaxdiff.model.frozen_models import open_models
from tiny import tiny_latent

encoded.shards = functools.partial(encoded.shards, size=400)  # three files
config = tiny_latent("vae.safetensors", "clip.safetensors")
source = setup.open_source(config)
print(len(encoding.encoded(config, source, open_models(config, source))), "encoded")
"""

BARRIERS = """
import time
import jax
from jaxdiff import hosts

if jax.process_index() == 0:
    try:
        hosts.barrier("lunch", timeout=2)
    except TimeoutError as error:
        print(error)
else:
    time.sleep(5)
hosts.barrier("tea", timeout=60)
hosts.barrier("tea", timeout=60)
"""

# Commands and programs, one a line: after each its exit code, standard output and standard error.
SERVE = """
import contextlib, io, json, sys
from jaxdiff import hosts
from jaxdiff.cli import main

hosts.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
for line in sys.stdin:
    asked, out, err, code = json.loads(line), io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(asked) if isinstance(asked, list) else exec(asked, {})
        except SystemExit as end:
            code = end.code
    print("reply", json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hosts")
    (directory / "mine.py").write_text(CONFIG)
    return directory


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def environment(devices):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}


class Pair:
    """Two processes of four devices each, which are joined once and do one thing after another."""

    def __init__(self, place):
        joined = [sys.executable, "-c", SERVE, f"localhost:{free_port()}", "2"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.processes = [subprocess.Popen([*joined, str(p)], cwd=place, env=environment(4), **pipes) for p in range(2)]

    def ask(self, first, second=None):
        """Gives both a command, a list of words, or a program, a text; or each its own."""
        for process, asked in zip(self.processes, (first, second or first)):
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()

    def answers(self):
        """(exit code, standard output, standard error) of each."""
        found = []
        for process in self.processes:
            reply = next((line for line in process.stdout if line.startswith("reply ")), None)  # Gloo writes there, too
            assert reply, f"a process ended with {process.wait()}"
            found.append(json.loads(reply.removeprefix("reply ")))
        return found

    def train(self, run, *args, config="mine.py"):
        self.ask(["train", config, "--run-dir", str(run), *args])
        return self.answers()


@pytest.fixture(scope="module")
def pair(place):
    pair = Pair(place)
    yield pair
    for process in pair.processes:
        process.kill()
        process.wait()


def state(place, run):
    config = tiny_config()
    return checkpoint.restore(runs.checkpoint_dir(place / run), initial.state_shapes(config))


def newest(run):
    return max(checkpoints.steps(runs.checkpoint_dir(run)))


@pytest.fixture(scope="module")
def trained(place, pair):
    """20 steps by one process of 8 devices, and by two of 4."""
    loop.fit(configs.load(str(place / "mine.py")), run=place / "one")
    two = pair.train("two")
    assert [code for code, *_ in two] == [0, 0], two
    return two


def test_two_processes_of_four_devices_equal_one_of_eight(trained, place):
    one, two = state(place, "one"), state(place, "two")
    assert one.step == two.step == 20
    chex.assert_trees_all_close(one.tree, two.tree, rtol=1e-5, atol=1e-5)
    first = jax.device_get(initial.new_state(tiny_config()))
    assert (
        max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(one.tree.params), jax.tree.leaves(first.params))) > 0.1
    )


def test_process_0_alone_writes_and_draws(trained, place):
    (_, main, log), (_, other, other_log) = trained
    assert "step_0000020.png" in main and "step 20 of 20: loss" in log and "loss" not in other_log
    assert other == ""
    assert len(list((place / "two").glob("events.*"))) == 1
    assert sorted(path.name for path in (place / "two" / "samples").iterdir()) == ["step_0000020.png"]


def test_barriers_are_logged_before_and_after(trained):
    waits = re.findall(r"waiting for all 2 processes: (.*) \(at most \d+ s\)", trained[0][2])
    assert len(waits) >= 2 and waits == re.findall(r"all are here after [\d.]+ s: (.*)", trained[0][2])


@pytest.mark.parametrize("saved, by", [("two", 1), ("one", 2)])
def test_what_some_processes_saved_is_resumed_by_fewer_and_by_more(trained, pair, place, saved, by):
    """From step 10 to 20: they end where the two did, up to the order of sums."""
    run = f"{saved}_by_{by}"
    subprocess.run(["cp", "-r", place / saved, place / run], check=True)
    shutil.rmtree(place / run / "checkpoints" / "20")
    if by == 1:
        loop.fit(configs.load(str(place / "mine.py")), run=place / run, resume=True)
    else:
        ended = pair.train(run, "--resume")
        assert [code for code, *_ in ended] == [0, 0] and "step 20 of 20" in ended[0][2], ended
    assert state(place, run).step == 20
    chex.assert_trees_all_close(state(place, run).tree, state(place, "two").tree, rtol=1e-5, atol=1e-5)


def test_a_loss_that_is_not_finite_ends_all_at_the_same_step(trained, pair, place):
    run = "diverging"
    subprocess.run(["cp", "-r", place / "two", place / run], check=True)
    ended = pair.train(run, "--resume", "--train.steps", "40", "--optim.learning-rate", "1e38")
    assert [code for code, *_ in ended] == [3, 3], ended
    said = {re.search(r"at step (\d+): the checkpoint of step (\d+) in", errors).groups() for _, _, errors in ended}
    assert len(said) == 1 and state(place, run).step == int(said.pop()[1])


def test_a_damaged_checkpoint_is_passed_over_by_all(trained, pair, place):
    """Resumed together from step 10, they end with the same bits."""
    run = "damaged"
    subprocess.run(["cp", "-r", place / "two", place / run], check=True)
    damage(place / run, 20)
    assert [code for code, *_ in pair.train(run, "--resume")] == [0, 0]
    chex.assert_trees_all_equal(state(place, run).tree, state(place, "two").tree)
    assert (place / run / "corrupt" / "20").is_dir()


SHARDED = ["--train.parallel", "sharded", "--train.mesh", "data=2,fsdp=4", "--train.rules", "kernel=fsdp(64)"]


@pytest.fixture(scope="module")
def sharded(trained, pair, place):
    ended = pair.train("sharded", *SHARDED)
    assert [code for code, *_ in ended] == [0, 0], ended
    return place / "sharded"


def test_two_processes_share_the_arrays(sharded, place):
    """Each writes its own parts, which are read whole; the numbers are those of pmap."""
    chex.assert_trees_all_close(state(place, "sharded").tree, state(place, "two").tree, rtol=1e-4, atol=1e-4)
    for item in ("ema", "rest"):
        parts = {path.name for path in (sharded / "checkpoints" / "20" / item).glob("ocdbt.process_*")}
        assert parts == {"ocdbt.process_0", "ocdbt.process_1"}
    assert (sharded / "samples" / "step_0000020.png").exists()


def test_two_processes_pass_over_a_damaged_checkpoint_of_parts(sharded, pair, place):
    """Resumed from step 10 on the same mesh they end with the same bits."""
    shutil.copytree(sharded, place / "damaged_parts")
    damage(place / "damaged_parts", 20)
    ended = pair.train("damaged_parts", "--resume", *SHARDED)
    assert [code for code, *_ in ended] == [0, 0], ended
    chex.assert_trees_all_equal(state(place, "damaged_parts").tree, state(place, "sharded").tree)


@pytest.mark.parametrize("mesh", ["", "fsdp=8"], ids=["pmap", "other mesh"])
def test_parts_of_two_processes_are_gone_on_with_by_one(sharded, place, mesh):
    run = place / f"parts_by_one{mesh}"
    shutil.copytree(sharded, run)
    shutil.rmtree(run / "checkpoints" / "20")
    config = configs.load(str(place / "mine.py"))
    if mesh:
        train = dataclasses.replace(config.train, parallel="sharded", mesh=mesh, rules=("kernel=fsdp(64)",))
        config = dataclasses.replace(config, train=train)
    loop.fit(config, run=run, resume=True)
    chex.assert_trees_all_close(state(place, run.name).tree, state(place, "two").tree, rtol=1e-4, atol=1e-4)


def test_different_configs_are_refused_by_every_process(pair, place):
    pair.ask(
        *(["train", "mine.py", "--run-dir", "differing", "--optim.learning-rate", rate] for rate in ("0.1", "0.2"))
    )
    for code, _, errors in pair.answers():
        assert code == 2
        assert "optim.learning_rate is 0.1 in process 0 and 0.2 in process 1" in errors.splitlines()[-1]
    assert not (place / "differing").exists()


def test_what_one_process_refuses_all_refuse(trained, pair, place):
    before = {path: path.read_bytes() for path in (place / "two").rglob("*") if path.is_file()}
    for code, _, errors in pair.train("two"):
        assert code == 2 and "already holds a run" in errors.splitlines()[-1]
    assert {path: path.read_bytes() for path in (place / "two").rglob("*") if path.is_file()} == before


def test_an_image_that_one_process_cannot_read_ends_both_after_the_same_step(pair, place):
    """Process 1 alone would read it in step 10; the run goes on once it is sound."""
    (place / "photos").mkdir()
    for i, noise in enumerate(np.random.default_rng(0).integers(0, 256, (400, 28, 28), np.uint8)):
        Image.fromarray(noise).save(place / "photos" / f"{i:03}.png")
    (place / "photos.py").write_text(PHOTOS)
    source = data.load(f"folder:{place / 'photos'}", (28, 28, 1))
    step10 = next(data.batches(source, 16, start_step=9))["example"][0]
    chosen = step10[1]  # process p of 2 reads positions p, p + 2, ...
    broken = place / "photos" / f"{chosen:03}.png"
    sound = broken.read_bytes()
    broken.write_bytes(sound[:100])
    ended = pair.train("ended", config="photos.py")
    assert [code for code, *_ in ended] == [2, 2], ended
    said = [errors.splitlines()[-1] for _, _, errors in ended]
    assert f"process 1 says: {broken.relative_to(place)} cannot be read" in said[0], said
    assert said[1].startswith(f"jaxdiff: error: {broken.relative_to(place)} cannot be read"), said
    assert state(place, "ended").step == 9
    broken.write_bytes(sound)
    with contextlib.chdir(place):
        loop.fit(configs.load("photos.py"), run="ended", resume=True)
    assert state(place, "ended").step == 20


def test_two_processes_train_on_buckets_as_one(pair, place):
    """On the same images, with the same programs; the second is compiled by both when its first batch comes."""
    (place / "ratios").mkdir()
    for i, noise in enumerate(np.random.default_rng(0).integers(0, 256, (24, 16, 16), np.uint8)):
        Image.fromarray(noise.reshape([(16, 16), (8, 32)][i % 2])).save(place / "ratios" / f"{i:02}.png")
    (place / "ratios.py").write_text(BUCKETS)
    ended = pair.train("ratios_two", *SHARDED, config="ratios.py")
    assert [code for code, *_ in ended] == [0, 0], ended
    assert ended[0][2].count("compiled for images of") == 1
    with contextlib.chdir(place):
        loop.fit(configs.load("ratios.py"), run="ratios_one")
    assert state(place, "ratios_two").about["data"] == state(place, "ratios_one").about["data"]
    chex.assert_trees_all_close(state(place, "ratios_two").tree, state(place, "ratios_one").tree, rtol=1e-4, atol=1e-4)


def test_two_processes_share_what_is_to_be_encoded(pair, place, monkeypatch):
    """Each makes every other file, of what one process alone would; both read all of them."""
    ends = write_ends(place)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_here(place / "data")))
    pair.ask(ENCODE)
    ended = pair.answers()
    assert [(code, said.splitlines()[-1]) for code, said, _ in ended] == [(0, "1000 encoded")] * 2, ended
    config = tiny_latent(*ends)
    source = setup.open_source(config)
    (folder,) = (place / "data" / "encoded").iterdir()
    assert len(list(folder.glob("*.array_record"))) == 3
    made = encoding.encode(config, source, open_models(config, source), range(len(source)))
    kept = encoded.load(folder, source)
    for i, example in enumerate(made):
        for name, value in example.items():
            np.testing.assert_allclose(kept[i][name], value, atol=2e-3, err_msg=f"{name} of {i}")


@pytest.mark.parametrize("flags", [[], SHARDED], ids=["pmap", "sharded"])
def test_a_disk_that_is_full_for_process_0_ends_both(trained, pair, place, small_disk, flags):
    run = small_disk / "run"
    subprocess.run(["cp", "-r", place / "two", run], check=True)
    command = ["train", "mine.py", "--run-dir", str(run), "--resume", *flags]
    pair.ask([*command, "--train.steps", "4020", "--train.save-every", "5"])
    deadline = time.monotonic() + 200
    while newest(run) == 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    fill(small_disk)
    ended = pair.answers()
    assert [code for code, *_ in ended] == [2, 2], ended
    said = [errors.splitlines()[-1] for _, _, errors in ended]
    assert f"no space is left for {run}" in said[0], said
    assert ("no space is left" if flags else "process 0 says: ") in said[1], said  # each writes its own parts
    assert state(place, run).step == newest(run) > 20 and f"the checkpoint of step {newest(run)} is kept" in said[0]


def test_a_barrier_that_not_all_reach_ends(pair):
    pair.ask(BARRIERS)
    ended = pair.answers()
    assert "not all processes came to 'lunch' within 2 s" in ended[0][1], ended
    assert [code for code, *_ in ended] == [0, 0], ended


def test_a_signal_to_one_process_saves_and_stops_both_after_the_same_step(trained, pair, place):
    """In a resumed run of several steps a call, whose numbers of steps and of calls differ.

    The last test of the pair, whose processes have been told to end and would stop every further run.
    """
    run = "signal"
    subprocess.run(["cp", "-r", place / "two", place / run], check=True)
    command = ["train", "mine.py", "--run-dir", run, "--resume", "--train.log-examples"]
    pair.ask([*command, "--train.steps", "4020", "--train.save-every", "5"])
    log = place / run / "examples_1.tsv"
    deadline = time.monotonic() + 200
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pair.processes[1].send_signal(signal.SIGTERM)
    ended = pair.answers()
    assert [code for code, *_ in ended] == [128 + signal.SIGTERM] * 2, ended
    steps = [int(re.search(r"stopped after step (\d+) of 4020", errors)[1]) for _, _, errors in ended]
    assert 20 < steps[0] == steps[1] == state(place, run).step < 4020
    assert f"jaxdiff train mine.py --run-dir {run} --resume" in ended[0][2]


def test_a_coordinator_that_does_not_answer_is_not_waited_for_for_ever():
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"nobody answers at `coordinator`=localhost:\d+ after 1 s"):
        hosts.initialize(f"localhost:{free_port()}", 2, 1, timeout=1)
    assert time.monotonic() - start < 20


STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a,b", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
ENVIRONMENTS = {
    "alone": ({}, None),
    "SLURM": (STEP | {"SLURM_NTASKS": "4"}, "SLURM"),
    "a SLURM job of one task": (STEP | {"SLURM_NTASKS": "1"}, None),
    "a SLURM allocation without a step": ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, None),
    "a TPU pod": ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, "TPU"),
}


@pytest.mark.parametrize("environment, expected", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_recognises_where_there_are_several(environment, expected, monkeypatch):
    assert hosts.several(environment) == expected
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: joined.append(args))
    monkeypatch.setattr(os, "environ", environment)
    hosts.initialize()
    assert joined == ([(None, None, None)] if expected else [])


def test_a_tpu_host_is_recognised_by_its_chips(monkeypatch):
    monkeypatch.setattr(hosts.glob, "glob", lambda pattern: ["/dev/accel0"] if "accel" in pattern else [])
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: name == "libtpu")
    assert hosts.several({}) == "TPU"


WRONG = {
    "one of three": (("localhost:1", None, None), "`num_processes`, `process_id` must be given, too"),
    "two of three": ((None, 2, 0), "`coordinator` must be given, too"),
    "index too large": (("localhost:1", 2, 2), r"`process_id`=2 must lie in 0\.\.1"),
    "no port": (("localhost", 2, 0), "`coordinator`=localhost must be host:port"),
}


@pytest.mark.parametrize("flags, message", WRONG.values(), ids=WRONG)
def test_mistakes(flags, message):
    with pytest.raises(ValueError, match=message):
        hosts.initialize(*flags)
