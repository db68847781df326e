"""Settings for every test: 8 simulated CPU devices, no silent broadcasting between ranks, nothing in the user's cache."""

import gc
import os
import subprocess
from pathlib import Path

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",  # tests compile much and compute little
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import fsspec
import jax
import pytest
from fsspec.implementations.memory import MemoryFileSystem

gc.set_threshold(100_000, 50, 50)  # tracing makes many small things that stay, which are not to be looked through again
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # XLA reads its flags once: these, and not what the command line adds in some test


# A file is one worker's: the longest are begun first.
SLOWEST = ("test_hosts.py", "test_kills.py", "test_cli.py", "test_loop.py", "test_notebooks.py", "test_docstrings.py")
SLOWEST += ("test_readme.py", "test_step.py", "test_unet.py", "test_bfloat16.py")


def pytest_collection_modifyitems(items):
    """With `--no-loadscope-reorder` files are handed to the workers in this order."""
    rank = {name: i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(SLOWEST)))


@pytest.fixture(autouse=True, scope="module")
def programs_end():
    """Compiled programs are let go before the kernel's limit on a process's memory maps, 65,530, at which XLA crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def xla_flags(monkeypatch):
    """What the command line adds to XLA_FLAGS ends with the test."""
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])


@pytest.fixture(autouse=True, scope="session")
def compilation_cache(tmp_path_factory):
    """One directory of the session's own for all workers and child processes."""
    base = tmp_path_factory.getbasetemp()
    directory = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = directory
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture
def small_disk(tmp_path):
    """A directory that is a disk of 4 MiB, in memory; skips the test where none can be mounted."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield mount
    subprocess.run(["umount", mount], check=True)


class Bucket(MemoryFileSystem):
    """What is under gs://, in memory only."""

    protocol = ("gs", "gcs")

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("gs://", "memory://"))


@pytest.fixture
def bucket(monkeypatch):
    """An empty file system under gs://, for etils' paths."""
    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    return Bucket()
