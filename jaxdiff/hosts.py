"""Processes of several hosts: joining them, agreement between them, and barriers.

jax has no public barrier with a timeout, but Orbax has one, `orbax.checkpoint.multihost.sync_global_processes`. Its
documentation wants another name for each barrier; that a name may serve again once all have passed is taken for granted,
and tested in tests/train/test_hosts.py.
"""

import glob
import importlib.util
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")
log = logging.getLogger("jaxdiff")

SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")  # jax needs these: a step by srun


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, timeout: int = 300
) -> None:
    """Joins the processes of all hosts by `jax.distributed.initialize`, if there are several; before jax computes.

    Args:
      coordinator: "host:port" of process 0, together with the next two arguments. Without the three, a SLURM job of several
        tasks and a TPU host are recognised, and everything else is a single process.
      num_processes: number of processes.
      process_id: index of this process, from 0.
      timeout: seconds to wait for the others.

    Raises:
      ValueError: only some of the three are given, or they do not fit each other.
      TimeoutError: process 0 does not answer. If another process is missing, jax ends this one after `timeout`.
    """
    given = {"`coordinator`": coordinator, "`num_processes`": num_processes, "`process_id`": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < 3:
        raise ValueError(f"{', '.join(missing)} must be given, too: the three arguments of several hosts go together")
    if not missing:
        if not 0 <= process_id < num_processes:
            raise ValueError(f"`process_id`={process_id} must lie in 0..{num_processes - 1} (`num_processes`)")
        if not coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"`coordinator`={coordinator} must be host:port")
    elif several(os.environ) is None:
        return
    log.info("looking for the other hosts (%s, at most %d s)", coordinator or several(os.environ), timeout)
    if process_id:
        _reach(coordinator, timeout)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout)
    except ValueError as error:
        if coordinator or several(os.environ) != "TPU":
            raise
        log.info("a TPU host on its own (%s)", error)
    log.info("process %d of %d, with %d of %d devices", *here())


def _reach(coordinator, timeout):
    """Waits until process 0 listens; jax itself would end the process without a hint."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise TimeoutError(
                    f"nobody answers at `coordinator`={coordinator} after {timeout} s ({error}): is process 0 started?"
                ) from None
            time.sleep(0.5)


def several(environment: Mapping[str, str]) -> str | None:
    """Environment in which there may be several processes, "SLURM" or "TPU"; None for a single process.

    Raises:
      ValueError: SLURM_NTASKS is no number.
    """
    tasks = environment.get("SLURM_NTASKS") or "1"
    if not tasks.isdecimal():
        raise ValueError(f"SLURM_NTASKS={tasks} must be a whole number")
    if int(tasks) > 1 and all(name in environment for name in SLURM):
        return "SLURM"
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or (chips and importlib.util.find_spec("libtpu")):
        return "TPU"
    return None


def here() -> tuple[int, int, int, int]:
    """Index of this process, number of processes, devices of this process, devices of all."""
    return jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count()


def is_main() -> bool:
    """Whether this is process 0, which writes, logs and samples previews."""
    return jax.process_index() == 0


def barrier(name: str, timeout: int = 600) -> None:
    """Waits until every process has come here; logs before and after.

    Raises:
      TimeoutError: a process did not come within `timeout` seconds.
    """
    if jax.process_count() == 1:
        return
    import orbax.checkpoint as ocp  # here, for loading a file needs no Orbax

    log.info("waiting for all %d processes: %s (at most %d s)", jax.process_count(), name, timeout)
    start = time.monotonic()
    try:
        everyone = set(range(jax.process_count()))  # without it Orbax waits by a collective, without end
        ocp.multihost.sync_global_processes(f"jaxdiff: {name}", timeout=timeout, processes=everyone)
    except RuntimeError as error:
        raise TimeoutError(f"not all processes came to {name!r} within {timeout} s: {error}") from error
    log.info("all are here after %.1f s: %s", time.monotonic() - start, name)


def gather(text: str, name: str, timeout: int = 600) -> list[str]:
    """Returns the texts of all processes, in their order; every process must call it, and waits as at a `barrier`.

    Raises:
      TimeoutError: a process did not come, see `barrier`.
    """
    if jax.process_count() == 1:
        return [text]
    barrier(name, timeout)  # the two collectives below would wait without end
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(mine.size))
    padded = np.pad(mine, (0, int(sizes.max()) - mine.size + 1))  # one byte more: empty arrays cannot be gathered
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes)]


def together(act: Callable[[], T], name: str, timeout: int = 600) -> T:
    """Returns the result of a function in this process, if it succeeds in every process.

    Args:
      act: function that may fail in one process and not in another; must not wait for other processes itself.
      name: name of the barrier that follows, for the log.
      timeout: seconds by which one process may be slower than another.

    Raises:
      Exception: the function's own, if it fails in this process.
      ValueError: it fails in another process only; with the text of that error.
    """
    failed = result = None
    try:
        result = act()
    except Exception as error:
        failed = error
    texts = gather(_text_of(failed) if failed else "", name, timeout)
    if failed:
        raise failed
    for process, text in enumerate(texts):
        if text:
            raise ValueError(f"process {process} says: {text}")
    return result


def _text_of(error):
    """The text of an error, without the number that the system gives it."""
    return (getattr(error, "strerror", None) if isinstance(error, OSError) else None) or str(error) or repr(error)


def on_main(act: Callable[[], None], name: str, timeout: int = 600) -> None:
    """Calls a function in process 0 alone; if it fails there, all processes raise, see `together`."""
    together(lambda: act() if is_main() else None, name, timeout)


def check_same(values: Mapping, name: str) -> None:
    """Refuses, in every process, values that differ between processes.

    Args:
      values: nested mapping of JSON values.
      name: name of the values, for the log.

    Raises:
      ValueError: values differ; the message names the first.
    """
    flat = [_flat(json.loads(text)) for text in gather(json.dumps(values), name)]
    for process, other in enumerate(flat):
        for field in flat[0] | other:
            a, b = (json.dumps(values.get(field)) for values in (flat[0], other))
            if a != b:
                raise ValueError(
                    f"the processes were started differently: {field} is {a} in process 0 and {b} in process {process}"
                )


def _flat(values, prefix=""):
    """One level, with dots in the names."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {name: x for key, value in values.items() for name, x in _flat(value, f"{prefix}.{key}".strip(".")).items()}
