"""Overhead of the training loop over the compiled step, at the digits config, logging and checkpointing included.

    python benchmarks/loop.py

In turns, so that a noisy machine is noisy for both: the compiled step alone, called on one batch that is in memory; and
`jaxdiff.train.loop.train`, from its first report to its last, which reads, decodes and mirrors images, logs every 20 steps
and saves every `--save-every`. Medians over the rounds, and how long the loop waited for data.
"""

import argparse
import dataclasses
import struct
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from tensorboardX.proto.event_pb2 import Event

from jaxdiff import config as configs
from jaxdiff.cli.environment import prepare_jax
from jaxdiff.train import initial, loop, parallel, setup


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of each round")
    parser.add_argument("--save-every", type=int, default=100, help="steps; the digits config itself saves every 750")
    args = parser.parse_args()
    prepare_jax()  # as the command line does
    config = configs.load("digits")
    T = dataclasses.replace(config.train, steps=args.steps, save_every=args.save_every)
    sample = dataclasses.replace(config.sample, steps=1, num=8, batch_size=8)
    config = dataclasses.replace(config, train=T, sample=sample, data=dataclasses.replace(config.data, flip=True))

    alone, bare, looped, waits, late = step_alone(config), [], [], [], []
    for _ in range(args.rounds):
        bare.append(seconds_per_step(alone, args.steps // T.steps_per_call, T.steps_per_call))
        with tempfile.TemporaryDirectory() as directory:
            loop.fit(config, run=Path(directory) / "run")
            events = read_events(Path(directory) / "run")
        first, last = min(events["loss"]), max(events["loss"])
        looped.append((events["loss"][last][0] - events["loss"][first][0]) / (last - first))
        waits.append(np.mean([value for step, (_, value) in events["data_wait_per_step"].items() if step > first]))
        late.append(np.mean([value for step, (_, value) in events["data_late"].items() if step > first]))
    step, whole = np.median(bare), np.median(looped)
    print(f"compiled step alone {1e3 * step:.1f} ms, in the loop {1e3 * whole:.1f} ms: {whole / step:.3f}")
    print("rounds, ms: " + ", ".join(f"{1e3 * a:.1f} and {1e3 * b:.1f}" for a, b in zip(bare, looped)))
    print(f"waiting for data, while the device works, {1e3 * np.median(waits):.2f} ms per step")
    print(f"calls to which data came after the device had run out of work: {np.mean(late):.1%}")


def step_alone(config):
    """A call that carries its own state, donated from call to call, on one batch."""
    batch, _ = next(setup.batches(config, setup.open_source(config), 0))
    held, key = [parallel.replicate(initial.new_state(config))], initial.step_key(config)
    step, _, _ = setup.compiled(config, held[0], key, batch)

    def call():
        held[0], metrics = step(held[0], key, batch)
        jax.block_until_ready(metrics)

    call()
    return call


def seconds_per_step(call, calls, steps_per_call):
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls / steps_per_call


def read_events(run):
    """(wall time, value) of the scalars in a run's TensorBoard events, by name and step."""
    scalars = {}
    for path in run.glob("events.out.tfevents.*"):
        content, at = path.read_bytes(), 0
        while at < len(content):  # records: length uint64, its checksum uint32, the event, its checksum
            (size,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + size])
            at += size + 16
            for value in event.summary.value:
                scalars.setdefault(value.tag, {})[event.step] = event.wall_time, value.simple_value
    return scalars


if __name__ == "__main__":
    main()
