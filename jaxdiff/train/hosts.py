"""Several hosts: how their processes find one another, agree, and wait for one another.

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
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

T = TypeVar("T")
log = logging.getLogger("jaxdiff")

SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")  # what jax asks for: a step by srun


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, timeout: int = 300
) -> None:
    """Joins the processes of all hosts by `jax.distributed.initialize`, where there are several; before jax computes.

    Args:
      coordinator: "host:port" of process 0. With it the other two are given as well; without any of them a SLURM job of
        several tasks and a TPU host are recognised, and everything else is one process that has nothing to join.
      num_processes: how many there are.
      process_id: which this is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      ValueError: some of the three are given and others not, or they do not fit each other.
      TimeoutError: process 0 does not answer. Where another does not come, jax ends the process after `timeout`.
    """
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [flag for flag, value in given.items() if value is None]
    if missing and len(missing) < 3:
        raise ValueError(f"{', '.join(missing)} must be given, too: the three flags of several hosts go together")
    if not missing:
        if not 0 <= process_id < num_processes:
            raise ValueError(f"--process-id={process_id} must lie in 0..{num_processes - 1} (--num-processes)")
        if not coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--coordinator={coordinator} must be host:port")
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
    """Waits until process 0 listens; jax itself would end the process without a word of what to do."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise TimeoutError(
                    f"nobody answers at --coordinator={coordinator} after {timeout} s ({error}): is process 0 started?"
                ) from None
            time.sleep(0.5)


def several(environment: Mapping[str, str]) -> str | None:
    """What tells that this process is one of several, or on a TPU host, which may be: "SLURM", "TPU" or None."""
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and all(name in environment for name in SLURM):
        return "SLURM"
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or (chips and importlib.util.find_spec("libtpu")):
        return "TPU"
    return None


def here() -> tuple[int, int, int, int]:
    """Index of this process, number of processes, devices of this process, devices of all."""
    return jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count()


def is_main() -> bool:
    """Whether this is the process that writes, logs and draws."""
    return jax.process_index() == 0


def barrier(name: str, timeout: int = 600) -> None:
    """Waits until every process is here; says so in the log before and after.

    Raises:
      TimeoutError: some did not come within `timeout` seconds.
    """
    if jax.process_count() == 1:
        return
    log.info("waiting for all %d processes: %s (at most %d s)", jax.process_count(), name, timeout)
    start = time.monotonic()
    try:
        everyone = set(range(jax.process_count()))  # said, for without it Orbax waits by a collective, which has no end
        ocp.multihost.sync_global_processes(f"jaxdiff: {name}", timeout=timeout, processes=everyone)
    except RuntimeError as error:
        raise TimeoutError(f"not all processes came to {name!r} within {timeout} s: {error}") from error
    log.info("all are here after %.1f s: %s", time.monotonic() - start, name)


def gather(text: str, name: str, timeout: int = 600) -> list[str]:
    """What each process says, in their order; all processes must ask, and wait for one another as at a barrier.

    Raises:
      TimeoutError: some did not, see `barrier`.
    """
    if jax.process_count() == 1:
        return [text]
    barrier(name, timeout)  # the two collectives below would wait without end
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(mine.size))
    padded = np.pad(mine, (0, int(sizes.max()) - mine.size + 1))  # one more, for nothing cannot be gathered
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes)]


def together(act: Callable[[], T], name: str, timeout: int = 600) -> T:
    """What `act` gives here, if it succeeds in every process.

    Args:
      act: may fail in one process and not in another; must not wait for other processes itself.
      name: what is done by then, for the log.
      timeout: seconds by which one process may be slower than another.

    Raises:
      Exception: what it raised here.
      ValueError: it only failed elsewhere; what that process said.
    """
    failed = result = None
    try:
        result = act()
    except Exception as error:
        failed = error
    said = gather(_said(failed) if failed else "", name, timeout)
    if failed:
        raise failed
    for process, text in enumerate(said):
        if text:
            raise ValueError(f"process {process} says: {text}")
    return result


def _said(error):
    """The text of an error, without the number that the system gives it."""
    return (getattr(error, "strerror", None) if isinstance(error, OSError) else None) or str(error) or repr(error)


def on_main(act: Callable[[], None], name: str, timeout: int = 600) -> None:
    """Acts in process 0 alone; its failure is everyone's."""
    together(lambda: act() if is_main() else None, name, timeout)


def check_same(values: Mapping, name: str) -> None:
    """Refuses, in every process, to go on with other values in some than in others.

    Args:
      values: nested mapping of JSON values.
      name: what they are, for the log.

    Raises:
      ValueError: the first that differs.
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
