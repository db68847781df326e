"""Meshes, and the rules by which arrays are split over them."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxdiff
from jaxdiff import meshes
from jaxdiff.meshes import parse_rule, sharding_of

KERNEL = "params/down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q/kernel"


@pytest.mark.parametrize(
    "asked, shape",
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 8}, (1, 8, 1)),
        ({"fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"data": 4, "tensor": 2}, (4, 1, 2)),
    ],
)
def test_data_takes_what_the_other_axes_leave(asked, shape):
    mesh = jaxdiff.mesh(**asked)
    assert tuple(mesh.shape.values()) == shape and mesh.axis_names == ("data", "fsdp", "tensor")


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"fsdp": 3}, "data=2, fsdp=3, tensor=1 is of 6 devices, and there are 8"),
        ({"data": 16}, "data=16, fsdp=1, tensor=1 is of 16 devices, and there are 8"),
        ({"tensor": 0}, "`tensor` must be a number of devices of at least 1, not 0"),
        ({"fsdp": "8"}, "`fsdp` must be a number of devices of at least 1, not 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        jaxdiff.mesh(**asked)


def test_text_of_a_mesh():
    assert meshes.parse("data=32, fsdp=8") == {"data": 32, "fsdp": 8}
    assert meshes.parse("") == {}


@pytest.mark.parametrize(
    "text, message",
    [
        ("fdsp=8", "unknown axis of a mesh 'fdsp': did you mean 'fsdp'"),
        ("fsdp", "is given as data=32,fsdp=8"),
        ("fsdp=0", "is given as data=32,fsdp=8"),
        ("fsdp=2,fsdp=4", "each axis once"),
        ("fsdp=-1", "is given as data=32,fsdp=8"),
    ],
)
def test_wrong_text_of_a_mesh_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        meshes.parse(text)


@pytest.mark.parametrize(
    "path, shape, spec",
    [
        ("params/conv_in/kernel", (3, 3, 128, 1024), P(None, None, None, "fsdp")),  # the largest
        ("params/conv/kernel", (3, 3, 256, 256), P(None, None, None, "fsdp")),  # the last of several
        ("params/conv/kernel", (3, 3, 1024, 130), P(None, None, "fsdp")),  # the one that the devices divide
        ("params/conv/kernel", (3, 3, 16, 16), P()),  # small
        ("params/conv/kernel", (1025, 65), P()),  # nothing divides
        (KERNEL, (256, 512), P("fsdp", "tensor")),
        ("opt_state/1/0/mu" + KERNEL, (256, 512), P("fsdp", "tensor")),  # as the parameter that it is of
        (KERNEL.replace("to_q", "to_out_0"), (256, 512), P("tensor", "fsdp")),
        ("mid_block/resnets_0/conv1/bias", (512,), P("tensor")),
        ("mid_block/resnets_0/conv2/bias", (512,), P()),
        ("mid_block/resnets_0/conv1/kernel", (3, 3, 256, 257), P(None, None, "fsdp")),
        ("step", (), P()),
    ],
)
def test_rules(path, shape, spec):
    assert sharding_of(path, shape, jaxdiff.mesh(data=2, fsdp=2, tensor=2)).spec == spec


def test_the_first_rule_that_matches_counts():
    mesh, shape = jaxdiff.mesh(fsdp=4, tensor=2), (256, 512)
    rules = parse_rule("attn1.*kernel=replicate"), *meshes.RULES
    assert sharding_of(KERNEL, shape, mesh, rules).spec == P()
    assert sharding_of(KERNEL.replace("attn1", "attn2"), shape, mesh, rules).spec == P("fsdp", "tensor")
    rules = parse_rule("attn1=tensor(0)+fsdp(2)"), *meshes.RULES
    assert sharding_of(KERNEL, shape, mesh, rules).spec == P("tensor", "fsdp")
    assert sharding_of(KERNEL, shape, mesh, rules[:1]).spec == P("tensor", "fsdp")
    assert sharding_of("conv/kernel", shape, mesh, rules[:1]).spec == P()  # no rule at all


@pytest.mark.parametrize(
    "text, message",
    [
        ("attn1", "a rule is PATTERN=TACTIC"),
        ("=fsdp", "a rule is PATTERN=TACTIC"),
        ("attn1=fsbp", "unknown tactic 'fsbp': did you mean 'fsdp'"),
        ("attn1=fsdp(x)", "unknown tactic"),
        ("attn1=replicate(2)", "replicate takes no number"),
        ("attn(1=fsdp", "is no regular expression"),
    ],
)
def test_wrong_rules_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_rule(text)


def test_a_rule_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"no array has the pattern 'atn1' of a rule in its path, such as conv/kernel"):
        meshes.check_rules({"conv": {"kernel": np.zeros(3)}}, (parse_rule("atn1=fsdp"), *meshes.RULES))
    meshes.check_rules({"conv": {"kernel": np.zeros(3)}}, (parse_rule("conv=fsdp"), *meshes.RULES))


def test_placed_and_back():
    tree = {"kernel": np.random.default_rng(0).standard_normal((512, 256)).astype(np.float32), "bias": np.arange(3.0)}
    placed = meshes.placed(tree, jaxdiff.mesh(fsdp=8))
    assert {shard.data.shape for shard in placed["kernel"].addressable_shards} == {(64, 256)}
    assert meshes.placed(placed, jaxdiff.mesh(fsdp=8))["kernel"] is placed["kernel"]
    back = meshes.on_host(meshes.placed(placed, jaxdiff.mesh(data=2, fsdp=4)))
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(back))
    assert all((back[name] == tree[name]).all() for name in tree)


def test_the_inside_of_layers_stays_in_a_process():
    """Four processes of two devices each, whose numbers go to and fro."""
    devices = [SimpleNamespace(id=i, process_index=(i // 2 * 3) % 4) for i in range(8)]
    arranged = meshes._arranged((2, 2, 2), devices)
    assert arranged.shape == (2, 2, 2)
    assert all(len({device.process_index for device in group}) == 1 for group in arranged.reshape(-1, 2))
    with pytest.raises(ValueError, match="tensor=4 would split layers over processes"):
        meshes._arranged((1, 2, 4), devices)
