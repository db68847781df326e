"""The control branch: diffusers' numbers with the same weights, nothing at first, and pictures that do not fit."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import load_golden

from jaxdiff.nets.classifier import Encoder
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.nets.unet import UNet, UNetConfig
from jaxdiff.types import Cond

SMALL = UNetConfig(
    out_channels=2,
    channels=(8, 16),
    blocks=1,
    attention=(0,),
    groups=4,
    eps=1e-5,
    flip_sin_to_cos=True,
    freq_shift=0.0,
    downsample_padding=1,
    context_dim=6,
)
PUBLISHED = {
    "stable_diffusion_1": dataclasses.replace(SMALL, num_heads=2),
    "stable_diffusion_2": dataclasses.replace(SMALL, head_dim=8, linear_projection=True, image_channels=3),
}
PLAIN = dataclasses.replace(SMALL, attention=(), mid_attention=False, context_dim=0)
CONFIG = ControlConfig(PLAIN, embedding=(4, 6, 10))
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((2, 8, 8, 2)).astype(np.float32), np.array([3, 700])
PICTURE = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
last = lambda x: x.transpose(0, 2, 3, 1)  # NCHW -> NHWC


def shaken(module, cond):
    """Parameters with nothing left at zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), X, T, cond)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_both_are_diffusers_with_the_same_weights(name):
    (base, base_params), (golden, params) = load_golden(f"unet_{name}"), load_golden(f"controlnet_{name}")
    config = ControlConfig(PUBLISHED[name], embedding=(4, 6, 10))
    x, image = np.split(last(base["x"]), [2], axis=-1)
    cond = Cond(context=base["context"], image=image if config.unet.image_channels else None)
    told = cond._replace(control=last(golden["picture"]))
    net = ControlNet(config)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, base["t"], told)
    chex.assert_trees_all_equal_shapes(params, shapes)  # the same names, nothing missing or left over
    residuals = jax.jit(net.apply)(params, x, base["t"], told)
    wanted = [last(golden[f"full/{i}"]) for i in range(len(residuals))]
    assert f"full/{len(residuals)}" not in golden and min(np.abs(r).max() for r in wanted) > 0.1
    chex.assert_trees_all_close(residuals, tuple(wanted), atol=1e-4)
    y = jax.jit(UNet(config.unet).apply)(base_params, x, base["t"], cond._replace(residuals=residuals))
    assert np.abs(golden["full/y"] - base["y"]).max() > 0.1
    chex.assert_trees_all_close(y, last(golden["full/y"]), atol=1e-4)


def test_says_nothing_at_first_whatever_it_is_shown():
    net, cond = ControlNet(CONFIG), Cond(control=PICTURE)
    residuals, variables = jax.jit(net.init_with_output)(jax.random.key(0), X, T, cond)
    assert not any(np.any(r) for r in residuals)
    kernels = {path: np.any(v) for path, v in flatten_dict(variables["params"], sep="/").items() if "kernel" in path}
    zero = {path for path, something in kernels.items() if not something and "resnets" not in path}
    names = ["controlnet_mid_block", "controlnet_cond_embedding/conv_out"]
    assert zero == {f"{name}/kernel" for name in [*names, *(f"controlnet_down_blocks_{i}" for i in range(4))]}


def test_bytes_are_parts_of_255():
    net = ControlNet(CONFIG)
    run = jax.jit(net.apply)
    params = shaken(net, Cond(control=PICTURE))
    said = run(params, X, T, Cond(control=PICTURE))
    chex.assert_trees_all_close(run(params, X, T, Cond(control=PICTURE.astype(np.float32) / 255)), said, atol=1e-5)
    other = run(params, X, T, Cond(control=np.stack([PICTURE[0], 255 - PICTURE[1]])))
    for after, before in zip(other, said):  # a picture is of its row
        np.testing.assert_allclose(after[0], before[0], atol=1e-5)
        assert np.abs(after[1] - before[1]).max() > 1e-3


