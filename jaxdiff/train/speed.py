"""Peak speed of devices, and FLOPs and memory of programs."""

import resource
import sys

import jax

# Dense bfloat16 products in FLOP/s per jax device, from the makers' data sheets; by how `device_kind` begins, the longest
# that fits. A device of TPU v2, v3 and 7x is half a chip.
PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "Tesla T4": 65e12,
    "Tesla V100": 125e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA A10": 125e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GB200": 2500e12,
}


def peak(device_kind: str) -> float | None:
    """FLOP/s of a device of that kind; None where it is not known.

    Args:
      device_kind: as `jax.Device.device_kind` says it.

    Returns:
      Dense bfloat16 FLOP/s of one jax device.

    Example::

        >>> from jaxdiff.train import speed
        >>> speed.peak("NVIDIA A100-SXM4-40GB"), speed.peak("cpu")
        (312000000000000.0, None)
    """
    fitting = [name for name in PEAKS if device_kind == name or device_kind.startswith((f"{name} ", f"{name}-"))]
    return PEAKS[max(fitting, key=len)] if fitting else None


def flops(lowered: jax.stages.Lowered) -> float | None:
    """FLOPs of a program on one device as XLA counts them, the body of a loop once; None where it does not say.

    Args:
      lowered: from `.lower(...)` of a jitted or pmapped function.

    Returns:
      Multiplications and additions, and whatever else XLA counts with them.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.train import speed
        >>> speed.flops(jax.jit(jnp.dot).lower(jnp.ones((8, 16)), jnp.ones((16, 4)))) == 2 * 8 * 16 * 4
        True
    """
    try:
        return float(lowered.cost_analysis()["flops"])
    except (KeyError, TypeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None


def memory() -> float:
    """Most bytes that the first local device has had in use; on a CPU, that this process has had.

    Example::

        >>> from jaxdiff.train import speed
        >>> speed.memory() > 0
        True
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return float(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
