"""The convolution, in a form that XLA runs and differentiates fast. Images are NHWC."""

import functools

import jax
from jax import lax

from jaxdiff.nets import winograd
from jaxdiff.types import Array
from jaxdiff.xla import materialized

NHWC = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x: Array, kernel: Array, stride: int = 1, padding: Padding = ((1, 1), (1, 1))) -> Array:
    """Convolution in NHWC, as fast to differentiate inside `lax.scan` as outside of it.

    XLA on the CPU has a fast path for convolutions in NHWC/HWIO order and brings others into that order only at the top
    level of a program. The derivatives that jax makes are in another order, and inside a loop they run many times slower;
    so here both are written as NHWC convolutions again, by `conv2d` itself (hence reverse-mode of any order works;
    forward-mode, `jax.jvp`, does not). Large 3x3 convolutions are done on the CPU by `nets.winograd`, derivatives too.

    Args:
      x: [B, H, W, C].
      kernel: [KH, KW, C, O].
      stride: static step in both directions.
      padding: static zeros before and after, in each direction.

    Returns:
      [B, H', W', O].
    """
    direct = functools.partial(_conv, padding=padding, stride=stride)
    return _either(winograd.conv, direct, x.shape, kernel.shape, stride, padding)(x, kernel)


def _either(fast, direct, x_shape, kernel_shape, stride, padding):
    """`fast` on a CPU if it can do such a convolution, else `direct`."""

    def call(*operands):
        if not winograd.applies(x_shape, kernel_shape, operands[0].dtype, stride, padding):
            return direct(*operands)
        return lax.platform_dependent(*operands, cpu=fast, default=direct)

    return call


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


def _conv2d_forward(x, kernel, stride, padding):
    x = materialized(x)
    return conv2d(x, kernel, stride, padding), (x, kernel)


def _conv2d_backward(stride, padding, residuals, g):
    x, kernel = residuals
    # Together, so that what the forward pass made of x is made anew and not kept in memory until now.
    x, g = materialized((x, g))
    settings = stride, padding
    return conv2d_input_grad(g, kernel, x.shape, *settings), conv2d_kernel_grad(x, g, kernel.shape, *settings)


conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def conv2d_input_grad(g: Array, kernel: Array, x_shape: tuple, stride: int, padding: Padding) -> Array:
    """Gradient of `conv2d` in x [B, H, W, C]: the output's gradient g convolved with the flipped kernel."""
    pads = []
    for (before, _), size, k, out in zip(padding, x_shape[1:3], kernel.shape[:2], g.shape[1:3], strict=True):
        spread = (out - 1) * stride + 1
        pads.append((k - 1 - before, size + before - spread))

    def direct(g, kernel):
        flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        return conv2d(g, flipped, 1, tuple(pads)) if stride == 1 else _conv(g, flipped, pads, x_dilation=stride)

    return _either(winograd.conv_input_grad, direct, x_shape, kernel.shape, stride, padding)(g, kernel)


def conv2d_kernel_grad(x: Array, g: Array, kernel_shape: tuple, stride: int, padding: Padding) -> Array:
    """Gradient of `conv2d` in the kernel [KH, KW, C, O]: x as [C, H, W, B] convolved with the output's gradient g as
    [H, W, B, O].

    The operand in front is unfolded into patches, so it is the one with fewer channels: where C > O the two change places
    and the result comes out flipped.
    """
    settings = kernel_shape, stride, padding
    direct = functools.partial(_kernel_grad, settings=settings)
    return _either(winograd.conv_kernel_grad, direct, x.shape, *settings)(x, g)


def _kernel_grad(x, g, settings):
    kernel_shape, stride, padding = settings
    swap = stride == 1 and kernel_shape[2] > kernel_shape[3]
    pads = []
    for (before, _), size, k, out in zip(padding, x.shape[1:3], kernel_shape[:2], g.shape[1:3], strict=True):
        spread = (out - 1) * stride + 1
        pads.append((k - 1 - before, size + before - spread) if swap else (before, k - 1 + spread - size - before))
    if swap:
        dk = conv2d(g.transpose(3, 1, 2, 0), x.transpose(1, 2, 0, 3), 1, tuple(pads))
        return dk[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    x, g = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
    dk = conv2d(x, g, 1, tuple(pads)) if stride == 1 else _conv(x, g, pads, kernel_dilation=stride)
    return dk.transpose(1, 2, 0, 3)
