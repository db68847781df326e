"""Forward-mode derivatives: of the layers written in another form beside the plain ones, and of every network."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.tree_util import Partial

from jaxdiff.nets import winograd
from jaxdiff.nets.attention import attend, attention
from jaxdiff.nets.autoencoder import AutoencoderConfig
from jaxdiff.nets.classifier import Classifier
from jaxdiff.nets.clip import CLIP, CLIPConfig, TextConfig, VisionConfig
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.nets.conv import conv2d
from jaxdiff.nets.critic import PatchCritic
from jaxdiff.nets.inception import InceptionV3
from jaxdiff.nets.kl_vae import KLAutoencoder
from jaxdiff.nets.unet import UNet, UNetConfig
from jaxdiff.nets.vq_vae import VQAutoencoder, quantize
from jaxdiff.types import Cond

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def plain_conv(x, kernel, stride=1, padding=((1, 1), (1, 1))):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def assert_near(ours, plain, tolerance=1e-5):
    """Equal to a share of the largest value of each array."""
    for got, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        chex.assert_trees_all_close(got, wanted, atol=tolerance * max(1.0, float(jnp.abs(wanted).max())), rtol=0)


def tangents(f):
    """(args, directions) -> tangent of f by jvp and by linearize, gradient of a tangent, tangent of a gradient."""

    def run(args, directions):
        pushed = lambda *args: jax.jvp(f, args, directions)[1]
        every = tuple(range(len(args)))
        square = lambda f: jax.grad(lambda *args: (f(*args) ** 2).sum(), every)
        forward_over_reverse = jax.jvp(square(f), args, directions)[1]
        return pushed(*args), jax.linearize(f, *args)[1](*directions), square(pushed)(*args), forward_over_reverse

    return run


CONVS = {
    "3x3": (5, 4, 3, 1, ((1, 1), (1, 1))),
    "fewer channels out": (6, 2, 3, 1, ((1, 1), (1, 1))),
    "strided": (4, 6, 3, 2, ((1, 1), (1, 1))),
    "strided, DDPM's padding": (6, 4, 3, 2, ((0, 1), (0, 1))),
    "2x2, uneven": (6, 4, 2, 1, ((1, 0), (0, 1))),
    "1x1 strided": (3, 5, 1, 2, ((0, 0), (0, 0))),
    "winograd": (64, 66, 3, 1, ((1, 1), (1, 1))),
}


@pytest.mark.parametrize("C, O, size, stride, padding", CONVS.values(), ids=CONVS)
def test_tangents_of_conv2d_are_those_of_the_plain_convolution(C, O, size, stride, padding):
    args, directions = ((normal(2, 8, 8, C), normal(size, size, C, O) / C**0.5) for _ in range(2))
    assert winograd.applies(args[0].shape, args[1].shape, args[0].dtype, stride, padding) == (C == 64)
    bound = lambda conv: lambda x, kernel: conv(x, kernel, stride, padding)
    ours, plain = (jax.jit(tangents(bound(conv)))(args, directions) for conv in (conv2d, plain_conv))
    assert_near(ours, plain)


@pytest.mark.parametrize("axes", [(0, None, None), (None, 1, 0), (1, 0, None), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("C, O, stride", [(3, 2, 1), (2, 3, 2), (64, 64, 1)])
def test_derivatives_of_conv2d_under_vmap_are_those_of_the_plain_convolution(C, O, stride, axes):
    """Of image, kernel and direction some or all are mapped."""
    x, kernel, direction = (1, 8, 8, C), (3, 3, C, O), (1, 8, 8, C)
    put = lambda shape, axis: shape if axis is None else (*shape[:axis], 2, *shape[axis:])
    args = [normal(*put(shape, axis)) / C**0.5 for shape, axis in zip((x, kernel, direction), axes, strict=True)]

    def derivatives(conv):
        def run(x, kernel, direction):
            y, pull = jax.vjp(lambda *args: conv(*args, stride), x, kernel)
            return jax.jvp(lambda x: conv(x, kernel, stride), (x,), (direction,)), pull(y)

        return jax.jit(jax.vmap(run, axes))

    assert_near(derivatives(conv2d)(*args), derivatives(plain_conv)(*args))


def test_tangents_of_conv2d_through_scan_are_those_of_the_plain_convolution():
    def through(conv):
        return lambda x, kernel: lax.scan(lambda x, _: (jnp.sin(conv(x, kernel)), None), x, length=3)[0]

    args, directions = ((normal(2, 5, 4, 3), 0.2 * normal(3, 3, 3, 3)) for _ in range(2))
    ours, plain = (jax.jit(tangents(through(conv)))(args, directions) for conv in (conv2d, plain_conv))
    assert_near(ours, plain, 1e-4)


@pytest.mark.parametrize("C, platform", [(3, "cpu"), (64, "cpu"), (64, "tpu")])
def test_derivatives_of_every_kind_are_convolutions_of_the_fast_order_or_winograd_s(C, platform):
    """Inside of loops XLA on the CPU runs those of any other order many times slower."""
    args = (normal(1, 8, 8, C), normal(3, 3, C, C))
    text = jax.jit(tangents(conv2d)).trace(args, args).lower(lowering_platforms=(platform,)).as_text()
    fast = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    orders = re.findall(r"stablehlo\.convolution.* dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\]),", text)
    assert set(orders) == (set() if (C, platform) == (64, "cpu") else {fast})


@pytest.mark.parametrize(
    "dtype, tolerance, kernel",
    [
        ("float32", 1e-5, "plain"),
        ("bfloat16", 0.03, "plain"),
        ("float16", 0.004, "plain"),
        ("float32", 1e-5, "xla"),
        ("bfloat16", 0.03, "xla"),
    ],
)
def test_tangents_of_attention_are_those_of_softmax(dtype, tolerance, kernel):
    def softmax(q, k, v):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)

    shapes = (2, 16, 2, 8), (2, 24, 2, 8), (2, 24, 2, 8)
    args, directions = (tuple(jnp.asarray(normal(*shape), dtype) for shape in shapes) for _ in range(2))
    low = jax.jit(tangents(lambda *qkv: attend(*qkv, kernel)))(args, directions)
    assert {x.dtype for x in jax.tree.leaves(low)} == {jnp.dtype(dtype)}
    as_float32 = functools.partial(jax.tree.map, lambda x: x.astype(jnp.float32))
    for got, wanted in zip(
        jax.tree.leaves(as_float32(low)),
        jax.tree.leaves(jax.jit(tangents(softmax))(as_float32(args), as_float32(directions))),
        strict=True,
    ):
        assert jnp.linalg.norm(got - wanted) < tolerance * jnp.linalg.norm(wanted)


@pytest.mark.parametrize("axes", [(0, None, None), (None, 0, 1), (0, 1, 2)], ids=str)
def test_derivatives_of_attention_in_16_bits_under_vmap_are_those_one_by_one(axes):
    put = lambda shape, axis: shape if axis is None else (*shape[:axis], 3, *shape[axis:])
    shapes = (2, 5, 2, 8), (2, 7, 2, 8), (2, 7, 2, 8)
    q, k, v = (jnp.asarray(normal(*put(*pair)), jnp.bfloat16) for pair in zip(shapes, axes, strict=True))

    def derivatives(q, k, v):
        return jax.jvp(attention, (q, k, v), (q, k, v)), jax.vjp(attention, q, k, v)[1](q)

    one = lambda i: [x if axis is None else x.take(i, axis) for x, axis in zip((q, k, v), axes, strict=True)]
    wanted = jax.tree.map(lambda *of: jnp.stack(of), *map(jax.jit(lambda i: derivatives(*one(i))), range(3)))
    got = jax.jit(jax.vmap(derivatives, axes))(q, k, v)
    assert_near(*(jax.tree.map(lambda x: x.astype(jnp.float32), x) for x in (got, wanted)), 0.01)


SMALL = UNetConfig(out_channels=2, channels=(4,), blocks=1, attention=(), groups=2)
RICH = dataclasses.replace(
    SMALL,
    channels=(4, 8),
    context_dim=6,
    head_dim=4,
    linear_projection=True,
    image_channels=1,
    patch=2,
    time_mode="scale_shift",
    context_mode="multiply",
    num_classes=3,
    vector_dim=2,
    dropout=0.5,
    remat=True,
)
X, T, PICTURE = normal(2, 8, 8, 2), np.array([3, 700]), normal(2, 16, 16, 2)
COND = Cond(
    label=np.array([0, 3]), vector=normal(2, 2), context=normal(2, 5, 6), image=normal(2, 8, 8, 1),
    context_mask=np.array([[1, 1, 1, 0, 0], [1] * 5], bool), attention_edit=Partial(lambda p, site: p**2),
)  # fmt: skip
KEYS = jax.vmap(jax.random.key)(jnp.arange(2))
CONTROL = Cond(control=normal(2, 16, 16, 3))
CODEC = AutoencoderConfig(image_channels=2, channels=(4, 4), blocks=1, latent_channels=3, groups=2)
TOWERS = CLIPConfig(
    TextConfig(width=8, layers=1, heads=2, vocabulary=30, length=7, end_token=29),
    VisionConfig(width=8, layers=1, heads=2, size=16, patch=4, stem=(8, 8), mean=(0.0, 0.1), std=(1.0, 2.0)),
    projection=6,
)
TOKENS = np.array([[1, 29, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 29]])


NETWORKS = {  # (network, arguments before the image, the image, arguments after it)
    "U-Net": (UNet(SMALL), (), X, (T,)),
    "U-Net with everything": (UNet(RICH), (), X, (T, COND, KEYS)),
    "ControlNet": (ControlNet(ControlConfig(SMALL, embedding=(4, 6))), (), X, (T, CONTROL)),
    "classifier": (Classifier(SMALL), (), X, (T,)),
    "KL autoencoder": (KLAutoencoder(CODEC), (), X, ()),
    "VQ autoencoder": (VQAutoencoder(dataclasses.replace(CODEC, mid_attention=False)), (), X, ()),
    "CLIP": (CLIP(TOWERS), (TOKENS,), PICTURE, ()),
    "critic": (PatchCritic(4, layers=1, groups=2), (), X, ()),
}


def problem(net, before, x, after):
    """f(params, x), a list of arrays; parameters of which none is zero, and x; a direction for both."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *before, x, *after)
    rng = np.random.default_rng(0)
    shaken = lambda: jax.tree.map(lambda s: 0.2 * rng.standard_normal(s.shape).astype(np.float32), shapes)
    f = lambda params, x: jax.tree.leaves(net.apply(params, *before, x, *after))
    return f, (shaken(), x), (shaken(), rng.standard_normal(x.shape).astype(np.float32))


