"""XLA flags for CPUs. The command line sets them; a script of your own may call `tune_cpu` first."""

import importlib.metadata
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Sequence

from jax import lax

log = logging.getLogger("jaxdiff")

# Convolutions and matrix products by Eigen instead of YNNPACK, which is slower at those of a U-Net (at 4x32x32x128 a 3x3
# convolution takes 1.2 times, its kernel's gradient 1.8 times as long); barriers that last until code is made, see
# `materialized`; and an order of operations that keeps few arrays alive, for the memory that a program works in is mapped
# anew at each call, page by page.
CPU_FLAGS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_disable_hlo_passes": "cse_barrier_expander",
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
KNOWN_TO = ("0.10.", "0.11.", "0.12.")  # versions of jaxlib whose binaries have them all; others are asked first
ACCELERATORS = ("libtpu", "jax_plugins")  # packages that bring other platforms, for which the flags are not meant


def tune_cpu() -> None:
    """Adds `CPU_FLAGS` to the environment's XLA_FLAGS, where jax can only use a CPU; call it before jax computes anything.

    A flag that is set already stays as it is. The flags change how fast results come and their last digits. One that this
    jaxlib does not know would end the process: it is left out, with a warning.

    Example::

        >>> import os
        >>> from jaxdiff import xla
        >>> before = os.environ.get("XLA_FLAGS", "").strip()
        >>> xla.tune_cpu()
        >>> os.environ["XLA_FLAGS"].startswith(before)  # only adds to them
        True
    """
    if os.environ.get("JAX_PLATFORMS") != "cpu" and any(map(importlib.util.find_spec, ACCELERATORS)):
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if flags.strip() and not flags.strip().startswith("-"):  # a file of flags, which no flag may follow
        return
    new = [f"--{name}={value}" for name, value in CPU_FLAGS.items() if name not in flags]
    version = importlib.metadata.version("jaxlib")
    if not version.startswith(KNOWN_TO):
        known = known_flags(new)
        if unknown := [flag for flag in new if flag not in known]:
            log.warning("jaxlib %s does not know %s: jaxdiff may run slower with it", version, " and ".join(unknown))
        new = known
    os.environ["XLA_FLAGS"] = " ".join([flags, *new]).strip()


def known_flags(flags: Sequence[str]) -> list[str]:
    """Those of some flags that this jaxlib accepts.

    XLA reads XLA_FLAGS once, and ends the process at a name or a value that it does not know. So child processes try them,
    a second or two each: all flags at once and, only if that fails, each on its own.

    Args:
      flags: such as "--xla_dump_to=here".

    Example::

        >>> from jaxdiff import xla
        >>> xla.known_flags(["--xla_brew_tea=true"])
        []
    """
    if not flags or _accepted(flags):
        return list(flags)
    return [flag for flag in flags if len(flags) > 1 and _accepted([flag])]


def _accepted(flags):
    """Whether a process with these flags can use jax on the CPU."""
    environment = os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-P", "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def materialized(x):
    """x, an array or a pytree of them, written to memory once, and its gradient too.

    XLA on the CPU works a cheap array out anew inside each operation that reads it. What a convolution or a norm reads is
    read several times over, most of all by the backward pass, and then one write is cheaper; on other platforms this is
    the identity. On the CPU it needs `CPU_FLAGS`: without them XLA drops the barrier.
    """
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
