"""Models whose weights are split over a mesh as they are read."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tiny import tiny_latent, write_ends

import jaxdiff
from jaxdiff import model as models
from jaxdiff.model import Model
from jaxdiff.model.params import param_shapes
from jaxdiff.nets import attention, flash

DRAWN = {"num": 8, "seed": 3, "steps": 3, "guidance": 2.0}


def specs(tree):
    return {x.sharding.spec for x in jax.tree.leaves(tree)}


def test_images_are_those_of_a_copy_on_each_device():
    whole = jaxdiff.load("digits")
    split = jaxdiff.load("digits", mesh=jaxdiff.mesh(fsdp=4, tensor=2))
    assert specs(whole.params) == {PartitionSpec()} and len(specs(split.params)) > 3
    kernel = split.params["mid_block"]["resnets_0"]["conv1"]["kernel"]
    assert kernel.addressable_data(0).size == kernel.size / 8
    one, other = (jaxdiff.generate(model, labels=[7, 3], **DRAWN) for model in (whole, split))
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_submodels_and_adapters_are_split_too(tmp_path):
    codec, clip = (models.load(str(path)) for path in write_ends(tmp_path))
    config, values = tiny_latent("vae", "clip"), np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.3 * values.standard_normal(x.shape).astype(np.float32), param_shapes(config))
    submodels = {"codec": codec, "text_encoder": models.text_transformer_of(clip)}
    base = Model(config=config, params=params, submodels=submodels)
    models.write(tmp_path / "base.safetensors", base, "float32")
    mesh = jaxdiff.mesh(data=4, tensor=2)
    split = jaxdiff.load(str(tmp_path / "base.safetensors"), mesh=mesh)
    for tree in (split.params, *(one.params for one in split.submodels.values())):
        assert all(x.sharding.mesh == mesh for x in jax.tree.leaves(tree))
    attention = "down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q/kernel".split("/")
    kernel = split.params
    for name in attention:
        kernel = kernel[name]
    assert kernel.sharding.spec == PartitionSpec(None, "tensor")
    one, other = (
        jaxdiff.generate(model, "a red seven", **DRAWN)
        for model in (models.load(str(tmp_path / "base.safetensors")), split)
    )
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


@pytest.mark.parametrize(
    "axes", [None, {"data": 2, "fsdp": 4}, {"data": 4, "tensor": 2}], ids=["copies", "fsdp", "tensor"]
)
def test_kernels_are_split_over_the_devices(monkeypatch, axes):
    """Each device gets its own images, and heads, of attention that the compiler could not split."""
    seen = set()

    def on_device(q, k, v):
        seen.add(q.shape[:1] + q.shape[2:3])
        return attention.attention(q, k, v)

    model = jaxdiff.load("digits", mesh=axes and jaxdiff.mesh(**axes))
    model = model.replace(
        config=dataclasses.replace(model.config, net=dataclasses.replace(model.config.net, attention_kernel="auto"))
    )
    heads = model.params["mid_block"]["attentions_0"]["to_q"]["kernel"].shape[-1] // model.config.net.head_dim
    drawn = {"labels": [7], "num": 16, "steps": 2, "guidance": 2.0}
    wanted = jaxdiff.generate(jaxdiff.load("digits"), **drawn)
    jax.clear_caches()
    monkeypatch.setattr(attention, "fastest", lambda *args: "flash")
    monkeypatch.setattr(flash, "FEWEST", 1)
    monkeypatch.setattr(flash, "_on_device", on_device)
    found = jaxdiff.generate(model, **drawn)
    jax.clear_caches()
    tensor = (axes or {}).get("tensor", 1)
    assert {rows for rows, _ in seen} == {2 * 16 * tensor // 8} and {h for _, h in seen} == {heads // tensor}
    assert np.abs(wanted.astype(int) - found.astype(int)).max() <= 1


def test_mistakes():
    with pytest.raises(ValueError, match="`mesh` must have the axes data, fsdp, tensor, not x"):
        jaxdiff.load("digits", mesh=jax.sharding.Mesh(jax.devices(), ("x",)))
    with pytest.raises(ValueError, match="`mesh`='fsdp=8' must be of type Mesh"):
        jaxdiff.load("digits", mesh="fsdp=8")
    with pytest.raises(ValueError, match="leave out `placement`"):
        jaxdiff.load("digits", placement=jax.devices()[0], mesh=jaxdiff.mesh())
