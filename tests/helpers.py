"""Small models and batches that several tests share."""

import contextlib
import dataclasses
import re
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tensorboardX.proto.event_pb2 import Event

from jaxdiff import UNet, UNetConfig, cli, network, objectives, schedules
from jaxdiff.config import Config, Data, Diffusion, Optim, Sample, Train
from jaxdiff.train.step import make_train_step

TINY = UNetConfig(out_channels=1, channels=(8,), blocks=1, attention=(), mid_attention=False, groups=4)


def tiny_config(**train) -> Config:
    """A config that trains in seconds on one CPU device or eight."""
    train = {"steps": 4, "batch_size": 16, "steps_per_call": 2, "log_every": 2, "save_every": 2} | train
    return Config(
        name="tiny",
        data=Data("digits", (28, 28, 1)),
        net=TINY,
        diffusion=Diffusion("linear", 50, "eps"),
        optim=Optim(learning_rate=1e-2, warmup=1, ema_decay=0.9),
        train=Train(**train),
        sample=Sample(steps=3, num=8, batch_size=8),
    )


def tiny_training(optimizer, config=TINY):
    """Parameters and the pure training step of a tiny network whose last layers are not zero."""
    net = UNet(config)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros([1, 8, 8, 1]), jnp.zeros([1]))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape).astype(np.float32), params)
    loss = objectives.denoising(network(net), schedules.linear(50))
    return params, make_train_step(loss, optimizer)


def batch(size: int, seed: int = 0, start: int = 0) -> dict:
    """Random uint8 images 8x8x1 with their indices."""
    image = np.random.default_rng(seed).integers(0, 256, (size, 8, 8, 1), np.uint8)
    return {"image": image, "index": np.arange(start, start + size, dtype=np.uint32)}


def with_dropout(rate: float) -> UNetConfig:
    """The tiny network with dropout."""
    return dataclasses.replace(TINY, dropout=rate)


def damage(run: Path, step: int) -> None:
    """Changes one bit in the middle of each file of a run's checkpoint: a single file may hold what is read no more."""
    for path in (run / "checkpoints" / str(step) / "rest").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def fill(disk: Path) -> None:
    """Writes a file "filler" until a disk is full."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def read_events(run) -> list[Event]:
    """A run's TensorBoard events, the oldest file first."""
    events = []
    for path in sorted(Path(run).glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):  # records: length uint64, its checksum uint32, the event, its checksum
            (size,) = struct.unpack_from("<Q", content, at)
            events.append(Event.FromString(content[at + 12 : at + 12 + size]))
            at += size + 16
    return events


def read_scalars(run) -> dict[str, dict[int, float]]:
    """The scalars in a run's TensorBoard events, by name and step."""
    scalars = {}
    for event in read_events(run):
        for value in event.summary.value:
            scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


def load_golden(name: str) -> tuple[dict[str, np.ndarray], dict]:
    """What is in a file of tests/golden, and the parameters that it holds, under this library's names."""
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as file:
        golden = dict(file)
    weights = {key.removeprefix("weights/"): value for key, value in golden.items() if key.startswith("weights/")}
    return golden, from_published(weights)


def from_published(weights):
    """Renames and transposes: down_blocks.0.resnets.1.conv1.weight -> down_blocks_0/resnets_1/conv1/kernel."""
    params = {}
    for name, value in weights.items():
        *module, kind = re.sub(r"\.(\d+)", r"_\1", name).split(".")
        if kind == "weight" and module[-1].endswith("embedding") and value.ndim == 2:
            kind = "embedding"
        elif kind == "weight":
            kind = "scale" if value.ndim == 1 else "kernel"
            value = {1: value, 2: value.T, 4: value.transpose(2, 3, 1, 0) if value.ndim == 4 else value}[value.ndim]
        params[(*module, kind)] = np.asarray(value, np.float32)
    return {"params": traverse_util.unflatten_dict(params)}


def fails(capsys, *args, code: int = 2) -> str:
    """Runs a command that must end with that exit code; gives its error, the one line that is no report of progress."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(arg) for arg in args])
    assert stop.value.code == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("jaxdiff: error: "), lines
    assert not [line for line in lines[:-1] if not line.startswith("jaxdiff: ") or "error" in line], lines
    return lines[-1]