@pytest.mark.parametrize("name", NETWORKS)
def test_tangents_of_a_network_are_its_differences(name):
    """Parameters and image move together along a line; differences of fourth order."""
    f, at, direction = problem(*NETWORKS[name])
    h = 1e-3
    moved = lambda i: jax.tree.map(lambda x, d: x + i * h * d, at, direction)
    run = jax.jit(lambda points: lax.map(lambda i: jax.jvp(f, moved(i), direction), points))
    for y, tangent in zip(*run(jnp.arange(-2.0, 3.0)), strict=True):
        difference = (y[0] - 8 * y[1] + 8 * y[3] - y[4]) / (12 * h)
        assert jnp.linalg.norm(tangent[2] - difference) < 2e-3 * jnp.linalg.norm(difference)


def test_tangents_of_quantized_latents_go_straight_through():
    z, direction = normal(2, 3, 4), normal(2, 3, 4)
    chex.assert_trees_all_equal(jax.jvp(lambda z: quantize(normal(9, 4), z)[0], (z,), (direction,))[1], direction)


def test_inception_has_tangents():
    net, images = InceptionV3(), jnp.zeros([1, 75, 75, 3])
    params = jax.eval_shape(net.init, jax.random.key(0), images)
    tangents = jax.eval_shape(lambda params, x: jax.jvp(net.apply, (params, x), (params, x))[1], params, images)
    assert [x.shape for x in tangents] == [(1, 2048), (1, 1008)]