@pytest.mark.parametrize(
    "options, embedding, picture",
    [
        ({}, (4,), (8, 8, 3)),
        ({"patch": 2}, (4, 6), (8, 8, 3)),
        ({"blocks": 3, "channels": (8, 8, 8)}, (4, 6), (16, 16, 3)),
        ({"dtype": "bfloat16"}, (4,), (8, 8, 3)),
    ],
    ids=str,
)
def test_residuals_are_of_the_shapes_that_the_network_adds(options, embedding, picture):
    config = ControlConfig(dataclasses.replace(PLAIN, **options), embedding=embedding)
    assert config.picture_shape(X.shape) == picture
    cond = Cond(control=jnp.zeros((2, *picture)))
    residuals, _ = jax.eval_shape(ControlNet(config).init_with_output, jax.random.key(0), X, T, cond)
    assert {r.dtype for r in residuals} == {jnp.dtype(config.unet.dtype)}
    unet = UNet(config.unet)
    y, _ = jax.eval_shape(unet.init_with_output, jax.random.key(0), X, T, Cond(residuals=residuals))
    assert y.shape == X.shape and y.dtype == jnp.float32


def test_a_residual_is_added_to_its_place_alone():
    """The finest skip reaches the output by the last block, the bottom by all of the way up: each by its own."""
    unet = UNet(PLAIN)
    shapes = [(2, 8, 8, 8), (2, 8, 8, 8), (2, 4, 4, 8), (2, 4, 4, 16), (2, 4, 4, 16)]
    none = tuple(np.zeros(shape, np.float32) for shape in shapes)
    params, run = shaken(unet, None), jax.jit(unet.apply)
    plain = run(params, X, T, Cond(residuals=none))
    np.testing.assert_allclose(run(params, X, T), plain, atol=1e-5)
    found = []
    for i in range(len(shapes)):
        some = tuple(r + (i == j) for j, r in enumerate(none))
        found.append(run(params, X, T, Cond(residuals=some)))
        assert np.abs(found[-1] - plain).max() > 1e-3
    assert min(np.abs(a - b).max() for i, a in enumerate(found) for b in found[:i]) > 1e-3


def refused(module, cond, words):
    with pytest.raises(ValueError, match=words) as error:
        jax.eval_shape(module.init, jax.random.key(0), X, T, cond)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "cond, words",
    [
        (None, r"needs a picture: cond.control \(2, 32, 32, 3\)"),
        (Cond(control=PICTURE[:, :16]), r"needs cond.control \(2, 32, 32, 3\), and this one is \(2, 16, 32, 3\)"),
        (Cond(control=PICTURE[..., :1]), r"and this one is \(2, 32, 32, 1\)"),
        (Cond(control=PICTURE[:1]), r"and this one is \(1, 32, 32, 3\)"),
        (Cond(control=PICTURE.astype(np.int32)), "float in .0, 1. or uint8, not int32"),
        (Cond(control=PICTURE, control_scale=jnp.ones(2)), "takes no control_scale"),
        (Cond(control=PICTURE, residuals=(X,)), "takes no residuals"),
        (Cond(control=PICTURE, label=T), "takes no label"),
    ],
)
def test_pictures_and_conditions_that_do_not_fit_are_refused(cond, words):
    refused(ControlNet(CONFIG), cond, words)


def test_what_a_plain_network_refuses():
    refused(UNet(PLAIN), Cond(control=PICTURE), "this network takes no control: ")
    refused(UNet(PLAIN), Cond(residuals=(X, X)), "needs 5 cond.residuals, .* and these are 2")
    wrong = (np.zeros((2, 8, 8, 8)),) * 5
    refused(
        UNet(PLAIN), Cond(residuals=wrong), r"needs cond.residuals\[2\] \(2, 4, 4, 8\), and this one is \(2, 8, 8, 8\)"
    )
    refused(Encoder(PLAIN), Cond(residuals=wrong), "this network takes no residuals: ")


@pytest.mark.parametrize("options", [{"embedding": ()}, {"embedding": (4, 0)}, {"picture_channels": 0}])
def test_shapes_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        ControlConfig(PLAIN, **options)
