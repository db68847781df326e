"""What jaxdiff asks of XLA on a CPU. The command line asks for it; a script of your own may call `tune_cpu` first."""

import importlib.metadata
import importlib.util
import os

# Convolutions and matrix products by Eigen instead of YNNPACK, which is slower at those of a U-Net (at 4x32x32x128 a 3x3
# convolution takes 1.2 times, its kernel's gradient 1.8 times as long); and barriers that last until code is made, see
# `nets.layers.materialized`.
CPU_FLAGS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_disable_hlo_passes": "cse_barrier_expander",
}
KNOWN_TO = ("0.10.", "0.11.", "0.12.")  # versions of jaxlib: others might not know a flag and then end the process
ACCELERATORS = ("libtpu", "jax_plugins")  # packages that bring other platforms, for which the flags are not meant


def tune_cpu() -> None:
    """Adds `CPU_FLAGS` to the environment's XLA_FLAGS, where jax can only use a CPU; call it before jax computes anything.

    A flag that is set already stays as it is. The flags change how fast results come and their last digits.

    Example::

        >>> import os
        >>> from jaxdiff import xla
        >>> xla.tune_cpu()
        >>> "xla_disable_hlo_passes" in os.environ["XLA_FLAGS"]
        True
    """
    if not importlib.metadata.version("jaxlib").startswith(KNOWN_TO):
        return
    if os.environ.get("JAX_PLATFORMS") != "cpu" and any(map(importlib.util.find_spec, ACCELERATORS)):
        return
    flags = os.environ.get("XLA_FLAGS", "")
    new = [f"--{name}={value}" for name, value in CPU_FLAGS.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *new]).strip()
