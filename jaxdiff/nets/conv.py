"""The convolution, in a form that XLA runs and differentiates fast. Images are NHWC."""

import functools
from typing import NamedTuple

from jax import lax

from jaxdiff.nets import winograd
from jaxdiff.nets.bilinear import bilinear
from jaxdiff.types import Array

NHWC = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]


class Window(NamedTuple):
    """The static part of a convolution: height and width of image and kernel, stride, padding."""

    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    padding: Padding


def conv2d(x: Array, kernel: Array, stride: int = 1, padding: Padding = ((1, 1), (1, 1))) -> Array:
    """Convolution in NHWC, as fast to differentiate inside `lax.scan` as outside of it.

    XLA on the CPU has a fast path for convolutions in NHWC/HWIO order and brings others into that order only at the top
    level of a program. The derivatives that jax makes are in another order, and inside a loop they run many times slower;
    so here both gradients are written as NHWC convolutions again, and derivatives of any order, in forward and in reverse
    mode, consist of these (see `nets.bilinear`). Large 3x3 convolutions are done on the CPU by `nets.winograd`, derivatives
    too.

    Args:
      x: [B, H, W, C].
      kernel: [KH, KW, C, O].
      stride: static step in both directions.
      padding: static zeros before and after, in each direction.

    Returns:
      [B, H', W', O].

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.nets.conv import conv2d
        >>> x, kernel = jnp.ones([1, 4, 4, 2]), jnp.ones([3, 3, 2, 5])
        >>> y, dy = jax.jvp(lambda x: conv2d(x, kernel), (x,), (2 * x,))
        >>> y.shape, bool((dy == 2 * y).all())
        ((1, 4, 4, 5), True)
    """
    return _product("y", x, kernel, window=Window(x.shape[1:3], kernel.shape[:2], stride, padding))


def _conv2d(x, kernel, window):
    return _conv(x, kernel, window.padding, window.stride)


def _input_grad(kernel, y, window):
    """The output's gradient y convolved with the flipped kernel."""
    pads = []
    for (before, _), size, k, out in zip(window.padding, window.image, window.kernel, y.shape[1:3], strict=True):
        spread = (out - 1) * window.stride + 1
        pads.append((k - 1 - before, size + before - spread))
    return _conv(y, kernel[::-1, ::-1].transpose(0, 1, 3, 2), pads, x_dilation=window.stride)


def _kernel_grad(x, y, window):
    """x as [C, H, W, B] convolved with the output's gradient y as [H, W, B, O].

    The operand in front is unfolded into patches, so it is the one with fewer channels: where C > O the two change places
    and the result comes out flipped.
    """
    swap = window.stride == 1 and x.shape[-1] > y.shape[-1]
    pads = []
    for (before, _), size, k, out in zip(window.padding, window.image, window.kernel, y.shape[1:3], strict=True):
        spread = (out - 1) * window.stride + 1
        pads.append((k - 1 - before, size + before - spread) if swap else (before, k - 1 + spread - size - before))
    if swap:
        flipped = _conv(y.transpose(3, 1, 2, 0), x.transpose(1, 2, 0, 3), pads)
        return flipped[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    gradient = _conv(x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3), pads, kernel_dilation=window.stride)
    return gradient.transpose(1, 2, 0, 3)


def _conv(x, kernel, padding, stride=1, x_dilation=1, kernel_dilation=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        lhs_dilation=(x_dilation, x_dilation),
        rhs_dilation=(kernel_dilation, kernel_dilation),
        dimension_numbers=NHWC,
    )


MAPS = {"x": _input_grad, "kernel": _kernel_grad, "y": _conv2d}
FAST = {"x": winograd.conv_input_grad, "kernel": winograd.conv_kernel_grad, "y": winograd.conv}
AXES = {"x": {"B": 0, "C": 3}, "kernel": {"C": 2, "O": 3}, "y": {"B": 0, "O": 3}}


def _program(out):
    """The map to `out`, by `nets.winograd` on a CPU where it can do such a convolution."""
    operands = [name for name in MAPS if name != out]

    def run(first, second, window):
        arrays = zip(operands, (first, second), strict=True)
        size = {letter: x.shape[axis] for name, x in arrays for letter, axis in AXES[name].items()}
        direct = functools.partial(MAPS[out], window=window)
        shapes = (1, *window.image, size["C"]), (*window.kernel, size["C"], size["O"])
        if not winograd.applies(*shapes, first.dtype, window.stride, window.padding):
            return direct(first, second)
        return lax.platform_dependent(first, second, cpu=FAST[out], default=direct)

    return run


_product = bilinear("conv2d", MAPS, AXES, {out: _program(out) for out in MAPS}, materialize=("x", "y"))
