"""What is asked of XLA on a CPU: when, and that the network computes the same under it."""

import importlib.metadata
import importlib.util
import logging
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import UNet, UNetConfig, xla
from jaxdiff.xla import materialized


@pytest.fixture
def flags(monkeypatch):
    """Calls tune_cpu with this machine's packages and environment changed; gives XLA_FLAGS."""

    def tuned(before="", platforms="", packages=(), jaxlib="0.10.2"):
        monkeypatch.setenv("XLA_FLAGS", before)
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in packages else None)
        monkeypatch.setattr(importlib.metadata, "version", {"jaxlib": jaxlib}.__getitem__)
        xla.tune_cpu()
        return os.environ["XLA_FLAGS"]

    return tuned


def test_flags_are_added_once_where_there_is_only_a_cpu(flags):
    both = [f"--{name}={value}" for name, value in xla.CPU_FLAGS.items()]
    assert flags().split() == both
    assert flags(flags()).split() == both
    assert flags("--xla_dump_to=here").split() == ["--xla_dump_to=here", *both]
    assert flags(packages=["libtpu"], platforms="cpu").split() == both


def test_a_user_s_flag_stays(flags):
    kept, *added = flags("--xla_disable_hlo_passes=other").split()
    assert kept == "--xla_disable_hlo_passes=other" and len(added) == len(xla.CPU_FLAGS) - 1


@pytest.mark.parametrize("package", ["libtpu", "jax_plugins"])
def test_nothing_is_asked_of_accelerators(flags, package):
    assert flags(packages=[package]) == ""


def test_the_installed_jaxlib_is_one_that_knows_the_flags():
    new = [f"--{name}={value}" for name, value in xla.CPU_FLAGS.items()]
    if importlib.metadata.version("jaxlib").startswith(xla.KNOWN_TO):
        assert xla.known_flags(new) == new


def test_another_jaxlib_is_asked_and_a_flag_that_it_does_not_know_is_left_out(flags, monkeypatch, caplog):
    """By name or by value: with either in XLA_FLAGS the process would end."""
    known = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    unknown = {"xla_brew_tea": "true", "xla_cpu_prefer_vector_width": "wide"}
    monkeypatch.setattr(xla, "CPU_FLAGS", unknown | known)
    monkeypatch.setattr(logging.getLogger("jaxdiff"), "propagate", True)
    assert flags(jaxlib="0.13.0") == "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
    (line,) = caplog.messages
    assert "jaxlib 0.13.0 does not know --xla_brew_tea=true and --xla_cpu_prefer_vector_width=wide" in line
    assert flags("--xla_brew_tea=false --xla_cpu_prefer_vector_width=8", jaxlib="0.13.0").endswith("MEMORY_OPTIMIZED")
    assert len(caplog.messages) == 1  # a flag of the user's own is the user's affair


def test_barriers_are_in_the_cpu_s_program_only_and_last():
    f = jax.jit(jax.grad(lambda x: (materialized(2 * x) ** 2).sum())).trace(jnp.ones(4))
    for platform, barriers in {"cpu": 2, "tpu": 0, "cuda": 0}.items():  # one for x, one for its gradient
        assert f.lower(lowering_platforms=(platform,)).as_text().count("optimization_barrier") == barriers
    lowered = f.lower(lowering_platforms=("cpu",))
    assert "opt-barrier" not in lowered.compile().as_text()
    compiled = lowered.compile(compiler_options=xla.CPU_FLAGS)
    assert compiled.as_text().count("opt-barrier(") == 2
    chex.assert_trees_all_close(compiled(jnp.arange(4.0)), 8 * jnp.arange(4.0))


def test_network_computes_the_same_under_the_flags():
    net = UNet(UNetConfig(out_channels=1, channels=(16, 32), blocks=1, groups=8))
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2, 8, 8, 1)).astype(np.float32), jnp.array([3, 700])
    params = jax.jit(net.init)(jax.random.key(0), x, t)["params"]
    noise = lambda p: p + 0.1 * rng.standard_normal(p.shape).astype(np.float32)
    params = jax.tree.map(noise, params)  # the last layers start at zero
    step = jax.value_and_grad(lambda params: (net.apply({"params": params}, x, t) ** 2).mean())
    plain = jax.jit(step)(params)
    tuned = jax.jit(step, compiler_options=xla.CPU_FLAGS)(params)
    for ours, wanted in zip(jax.tree.leaves(tuned), jax.tree.leaves(plain), strict=True):
        chex.assert_trees_all_close(ours, wanted, atol=1e-5 * float(jnp.abs(wanted).max()) + 1e-7)
