"""A run that is killed again and again, beside one that is left alone: the ends must agree in every bit.

    python benchmarks/soak.py                                   # 100 kills over 1,000 steps, a quarter of an hour
    python benchmarks/soak.py --kills 3 --steps 100 --seed 14   # the short form that the tests run

Trains a small U-Net on the embedded digits by `jaxdiff train --auto-resume`, each time ended by SIGKILL or SIGTERM: at a
random moment of the start, at a random step, or (SIGKILL) while a checkpoint is being written. Then compares with an
undisturbed run every array of the last checkpoint, bit for bit, and which examples each step saw: in each epoch each
example exactly once. Ends with exit code 1 if anything differs.
"""

import argparse
import collections
import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from jaxdiff import config as configs
from jaxdiff.model import checkpoints, runs
from jaxdiff.train import checkpoint, initial, setup

CONFIG = """
from jaxdiff import UNetConfig
from jaxdiff.config import Config, Data, Diffusion, Optim, Sample, Train

def get_config():
    return Config(
        name="soak",
        data=Data(source="digits", image_shape=(28, 28, 1), flip=True),
        net=UNetConfig(out_channels=1, channels=(16,), blocks=1, attention=(), head_dim=16, patch=2, groups=8, dropout=0.1),
        diffusion=Diffusion(schedule="cosine", predict="v"),
        optim=Optim(learning_rate=1e-3, warmup=10, decay_to=0.1, ema_decay=0.99),
        train=Train(steps={steps}, batch_size=16, log_every=10, save_every=10, log_examples=True),
        sample=Sample(steps=2, num=8, batch_size=8),
    )
"""
BATCH = 16
START = 5  # seconds that a life takes to its first step, about; more would let the run get to its end too early
ENDS = [  # of lives; each block of so many kills has every one of them once
    ("start", signal.SIGKILL),
    ("start", signal.SIGTERM),
    ("step", signal.SIGKILL),
    ("step", signal.SIGTERM),
    ("step", signal.SIGKILL),
    ("save", signal.SIGKILL),
]


@dataclasses.dataclass
class Figures:
    """Events of the killed run."""

    kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    grace: list[float] = dataclasses.field(default_factory=list)  # seconds from SIGTERM to the end of the process
    redone: list[int] = dataclasses.field(default_factory=list)  # steps made again after a SIGKILL
    half_written: int = 0  # lives that began beside a half-written checkpoint


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--devices", type=int, default=1, help="simulated devices")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--directory", type=Path, default=None, help="for both runs; a temporary one by default")
    args = parser.parse_args()
    directory = args.directory or Path(tempfile.mkdtemp(prefix="soak"))
    directory.mkdir(exist_ok=True)
    (directory / "soak_config.py").write_text(CONFIG.format(steps=args.steps))
    print(f"in {directory}", flush=True)
    command = lambda run: [
        sys.executable,
        "-m",
        "jaxdiff",
        "train",
        "soak_config.py",
        "--run-dir",
        run,
        "--auto-resume",
    ]
    log = (directory / "log.txt").open("wb")
    start = lambda run: subprocess.Popen(
        command(run), cwd=directory, env=environment(args.devices), stdout=log, stderr=subprocess.STDOUT
    )
    assert start("alone").wait() == 0, log.name
    figures = kill_and_resume(start, directory / "killed", args.kills, args.steps, random.Random(args.seed))
    report(figures, compare(directory / "alone", directory / "killed", args.steps))


def environment(devices):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def kill_and_resume(start, run, kills, steps, rng):
    """Starts the run until it is done, and ends all its lives but the last before their time."""
    figures, ends = Figures(), []
    while True:
        left = kills - figures.kills.total()
        figures.half_written += bool(list(run.glob("checkpoints/*tmp*")))
        before, life = made(run), start("killed")
        if left == 0:
            assert life.wait() == 0, "see log.txt"
            return figures
        if not ends:
            ends = rng.sample(ENDS, len(ENDS))
        kind, signum = ends.pop()
        if kind == "start":
            time.sleep(rng.uniform(0, START))
        else:  # so many steps ahead that the kills are spread over the whole run
            target = before + rng.uniform(0, 2 * (steps - before) / (left + 2))
            wait_for(life, lambda target=target: made(run) > target, every=0.02)
            time.sleep(rng.uniform(0, 0.1))
        if kind == "save":
            wait_for(life, lambda: list(run.glob("checkpoints/*tmp*")))
        if life.poll() is not None:
            raise SystemExit(
                f"it ended with {life.returncode} before all kills were made: see log.txt; more --steps help"
            )
        sent = time.monotonic()
        life.send_signal(signum)
        code = life.wait()
        # While Python starts, SIGTERM ends it at once.
        assert code in (-signum, 128 + signum), f"{code}: see log.txt"
        if code == 128 + signal.SIGTERM:
            figures.grace.append(time.monotonic() - sent)
        elif kind != "start":
            figures.redone.append(made(run) - max(checkpoints.steps(run / "checkpoints"), default=0))
        figures.kills[f"{signal.Signals(signum).name} at {kind}"] += 1
        print(f"{figures.kills.total()}: {signal.Signals(signum).name} at {kind}, after step {made(run)}", flush=True)


def wait_for(life, happened, every=0.0005):
    """Until it happened or the process ended."""
    while life.poll() is None and not happened():
        time.sleep(every)


def seen(run):
    """(step, examples) of every whole line that the run wrote."""
    path = run / "examples_0.tsv"
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        step, _, numbers = line.partition("\t")
        if len(numbers.split()) == BATCH:
            yield int(step), tuple(map(int, numbers.split()))


def made(run):
    """The last step that was begun."""
    return max((step for step, _ in seen(run)), default=0)


def compare(alone, killed, steps):
    """Differences, as text."""
    config = configs.read_run(alone)
    states = [checkpoint.restore(runs.checkpoint_dir(run), initial.state_shapes(config)) for run in (alone, killed)]
    assert [state.step for state in states] == [steps, steps]
    leaves = [jax.tree.leaves_with_path(state.tree) for state in states]
    for (path, a), (_, b) in zip(*leaves, strict=True):
        if a.dtype != b.dtype or a.tobytes() != b.tobytes():
            yield f"{jax.tree_util.keystr(path)} differs by up to {np.abs(a - b).max()}"
    order = dict(seen(alone))
    for step, examples in seen(killed):
        if order[step] != examples:
            yield f"step {step} saw other examples"
    if sorted(dict(seen(killed))) != list(range(1, steps + 1)):
        yield "some step was never made"
    all_seen = np.concatenate([dict(seen(killed))[step] for step in range(1, steps + 1)])
    size = len(setup.open_source(config))
    for epoch in range(0, len(all_seen), size):
        part = all_seen[epoch : epoch + size]
        if len(set(part)) < len(part):
            yield f"epoch {epoch // size} saw an example twice"
    print(
        f"{len(leaves[0])} arrays of {sum(x.size for _, x in leaves[0]):,} numbers; {len(all_seen) / size:.1f} epochs"
    )


def report(figures, differences):
    differences = list(differences)
    print(", ".join(f"{n} {kind}" for kind, n in sorted(figures.kills.items())))
    print(f"{figures.half_written} lives began beside a half-written checkpoint")
    if figures.grace:
        print(f"from SIGTERM to the end: median {np.median(figures.grace):.2f} s, at most {max(figures.grace):.2f} s")
    if figures.redone:
        print(f"steps made again after SIGKILL: median {np.median(figures.redone):.0f}, at most {max(figures.redone)}")
    print("\n".join(differences) or "equal, bit for bit; every example of an epoch seen exactly once")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
