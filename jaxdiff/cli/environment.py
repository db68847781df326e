"""The environment of a command: its variables are checked, and jax is set up, before anything is computed."""

import functools
import gc
import importlib.metadata
import logging
import os
import re
import tempfile
from pathlib import Path

# Flags of numbers and truth values that are in every jaxlib of `xla.KNOWN_TO`, and need not be tried.
FAMILIAR = re.compile(
    "--(xla_force_host_platform_device_count=[1-9][0-9]*|"
    "(xla_backend_optimization_level|xla_cpu_parallel_codegen_split_count|xla_gpu_autotune_level)=[0-9]+|"
    "(xla_llvm_disable_expensive_passes|xla_gpu_deterministic_ops|xla_cpu_enable_fast_math)=(true|false))"
)
CACHE = "JAX_COMPILATION_CACHE_DIR"


def is_on(variable: str) -> bool:
    """Whether a variable of the environment is 1 or true, also in capitals; all else is off."""
    return os.environ.get(variable, "").strip().lower() in ("1", "true")


def check() -> None:
    """Refuses values of JAX_NUM_CPU_DEVICES and XLA_FLAGS with which jax fails or XLA ends the process.

    Flags other than `FAMILIAR` are tried in a process of their own, which takes a second or two.

    Raises:
      ValueError: a number that is none, or flags that this jaxlib does not take; the message names them.
    """
    number = os.environ.get("JAX_NUM_CPU_DEVICES", "").strip()
    if number and number != "-1" and not (number.isdecimal() and int(number)):
        raise ValueError(f"JAX_NUM_CPU_DEVICES={number} must be a whole number of at least 1")
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("-"):
        if not os.path.isfile(flags):
            raise ValueError(f"XLA_FLAGS={flags} must be flags, which begin with --, or a file of them")
    elif wrong := _unknown((flags,) if {"'", '"'} & set(flags) else tuple(flags.split())):
        raise ValueError(f"XLA_FLAGS: this jaxlib does not take {' '.join(wrong)}: correct or remove it")


@functools.cache
def _unknown(flags):
    """Those of some flags that this jaxlib does not take."""
    from jaxdiff import xla

    known = {f"--{name}={value}" for name, value in xla.CPU_FLAGS.items()}  # which `xla.tune_cpu` has added
    if importlib.metadata.version("jaxlib").startswith(xla.KNOWN_TO):
        known.update(filter(FAMILIAR.fullmatch, flags))
    known.update(xla.known_flags([flag for flag in flags if flag not in known]))
    return [flag for flag in flags if flag not in known]


def prepare_jax() -> None:
    """Asks XLA for fast U-Nets on a CPU, keeps compiled programs between runs, and collects garbage less often.

    Raises:
      ValueError: JAX_COMPILATION_CACHE_DIR is an address of the web or of an unknown kind.
    """
    import jax

    from jaxdiff import xla

    xla.tune_cpu()
    gc.set_threshold(100_000, 50)  # a trace makes many objects that stay, which are not to be visited again and again
    if cache := _cache_dir(jax.config.jax_compilation_cache_dir):
        jax.config.update("jax_compilation_cache_dir", cache)
    else:
        jax.config.update("jax_enable_compilation_cache", False)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _cache_dir(asked):
    """The directory of compiled programs, by default one below the home; "" with a warning where none can be written to."""
    from jaxdiff import disk
    from jaxdiff.paths import as_path

    log = logging.getLogger("jaxdiff")
    try:
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxdiff" / "compiled"
    except RuntimeError:  # a container whose user has no home
        default = None
    if not asked and default is None:
        log.warning("there is no home directory: compiled programs are not kept")
        return ""
    path = as_path(asked or default)
    if disk.is_remote(path):
        return os.fspath(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return os.fspath(path)
    except OSError as error:
        reason = "it is a file" if path.exists() and not path.is_dir() else error.strerror
    log.warning("%s cannot be written to (%s): compiled programs are not kept; see %s", path, reason, CACHE)
    return ""
