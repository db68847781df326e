"""Settings for every test: 8 simulated CPU devices, no silent broadcasting between ranks, nothing in the user's cache."""

import ctypes
import gc
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",  # tests compile much and compute little
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=8",
        # jaxlib 0.12 does not know it, and ends the process at what it does not know.
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib") < "0.12" else []),
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


# Files that take longer than a quarter of a minute, the longest first: their tests are marked as slow.
SLOW = """
    test_readme_commands test_readme test_hosts test_sharded test_personal test_notebooks test_kills test_docstrings
    test_loop test_cli test_latent_training test_edit test_shipped test_unet test_step test_likelihood
    test_forward_mode test_recursions test_bfloat16 test_setup test_evaluate test_weight_files test_interop
    test_autoencoder_objectives test_table test_transformer test_ode test_control test_digits test_regional
    test_quality test_controlled test_lora test_prompt_to_prompt test_own_source test_activations test_checks
    test_variational test_inpaint test_gradient test_xla test_layers test_controlnet test_reconstruction test_sde
    test_clip test_latent test_autoencoder test_paired_sampling
""".split()


def pytest_collection_modifyitems(items):
    """A file is one worker's, and with `--no-loadscope-reorder` files are handed out in this order: the longest first."""
    rank = {name: i for i, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(SLOW)))
    for item in items:
        if item.path.stem in rank:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def memory_limit():
    """Bytes of memory above which a worker lets go of its compiled programs."""
    return [5 * 2**29]


@pytest.fixture(autouse=True)
def programs_end(memory_limit):
    """Compiled programs are let go before they fill the memory, or the 65,530 maps that Linux gives a process."""
    yield
    if resident() > memory_limit[0]:
        jax.clear_caches()
        gc.collect()
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        memory_limit[0] = max(
            memory_limit[0], resident() + 2**29
        )  # where little was given back, it is not tried after every test


def resident():
    """Bytes of this process's memory; 0 where Linux does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.fixture(scope="module")
def one_device():
    """Only the first of the simulated devices: for large networks, of which eight would compute eight images for one."""
    with pytest.MonkeyPatch.context() as patch:
        devices = jax.local_devices()[:1]
        for name in ("devices", "local_devices"):
            patch.setattr(jax, name, lambda *args, **options: devices)
        for name in ("device_count", "local_device_count"):
            patch.setattr(jax, name, lambda *args, **options: 1)
        yield


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
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def small_disk(tmp_path):
    """A directory that is a disk of 4 MiB, in memory; skips the test where none can be mounted."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)  # a process may still have a file of it open


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
