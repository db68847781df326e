"""A run that is killed again and again, beside one that is left alone: the ends must agree.

    python benchmarks/soak.py                                    # 100 kills over 1,000 steps, a quarter of an hour
    python benchmarks/soak.py --kills 3 --steps 100 --seed 14    # the short form that the tests run
    python benchmarks/soak.py --processes 2 --devices 4 --steps 500          # arrays over a mesh, two processes
    python benchmarks/soak.py --processes 1,2,4 --devices 4 --steps 500      # another number of processes in each life

Trains a small U-Net on the embedded digits by `jaxdiff train --auto-resume`, each time ended by SIGKILL or SIGTERM: at
a random moment of the start, at a random step, or (SIGKILL) while a checkpoint is being written. At the start a signal
hits all processes, later one; SIGKILL the others a moment afterwards, and after SIGTERM all must save and end. Then
compares with an undisturbed run every array of the last checkpoint, and which examples each step saw: in each epoch
each example exactly once. Where all lives have the same processes every bit must be equal; with `--processes`, SGD
trains over a mesh (data=2, fsdp the others), and arrays may differ by 1e-5 where the processes change. Ends with exit
code 1 if anything differs.
"""

import argparse
import collections
import dataclasses
import os
import random
import signal
import socket
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
        optim=Optim(learning_rate={rate}, warmup=10, decay_to=0.1, ema_decay=0.99, method="{method}"),
        train=Train(steps={steps}, batch_size=16, log_every=10, save_every=10, log_examples=True{mesh}),
        sample=Sample(steps=2, num=8, batch_size=8),
    )
