"""Memory of the compiled training step with each of the switches that save some.

    python benchmarks/memory.py
    python benchmarks/memory.py digits --batch-size 256

What XLA says of the program for one device: the temporary arrays of a step, and the state that goes from step to step
(parameters, their average, the optimizer's).
"""

import argparse
import dataclasses
import math

import jax
import numpy as np

from jaxdiff import config as configs
from jaxdiff.cli.environment import prepare_jax
from jaxdiff.train import initial, setup

SWITCHES = {
    "as it is": {},
    "--train.accumulate 4": {"train": {"accumulate": 4}},
    "--net.remat": {"net": {"remat": True}},
    "both": {"train": {"accumulate": 4}, "net": {"remat": True}},
    "--optim.moment-dtype bfloat16": {"optim": {"moment_dtype": "bfloat16"}},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default="digits")
    parser.add_argument("--batch-size", type=int, default=128, help="on one device")
    args = parser.parse_args()
    prepare_jax()  # as the command line does
    config = configs.load(args.config)
    config = changed(config, {"train": {"batch_size": args.batch_size, "steps_per_call": 1}})
    print(f"{args.config}, batch {args.batch_size}: temporaries and state in MiB")
    for name, changes in SWITCHES.items():
        temporaries, state = measure(changed(config, changes))
        print(f"{name:<32}{temporaries / 2**20:8.1f}{state / 2**20:8.1f}", flush=True)


def changed(config, changes):
    """The config with other fields in some of its parts."""
    return dataclasses.replace(
        config, **{part: dataclasses.replace(getattr(config, part), **fields) for part, fields in changes.items()}
    )


def measure(config):
    """Bytes of temporary arrays and of the state."""
    T, D = config.train, jax.local_device_count()
    state = initial.state_shapes(config)
    batch = {
        "image": jax.ShapeDtypeStruct((D, 1, T.batch_size, *config.data.image_shape), np.uint8),
        "index": jax.ShapeDtypeStruct((D, 1, T.batch_size), np.uint32),
    }
    replicated = jax.tree.map(lambda x: jax.ShapeDtypeStruct((D, *x.shape), x.dtype), state)
    program = setup.make_step(config).lower(replicated, initial.step_key(config), batch).compile()
    return program.memory_analysis().temp_size_in_bytes, sum(
        math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state)
    )


if __name__ == "__main__":
    main()
