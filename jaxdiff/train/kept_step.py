"""Compiled training steps in files: made where no devices are, by `jaxdiff plan --save`, and taken by trainings on them.

Such a file is a program: read only what you have made.
"""

import hashlib
import importlib.metadata
import json
import logging
import os

import jax
from etils import epath
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from jaxdiff import hosts
from jaxdiff.files import check_regular, read_regular, whole

log = logging.getLogger("jaxdiff")
MARK = b"jaxdiff compiled step\n"
GPU_PLUGINS = ["jax-cuda12-pjrt", "jax-cuda13-pjrt"]
SIMULATED = "--xla_force_host_platform_device_count"  # of the machine, not of the program


def write(path: epath.PathLike, compiled: jax.stages.Compiled, lowered: jax.stages.Lowered, mesh: Mesh) -> None:
    """Writes a compiled step, and what it was compiled of and for.

    Args:
      path: file, written whole or not at all.
      compiled: the step, compiled.
      lowered: the step, lowered, of the same program.
      mesh: its devices, which need not be attached.

    Raises:
      ValueError: it cannot be kept, because arrays are constants of it.
    """
    try:
        payload, _, _ = serialize_executable.serialize(compiled)
    except NotImplementedError:
        raise ValueError("the step cannot be kept: arrays of frozen models are constants of it") from None
    header = about(lowered, mesh) | {"payload": hashlib.sha256(payload).hexdigest()}
    with whole(path) as file:
        file.write(MARK + json.dumps(header).encode() + b"\n")
        file.write(payload)


def read(path: epath.PathLike, lowered: jax.stages.Lowered, mesh: Mesh) -> jax.stages.Compiled | None:
    """The compiled step of a file, or None, with a warning, if it is of another program, version or device.

    Of several processes all take it, or none; every one must call this.

    Args:
      path: file that `write` has written; whoever wrote it can run anything here.
      lowered: the step that is to run.
      mesh: its devices.
    """
    try:
        found, why = _loaded(epath.Path(path), lowered, mesh), ""
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        found, why = None, str(error).splitlines()[0]
    said = [text for text in hosts.gather(why, "the compiled step is read") if text]
    if said:  # in every process, for all must run the same program
        log.warning("the compiled step in %s is not taken, and compiled anew: %s", path, said[0])
    return None if said else found


def _loaded(path, lowered, mesh):
    """The compiled step of a file.

    Raises:
      ValueError, JaxRuntimeError: it is of another program, damaged, or not for these devices.
    """
    head, _, payload = read_regular(path)[len(MARK) :].partition(b"\n")
    try:
        header = json.loads(head)
    except ValueError:
        raise ValueError("it is damaged") from None
    if other := [name for name, value in about(lowered, mesh).items() if header.get(name) != value]:
        raise ValueError(f"it is of another {', '.join(other)}")
    if hashlib.sha256(payload).hexdigest() != header.get("payload"):
        raise ValueError("it is damaged")
    devices = tuple(mesh.devices.flat)
    return serialize_executable.deserialize_and_load(
        payload, lowered.in_tree, lowered.out_tree, devices[0].client, devices
    )


def check(path: epath.PathLike) -> None:
    """Raises ValueError or OSError for a file that `write` has not written."""
    check_regular(path)
    with epath.Path(path).open("rb") as file:
        if file.read(len(MARK)) != MARK:
            raise ValueError(f"{path} is no compiled step: give a file that jaxdiff plan --save has written")


def about(lowered: jax.stages.Lowered, mesh: Mesh) -> dict[str, str]:
    """Program, versions, flags of the compiler and devices that a compiled step depends on."""
    device = mesh.devices.flat[0]
    names = ["jax", "jaxlib", *{"tpu": ["libtpu"], "gpu": GPU_PLUGINS}.get(device.platform, [])]
    versions = {name: _version(name) for name in names}
    flags = {flag for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS") for flag in os.environ.get(name, "").split()}
    arguments = str(jax.tree.map(lambda x: (x.shape, str(x.dtype)), lowered.args_info))
    program = hashlib.sha256((lowered.as_text() + arguments).encode()).hexdigest()
    order = [device.id for device in mesh.devices.flat]
    return {
        "program": program,
        "device": f"{device.platform} {device.device_kind}",
        "mesh": f"{dict(mesh.shape)} of devices {order}",
        "XLA_FLAGS": " ".join(sorted(flag for flag in flags if not flag.startswith(SIMULATED))),
        **{f"version of {name}": version for name, version in versions.items()},
    }


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # such as a libtpu that the machine brings
        return "none"