def test_gradient_of_a_unet_s_tangent_is_the_tangent_of_its_gradient():
    """Consistency models and mean flows train by such gradients."""
    f, (params, x), (_, dx) = problem(*NETWORKS["U-Net"])
    push = lambda f: jax.jvp(f, (x,), (dx,))[1]
    loss = lambda params, x: (f(params, x)[0] ** 2).sum()
    of_tangent = jax.jit(jax.grad(lambda params: push(lambda x: loss(params, x))))(params)
    of_gradient = jax.jit(lambda params: push(lambda x: jax.grad(loss)(params, x)))(params)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(of_gradient))
    assert scale > 1
    chex.assert_trees_all_close(of_tangent, of_gradient, atol=1e-5 * scale)


def test_tangents_of_a_unet_under_vmap_are_those_one_by_one():
    f, at, _ = problem(*NETWORKS["U-Net"])
    directions = jax.tree.map(lambda x: normal(2, *x.shape), at)
    push = jax.linearize(f, *at)[1]
    together, one_by_one = jax.jit(lambda d: (jax.vmap(push)(*d), lax.map(lambda d: push(*d), d)))(directions)
    assert_near(together, one_by_one)


def test_tangents_of_a_unet_in_bfloat16_are_near_those_of_float32():
    _, at, direction = problem(*NETWORKS["U-Net"])

    def tangent(dtype):
        net = UNet(dataclasses.replace(SMALL, dtype=dtype))
        return jax.jit(lambda: jax.jvp(lambda params, x: net.apply(params, x, T), at, direction)[1])()

    got, wanted = tangent("bfloat16"), tangent("float32")
    assert got.dtype == jnp.float32
    assert 0 < jnp.linalg.norm(got - wanted) < 0.03 * jnp.linalg.norm(wanted)
