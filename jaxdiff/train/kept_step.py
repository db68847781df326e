"""Compiled training steps in files: made where no devices are, by `jaxdiff plan --save`, and taken by trainings on them.

Such a file is a program: read only what you have made.
"""

import hashlib
import importlib.metadata
import json
import logging

import jax
from etils import epath
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from jaxdiff.files import whole

log = logging.getLogger("jaxdiff")
MARK = b"jaxdiff compiled step\n"


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

    Args:
      path: file that `write` has written; whoever wrote it can run anything here.
      lowered: the step that is to run.
      mesh: its devices.

    Raises:
      ValueError, OSError: no such file.
    """
    payload, header = _parsed(epath.Path(path))
    wanted = about(lowered, mesh)
    if other := [name for name, value in wanted.items() if header.get(name) != value]:
        _warn(path, f"it is of another {', '.join(other)}")
        return None
    if hashlib.sha256(payload).hexdigest() != header.get("payload"):
        _warn(path, "it is damaged")
        return None
    devices = tuple(mesh.devices.flat)
    try:
        return serialize_executable.deserialize_and_load(
            payload, lowered.in_tree, lowered.out_tree, devices[0].client, devices
        )
    except jax.errors.JaxRuntimeError as error:
        _warn(path, str(error).splitlines()[0])
        return None


def check(path: epath.PathLike) -> None:
    """Raises ValueError or OSError for a file that `write` has not written."""
    with epath.Path(path).open("rb") as file:
        if file.read(len(MARK)) != MARK:
            raise ValueError(f"{path} is no compiled step: give a file that jaxdiff plan --save has written")


def _parsed(path):
    check(path)
    header, _, payload = path.read_bytes()[len(MARK) :].partition(b"\n")
    return payload, json.loads(header)


def _warn(path, why):
    log.warning("the compiled step in %s is not taken, and compiled anew: %s", path, why)


def about(lowered: jax.stages.Lowered, mesh: Mesh) -> dict[str, str]:
    """What a compiled step depends on: program, versions and devices."""
    device = mesh.devices.flat[0]
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    if device.platform == "tpu":
        versions["libtpu"] = importlib.metadata.version("libtpu")
    arguments = str(jax.tree.map(lambda x: (x.shape, str(x.dtype)), lowered.args_info))
    program = hashlib.sha256((lowered.as_text() + arguments).encode()).hexdigest()
    order = [device.id for device in mesh.devices.flat]
    return {
        "program": program,
        "device": f"{device.platform} {device.device_kind}",
        "mesh": f"{dict(mesh.shape)} of devices {order}",
        **{f"version of {name}": version for name, version in versions.items()},
    }
