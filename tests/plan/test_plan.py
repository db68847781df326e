"""Plans: what the compiler counts, beside what is known, for the eight devices here, and for TPUs where libtpu is."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_config
from jax.sharding import NamedSharding, PartitionSpec
from tiny import tiny_autoencoder, tiny_clip

import jaxdiff
from jaxdiff import cli, meshes
from jaxdiff import plan as plans
from jaxdiff.cli import plan as command
from jaxdiff.config import Config, load
from jaxdiff.plan import chips, hlo, programs, reports
from jaxdiff.samplers import SAMPLERS
from jaxdiff.train import initial

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def sharded(config, **train):
    train = {"parallel": "sharded", "mesh": "fsdp=8", "rules": ("kernel=fsdp(64)",)} | train
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def text_of(function, *args):
    return jax.jit(function).lower(*args).compile().as_text()


def test_exchanges_by_kind():
    """x w with w split: w is gathered. The mean over rows: a sum over devices."""
    mesh = jaxdiff.mesh(data=2, fsdp=4)
    x = jax.ShapeDtypeStruct((16, 256), jnp.float32, sharding=meshes.row_sharding(mesh))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    w = jax.ShapeDtypeStruct((256, 128), jnp.float32, sharding=split)

    def gathered(x, w):
        w = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, PartitionSpec()))
        return jax.lax.with_sharding_constraint(x @ w, meshes.row_sharding(mesh))

    size = 256 * 128 * 4
    assert hlo.collectives(text_of(gathered, x, w), 8) == [hlo.Collective("all-gather", 1, size, 3 / 4 * size)]
    summed = lambda x: jax.lax.with_sharding_constraint(x.sum(0), NamedSharding(mesh, PartitionSpec()))
    assert hlo.collectives(text_of(summed, x), 8) == [hlo.Collective("all-reduce", 1, 1024, 2 * 7 / 8 * 1024)]


LINES = {
    "all-gather": "  %g = (bf16[32,64]{1,0}, bf16[256,64]{1,0}) all-gather-start(%x), replica_groups=[4,8]<=[32]",
    "reduce-scatter": "  %r = f32[16,64]{1,0} reduce-scatter(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}",
    "axes": "  %m = f32[16,64] all-reduce(%x), replica_groups=mesh['a'=4,'b'=8], device_ids=([32]) {'a','b':(1)2}, x={0}",
    "alone": "  %a = f32[16] all-reduce(%x), replica_groups={{0},{1}}",
    "other": "  %d = bf16[256,64]{1,0} all-gather-done(%g)",
}


def test_forms_of_a_tpu():
    """Begun and ended apart; a scatter by what it takes; a group of one exchanges nothing."""
    whole = 256 * 64 * 2
    assert hlo.collectives(LINES["all-gather"], 32) == [hlo.Collective("all-gather", 1, whole, 7 / 8 * whole)]
    taken = 4 * 16 * 64 * 4
    assert hlo.collectives(LINES["reduce-scatter"], 8) == [hlo.Collective("reduce-scatter", 1, taken, 3 / 4 * taken)]
    both = (
        LINES["all-gather"]
        .replace("(bf16", "((bf16[8], bf16")
        .replace(", bf16[256", "), (bf16[64], bf16[256")
        .replace(")", "))", 2)
    )
    made = whole + 128
    assert hlo.collectives(both, 32) == [hlo.Collective("all-gather", 1, made, 7 / 8 * made)]
    reduced = "  %a = (f32[16], f32[16,64]) all-reduce-start(%x, %y), replica_groups=[1,8]<=[8]"
    assert hlo.collectives(reduced, 8) == [hlo.Collective("all-reduce", 1, 4160, 2 * 7 / 8 * 4160)]
    assert hlo.collectives(LINES["axes"], 32) == [hlo.Collective("all-reduce", 1, 4096, 2 * 7 / 8 * 4096)]
    assert hlo.collectives(LINES["alone"] + "\n" + LINES["other"], 8) == []


def test_an_exchange_in_several_steps_counts_once():
    line = "  %a = bf16[256,64]{1,0} all-gather(%x), channel_id=CHANNEL, replica_groups=[1,8]<=[8], dimensions={0}"
    text = "\n".join(line.replace("CHANNEL", channel) for channel in ("7", "7", "8", "7"))
    whole = 256 * 64 * 2
    assert hlo.collectives(text, 8) == [hlo.Collective("all-gather", 2, 2 * whole, 2 * 7 / 8 * whole)]


def test_backward_of_flash_attention_by_formula():
    q, k = "bf16[2,8,4096,128]{3,2,1,0}", "bf16[2,8,1024,128]{3,2,1,0}"
    text = "\n".join(
        [
            f"  %q = {q} parameter(0)",
            f"  %k = {k} parameter(1)",
            f'  %a = {q} custom-call(%q, %k), custom_call_target="tpu_custom_call", op_name="flash_mha_bwd_dq"',
            f'  %b = ({k}, {k}) custom-call(%q, %k), custom_call_target="tpu_custom_call", op_name="flash_mha_bwd_dkv"',
            f'  %c = {q} custom-call(%q, %k), custom_call_target="tpu_custom_call", metadata={{op_name="flash_fwd"}}',
        ]
    )
    flops, size = hlo.flash_backward(text)
    product = 2 * 2 * 8 * 4096 * 1024 * 128
    assert flops == 7 * product
    sizes = {"q": 2 * 8 * 4096 * 128 * 2, "k": 2 * 8 * 1024 * 128 * 2}
    assert size == (2 * sizes["q"] + sizes["k"]) + (sizes["q"] + 3 * sizes["k"])


@pytest.mark.parametrize("config", [tiny_config(), sharded(tiny_config())], ids=["pmap", "sharded"])
def test_training_is_the_step_that_would_run(config):
    one = plans.report(config, "here")
    (step,) = one.programs
    state = initial.new_state(config)
    whole = sum(x.nbytes for x in jax.tree.leaves(state.params))
    share = 8 if config.train.parallel == "sharded" else 1
    assert whole / share <= step.parts["parameters"] < 1.6 * whole / share  # small arrays are not split
    assert step.parts["average"] == step.parts["parameters"]
    batch = 16 / 8 * (28 * 28 + 4)
    assert step.arguments == pytest.approx(sum(step.parts.values()) + batch, rel=0.02)
    assert step.flops > 6 * whole / 4  # at the least a product forward and two backward with every weight
    assert {one.kind for one in step.collectives} >= ({"all-gather"} if share > 1 else {"all-reduce"})
    if share == 1:
        (reduced,) = step.collectives
        assert reduced.bytes == pytest.approx(whole, rel=0.02)  # gradients, and metrics
    assert reports.fits(one) and one.devices == 8 and one.batch == 16


def test_accumulation_takes_less_memory_and_the_same_arithmetic():
    config = tiny_config(batch_size=64)
    apart = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=4))
    (whole,), (parts,) = (plans.report(one, "here").programs for one in (config, apart))
    assert parts.temporaries < 0.6 * whole.temporaries
    assert parts.flops == pytest.approx(whole.flops, rel=0.2)  # the optimizer in each part


@pytest.mark.parametrize("config", [tiny_clip(), tiny_autoencoder(words=8)], ids=["clip", "codebook"])
def test_whatever_is_trained(config):
    assert plans.report(config, "here").programs[0].flops > 0


def test_sampling():
    sample = dataclasses.replace(tiny_config().sample, guidance=2.0, batch_size=16)
    config = dataclasses.replace(tiny_config(), sample=sample)
    (guided,) = plans.report(config, "here", "sample", dtype="float32").programs
    alone = dataclasses.replace(config, sample=dataclasses.replace(sample, guidance=1.0))
    (plain,) = plans.report(alone, "here", "sample", dtype="float32").programs
    assert guided.flops == pytest.approx(2 * plain.flops, rel=0.05) and "32 at once" in guided.name
    (half,) = plans.report(config, "here", "sample").programs
    assert half.parts["parameters"] == guided.parts["parameters"] / 2


CHIP = chips.Chip(memory=16e9, bandwidth=1e12, interconnect=1e11, flops=2e14)
STEP = programs.Program(
    "training step", {"parameters": 1e9}, 2e9, 1e8, 3e9, 1e12, 2e9, (hlo.Collective("all-gather", 2, 1e9, 5e8),)
)


def made(*steps, use="train", count=1):
    return reports.Report("toy", use, "v5e:2x4", 8, {"data": 8}, 1, 64, CHIP, steps, count)


def test_times_and_costs():
    one = made(STEP)
    assert reports.seconds(STEP, CHIP) == {"arithmetic": 5e-3, "memory": 2e-3, "interconnect": 5e-3}
    assert reports.best(one) == 5e-3 and reports.efficiency(one) == 1.0
    assert reports.cost(one, price=1.8) == pytest.approx(5e-3 * 1.8 / 3600 * 8 / 64 * 1e6)
    assert reports.used(STEP) == 5.1e9 and reports.fits(one)
    slow = STEP._replace(bytes=1e10)
    assert reports.best(made(slow, slow, use="sample", count=50)) == pytest.approx(51 * 1e-2)
    assert reports.efficiency(made(slow)) == pytest.approx(0.5)


def test_what_does_not_fit():
    large, blamed = (
        STEP._replace(temporaries=2e10),
        STEP._replace(too_large="Used 20G of 16G hbm; 4G of f32[8,4096,4096]"),
    )
    for one in (made(large), made(blamed)):
        assert not reports.fits(one) and reports.text(one).endswith("fits            no")
    assert "Used 20G of 16G hbm; 4G of f32[8,4096,4096]" in reports.text(made(blamed))
    assert reports.best(made(blamed)) is None and reports.cost(made(blamed), 1.0) is None


def test_blames_the_largest_arrays():
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.75G of 15.75G hbm. Exceeded hbm capacity by "
        "5.00G.\n Largest program allocations in hbm:\n 1. Size: 4.00G\n Shape: f32[8,4096,4096]{2,1,0}\n"
        " 2. Size: 640.0M\n Shape: bf16[8,64,64,320]{3,2,1,0}\n"
    )
    blamed = programs._blamed(said)
    assert blamed == "Used 20.75G of 15.75G hbm; 4.00G of f32[8,4096,4096]; 640.0M of bf16[8,64,64,320]"


def test_from_the_command_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("from helpers import tiny_config as get_config\n")
    asked = ["plan", str(tmp_path / "mine.py"), "--topology", "here"]
    cli.main([*asked, "--sweep", "train.batch_size=16,32", "--price", "2"])
    out = capsys.readouterr().out
    assert (
        "tiny on 8 devices of here (pmap), a batch of 16" in out
        and "a batch of 32" in out
        and "fits            yes" in out
    )
    cli.main([*asked, "--json", "--train.parallel", "sharded", "--train.mesh", "fsdp=8"])
    values = json.loads(capsys.readouterr().out)
    assert values["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1} and values["fits"] is True
    assert values["programs"][0]["flops"] > 0 and values["chip"]["memory"] > 2**30


def test_the_largest_batch(monkeypatch):
    tried = []

    def fake(flags, config):
        tried.append(config.train.batch_size)
        used = 1e9 + 1e7 * config.train.batch_size
        return made(STEP._replace(arguments=used, outputs=0.0, temporaries=0.0))._replace(batch=config.train.batch_size)

    monkeypatch.setattr(command, "made", fake)
    found = command.largest(command.PlanFlags(tiny_config()), tiny_config())
    assert 1400 <= found.batch <= 1500 and len(tried) < 16
    monkeypatch.setattr(command, "made", lambda flags, config: made(STEP._replace(arguments=1e12)))
    with pytest.raises(ValueError, match="tiny does not fit on v5e:4x4, even with a batch of 8"):
        command.largest(command.PlanFlags(tiny_config()), tiny_config())


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--topology", "v9:2x2"], "unknown chip 'v9'"),
        (["--topology", "v5e:0x4"], "a topology is v5e:4x4"),
        (["--topology", "v5e"], "a topology is v5e:4x4 or v5e:2x2x2"),
        (["--topology", "v5e:axb"], "a topology is v5e:4x4"),
        (["--topology", "here", "--train.batch-size", "12"], "does not divide by the 8 devices"),
        (["--topology", "here", "--train.parallel", "sharded", "--train.mesh", "fsdp=3"], "and there are 8"),
        (["--topology", "here", "--sweep", "batch_size"], "--sweep=batch_size must be a field and its values"),
        (["--topology", "here", "--sweep", "train.batch=1,2"], "unknown field 'train.batch'"),
        (["--topology", "here", "--sweep", "tran.steps=1,2"], "unknown section of the config 'tran'"),
        (["--topology", "here", "--slices", "2"], "--slices=2 is of topologies that are not attached"),
        (["--topology", "here", "--dtype", "float32"], "--dtype=float32 is of --for sample"),
        (["--topology", "here", "--sweep", "train.parallel=pmap,shrded"], "shrded"),
        (["--topology", "v5e:2x2", "--slices", "0"], "--slices=0 must be at least 1"),
    ],
)
def test_mistakes(flags, message, capsys, monkeypatch):
    monkeypatch.setenv(command.CHILD, "1")  # in this process
    with pytest.raises(SystemExit) as end:
        cli.main(["plan", "digits", *flags])
    assert end.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said and said.startswith("jaxdiff: error: ")


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    with pytest.raises(ImportError, match=r"needs the package libtpu: pip install 'jaxdiff\[plan\]'"):
        chips.devices("v5e:2x2")


def test_a_config_is_left_as_it_is():
    assert isinstance(command.variants(command.PlanFlags(Config()))[0], Config)
    flags = command.PlanFlags(tiny_config(), sweep="train.mesh=fsdp=8;data=2,fsdp=4")
    assert [one.train.mesh for one in command.variants(flags)] == ["fsdp=8", "data=2,fsdp=4"]
    assert np.isfinite(
        command.variants(command.PlanFlags(tiny_config(), sweep="optim.ema_decay=0.5"))[0].optim.ema_decay
    )


@needs_libtpu
def test_for_a_tpu(capsys):
    cli.main(["plan", "digits", "--topology", "v5e:2x2", "--train.batch-size", "64", "--net.channels", "32", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["devices"] == 4 and values["seconds_at_best"] > 0 and values["fits"]


@pytest.mark.parametrize(
    "sampler, count", [("ddim", 10), ("ddim_cfgpp", 10), ("heun", 18), ("flow_heun", 19), ("predictor_corrector", 19)]
)
def test_evaluations_of_the_network_are_counted(sampler, count):
    """Two a step of Heun's, but for the first out of pure noise (`heun` alone) and the last into clean data."""
    config = load("digits")
    sample = dataclasses.replace(config.sample, sampler=SAMPLERS.choice(sampler), steps=10)
    assert programs.evaluations(dataclasses.replace(config, sample=sample)) == count


def test_the_largest_bucket_is_planned():
    of = lambda shape, buckets: dataclasses.replace(
        tiny_config(), data=dataclasses.replace(tiny_config().data, image_shape=shape, buckets=buckets)
    )
    devices = tuple(jax.devices())[:1]
    planned, alone = (
        programs.training(config, devices)[0]
        for config in (of((8, 8, 1), ((8, 8), (16, 32), (24, 8))), of((16, 32, 1), ()))
    )
    assert planned._replace(seconds=0) == alone._replace(seconds=0)
    with pytest.raises(ValueError, match="`save` keeps the step of images of one size"):
        programs.training(of((8, 8, 1), ((8, 8), (16, 8))), devices, save="step")
    latent = programs.of_largest_bucket(
        dataclasses.replace(of((64, 64, 3), ((64, 64), (128, 32))), latent=jaxdiff.config.Latent("it", (8, 8, 4)))
    )
    assert latent.shape == (8, 8, 4)  # of two of equal area the first