"""
MESH = ', parallel="sharded", mesh="data=2", rules=("kernel=fsdp(64)",)'
BATCH = 16
TOLERANCE = 1e-5  # of arrays of lives with other processes, in which sums have another order
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
    processes: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # of lives
    grace: list[float] = dataclasses.field(default_factory=list)  # seconds from SIGTERM to the end of the last process
    redone: list[int] = dataclasses.field(default_factory=list)  # steps made again after a SIGKILL
    half_written: int = 0  # lives that began beside a half-written checkpoint


class Life:
    """`jaxdiff train --auto-resume` in one or several processes."""

    def __init__(self, run: Path, processes: int, devices: int, log):
        self.run, self.processes = run, []
        self.begin = [path.stat().st_size if path.exists() else 0 for path in map(self.examples, range(processes))]
        joined = (
            [] if processes == 1 else ["--coordinator", f"localhost:{free_port()}", "--num-processes", str(processes)]
        )
        command = [sys.executable, "-m", "jaxdiff", "train", "soak_config.py", "--run-dir", run.name, "--auto-resume"]
        for p in range(processes):
            own = [*joined, "--process-id", str(p)] if joined else []
            options = {"cwd": run.parent, "env": environment(devices // processes), "stdout": log, "stderr": log}
            self.processes.append(subprocess.Popen([*command, *own], **options))

    def examples(self, p):
        return self.run / f"examples_{p}.tsv"

    def seen(self) -> dict[int, list[tuple[int, ...]]]:
        """Examples of each step of this life, of each process that has noted them."""
        found, each = collections.defaultdict(list), BATCH // len(self.processes)
        for p, begin in enumerate(self.begin):
            text = self.examples(p).read_bytes()[begin:].decode() if self.examples(p).exists() else ""
            for line in text.splitlines():
                step, _, numbers = line.partition("\t")
                if len(numbers.split()) == each:  # a whole line
                    found[int(step)].append(tuple(map(int, numbers.split())))
        return found

    def made(self) -> int:
        """The last step of this life that was begun."""
        return max(self.seen(), default=0)

    def is_over(self) -> bool:
        return any(process.poll() is not None for process in self.processes)

    def wait(self) -> list[int]:
        return [process.wait() for process in self.processes]

    def end(self, signum: int, rng: random.Random, whole: bool) -> list[int]:
        """Exit codes after a signal to one process, or to all of them."""
        first = rng.choice(self.processes)
        for process in self.processes if whole else [first]:
            process.send_signal(signum)
        if signum == signal.SIGTERM and not whole:
            return self.wait()
        first.wait()
        time.sleep(rng.uniform(0, 0.3))
        for process in self.processes:  # as whoever has started them does
            if process.poll() is None and signum == signal.SIGKILL:
                process.kill()
        return self.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def environment(devices):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--devices", type=int, default=1, help="simulated devices, of all processes")
    parser.add_argument("--processes", default="", help="of each life, such as 2, or 1,2,4 in turn, over a mesh")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--directory", type=Path, default=None, help="for both runs; a temporary one by default")
    args = parser.parse_args()
    directory = args.directory or Path(tempfile.mkdtemp(prefix="soak"))
    directory.mkdir(exist_ok=True)
    numbers = [int(n) for n in args.processes.split(",")] if args.processes else [1]
    if args.processes and (args.devices < 2 or any(args.devices % n for n in numbers)):
        parser.error("--devices must be at least 2, and each of --processes divide it")
    of_mesh = {"mesh": MESH.replace("data=2", f"data=2,fsdp={args.devices // 2}"), "method": "sgd", "rate": 0.1}
    fields = of_mesh if args.processes else {"mesh": "", "method": "adamw", "rate": 1e-3}
    (directory / "soak_config.py").write_text(CONFIG.format(steps=args.steps, **fields))
    print(f"in {directory}", flush=True)
    with (directory / "log.txt").open("wb") as log:
        start = lambda name, processes: Life(directory / name, processes, args.devices, log)
        alone = start("alone", numbers[0])
        assert set(alone.wait()) == {0}, log.name
        order = {step: batch_of(parts) for step, parts in alone.seen().items()}
        killing = Killing(start, order, numbers, args.kills, args.steps, random.Random(args.seed))
        killing.go_on()
    tolerance = TOLERANCE if len(set(numbers)) > 1 else 0
    report(killing, [*killing.differences, *compare(directory, order, args.steps, tolerance)], tolerance)


class Killing:
    """Starts the run until it is done, and ends all its lives but the last before their time."""

    def __init__(self, start, order, numbers, kills, steps, rng):
        self.start, self.order, self.numbers, self.kills, self.steps, self.rng = (
            start,
            order,
            numbers,
            kills,
            steps,
            rng,
        )
        self.figures, self.made, self.differences, self.steps_seen = Figures(), 0, [], set()

    def go_on(self):
        ends = []
        for n in range(self.kills):
            ends = ends or self.rng.sample(ENDS, len(ENDS))
            kind, signum = ends.pop()
            life = self.begin(n)
            self.wait_until(life, kind, self.kills - n)
            if life.is_over():
                raise SystemExit(
                    f"it ended with {life.wait()} before all kills were made: see log.txt; more --steps help"
                )
            sent = time.monotonic()
            codes = life.end(signum, self.rng, whole=kind == "start")
            self.note(life, kind, signum, codes, time.monotonic() - sent)
            print(
                f"{n + 1}: {signal.Signals(signum).name} at {kind}, of {len(codes)}, after step {self.made}", flush=True
            )
        life = self.begin(self.kills)
        assert set(life.wait()) == {0}, "see log.txt"
        self.look(life)

    def begin(self, n):
        life = self.start("killed", self.numbers[n % len(self.numbers)])
        self.figures.half_written += bool(list(life.run.glob("checkpoints/*tmp*")))
        self.figures.processes[len(life.processes)] += 1
        return life

    def wait_until(self, life, kind, left):
        if kind == "start":
            time.sleep(self.rng.uniform(0, START * len(life.processes)))
            return
        # So many steps ahead that the kills are spread over the whole run.
        target = self.made + self.rng.uniform(0, 2 * (self.steps - self.made) / (left + 2))
        wait_for(life, lambda: life.made() > target, every=0.02)
        time.sleep(self.rng.uniform(0, 0.1))
        if kind == "save":
            wait_for(life, lambda: list(life.run.glob("checkpoints/*tmp*")))

    def note(self, life, kind, signum, codes, seconds):
        self.look(life)
        # Of several processes some may end by an error, where another is gone. While Python starts, SIGTERM ends it.
        told = len(codes) == 1 or (signum, kind) == (signal.SIGTERM, "step")
        right = {-signum, 128 + signum} if told else {*codes} - {0}
        assert right.issuperset(codes), f"{codes}: see log.txt"
        if set(codes) == {128 + signal.SIGTERM}:
            self.figures.grace.append(seconds)
        elif kind != "start":
            newest = max(checkpoints.steps(life.run / "checkpoints"), default=0)
            self.figures.redone.append(self.made - newest)
        self.figures.kills[f"{signal.Signals(signum).name} at {kind}"] += 1

    def look(self, life):
        """Compares the examples of each step of a life with those of the undisturbed run."""
        for step, parts in life.seen().items():
            self.made = max(self.made, step)
            if len(parts) < len(life.processes):  # some were killed before they noted it
                right = set(sum(parts, ())) < set(self.order[step])
            else:
                right = batch_of(parts) == self.order[step]
                self.steps_seen.add(step)
            if not right:
                self.differences.append(f"step {step} saw other examples")


def batch_of(parts):
    """Examples of a step in their order: process p of n has those at p, p + n, ..."""
    return [example for row in zip(*parts) for example in row]


def wait_for(life, happened, every=0.0005):
    """Until it happened or a process ended."""
    while not life.is_over() and not happened():
        time.sleep(every)


def compare(directory, order, steps, tolerance):
    """Differences, as text."""
    config = configs.read_run(directory / "alone")
    shapes = initial.state_shapes(config)
    states = [checkpoint.restore(runs.checkpoint_dir(directory / run), shapes) for run in ("alone", "killed")]
    assert [state.step for state in states] == [steps, steps]
    leaves = [jax.tree.leaves_with_path(state.tree) for state in states]
    apart = 0.0
    for (path, a), (_, b) in zip(*leaves, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        apart = max(apart, np.abs(a.astype(float) - b).max(initial=0))
        if a.dtype != b.dtype or (a.tobytes() != b.tobytes() and np.abs(a - b).max() > tolerance):
            yield f"{jax.tree_util.keystr(path)} differs by up to {np.abs(a - b).max()}"
    all_seen = np.concatenate([order[step] for step in range(1, steps + 1)])
    size = len(setup.open_source(config))
    for epoch in range(0, len(all_seen), size):
        part = all_seen[epoch : epoch + size]
        if len(set(part)) < len(part):
            yield f"epoch {epoch // size} saw an example twice"
    numbers = sum(np.size(x) for _, x in leaves[0])
    print(f"{len(leaves[0])} arrays of {numbers:,} numbers; {len(all_seen) / size:.1f} epochs; apart by {apart:.2g}")


def report(killing, differences, tolerance):
    figures = killing.figures
    if missing := set(range(1, killing.steps + 1)) - killing.steps_seen:
        differences.append(f"steps {sorted(missing)} were never made")
    print(", ".join(f"{n} {kind}" for kind, n in sorted(figures.kills.items())))
    print("lives: " + ", ".join(f"{n} of {processes}" for processes, n in sorted(figures.processes.items())))
    print(f"{figures.half_written} lives began beside a half-written checkpoint")
    if figures.grace:
        print(f"from SIGTERM to the end: median {np.median(figures.grace):.2f} s, at most {max(figures.grace):.2f} s")
    if figures.redone:
        print(f"steps made again after SIGKILL: median {np.median(figures.redone):.0f}, at most {max(figures.redone)}")
    equal = f"equal to {tolerance:g}" if tolerance else "equal, bit for bit"
    print("\n".join(differences) or f"{equal}; every example of an epoch seen exactly once")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
